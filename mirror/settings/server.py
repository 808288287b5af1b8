"""Settings of the two listeners and of who may use them."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mirror.settings.fields import Duration, Glob, Listen, PositiveDuration, ReadableFile, WebUrl
from mirror.settings.section import Later, Section
from mirror.settings.units import ListenAddress


class ServerTls(Section):
    """Certificate of a listener; read again when the files change."""

    certificate: ReadableFile
    """PEM file with the certificate and its chain."""
    key: ReadableFile
    """PEM file with the private key."""
    client_ca: ReadableFile | None = None
    """PEM file; clients must then show a certificate signed by one of these authorities."""


class Admin(Section):
    """Access to the admin listener."""

    token_file: ReadableFile | None = None
    """File with the token of the admin API, needed unless the listener is on a loopback address."""
    tls: Annotated[ServerTls | None, Later()] = None
    """Certificate of the admin listener; plain HTTP without it."""


class Limits(Section):
    """Limits that keep slow or greedy clients from harming the others."""

    head_seconds: Annotated[PositiveDuration, Later()] = 10
    """How long a client may take to send the head of a request."""
    idle_seconds: PositiveDuration = 75
    """How long a connection without a request is kept open."""
    send_stall_seconds: PositiveDuration = 60
    """A client that accepts no byte for so long is disconnected."""
    connections: Annotated[int, Field(ge=1, le=1_000_000), Later()] = 4096
    """Open connections in all."""
    per_client: Annotated[int, Field(ge=1, le=1_000_000), Later()] = 512
    """Open connections of one client address."""


class AuthFile(Section):
    """A file with users or tokens."""

    file: ReadableFile
    """The file; read again when it changes."""


class Oidc(Section):
    """An identity provider whose tokens are accepted."""

    issuer: WebUrl
    """URL of the issuer."""
    audience: str
    """Audience a token must be meant for."""
    claims: dict[str, str] = Field(default_factory=dict)
    """Claims a token must carry."""


class KubernetesAuth(Section):
    """Service account tokens, checked by TokenReview."""

    audience: str
    """Audience a token must be meant for."""


class AuthRule(Section):
    """What somebody may pull."""

    who: str
    """`user:NAME`, `group:NAME` or `*`."""
    pull: tuple[Glob, ...]
    """Patterns over `upstream/repository`."""


class Auth(Section):
    """Who may pull; without it everybody who reaches the listener."""

    challenge: Literal["never", "objects", "ping"] = "objects"
    """Where to ask for credentials; `ping` is what podman and `docker login` need."""
    allow_plaintext: bool = False
    """Accept credentials without TLS on an address that is not loopback."""
    htpasswd: AuthFile | None = None
    """Users with bcrypt passwords."""
    tokens: AuthFile | None = None
    """Static bearer tokens."""
    oidc: tuple[Oidc, ...] = ()
    """Identity providers."""
    kubernetes: KubernetesAuth | None = None
    """Kubernetes service accounts."""
    rules: tuple[AuthRule, ...] = ()
    """Who may pull what; the first match decides."""


class Server(Section):
    """The registry listener and the admin listener."""

    listen: Listen = ListenAddress("0.0.0.0", 5000)  # noqa: S104 -- a registry serves others
    """Address of the registry API; `:5000` is every address of the machine."""
    admin_listen: Listen = ListenAddress("127.0.0.1", 5001)
    """Address of metrics, health, admin API and dashboard."""
    admin: Admin = Admin()
    """Access to the admin listener."""
    workers: Annotated[int, Field(ge=1, le=256), Later()] = 1
    """Processes that share the port and the cache directory."""
    shutdown_grace_seconds: Duration = 30
    """How long running downloads may go on after the signal to stop."""
    tls: Annotated[ServerTls | None, Later()] = None
    """Certificate of the registry listener; plain HTTP without it."""
    catalog: bool = False
    """List the cached repositories at `/v2/_catalog`."""
    limits: Limits = Limits()
    """Limits that keep slow or greedy clients from harming the others."""
    auth: Annotated[Auth | None, Later()] = None
    """Who may pull; without it everybody who reaches the listener."""

    @model_validator(mode="after")
    def _listeners_differ(self) -> Self:
        if self.listen.overlaps(self.admin_listen):
            raise ValueError("listen and admin_listen need different ports")
        return self
