"""Settings of the two listeners and of who may use them."""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from mirror.domain.access import ANONYMOUS, DEFAULT_RULES, WHO, Role, Rule, is_who
from mirror.settings.fields import Duration, Glob, Listen, PositiveDuration, ReadableFile, WebUrl
from mirror.settings.section import Section
from mirror.settings.units import ListenAddress

PLAINTEXT_HINT = (
    "set server.tls, or let server.listen be a loopback address, or, behind something that "
    "brings TLS, set server.auth.allow_plaintext: true"
)


def _who(text: str) -> str:
    if not is_who(text):
        raise ValueError(f"is not {WHO}")
    return text


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
    tls: ServerTls | None = None
    """Certificate of the admin listener; plain HTTP without it."""


class Limits(Section):
    """Limits that keep slow or greedy clients from harming the others."""

    head_seconds: PositiveDuration = 10
    """How long a client may take for a TLS handshake, and for the head of a request."""
    idle_seconds: PositiveDuration = 75
    """How long a connection without a request is kept open."""
    send_stall_seconds: PositiveDuration = 60
    """A client that accepts no byte for so long is disconnected."""
    connections: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Open connections of a listener, and so requests in progress; more are closed at once."""
    per_client: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    """Open connections of one address (of IPv6, one /64), which clients behind one NAT share."""


class AuthFile(Section):
    """A file with users or tokens."""

    file: ReadableFile
    """The file; read again when it changes."""


class Oidc(Section):
    """An identity provider whose tokens are accepted."""

    issuer: WebUrl
    """URL of the issuer."""
    audience: Annotated[str, Field(min_length=1)]
    """Audience a token must be meant for."""
    claims: dict[str, str] = Field(default_factory=dict)
    """Claims a token must carry."""
    username_claim: Annotated[str, Field(min_length=1)] = "sub"
    """Claim with what a rule calls `user:`."""
    groups_claim: Annotated[str, Field(min_length=1)] = "groups"
    """Claim with what a rule calls `group:`."""
    prefix: str = ""
    """Put before both, so that they are not taken for users of another source."""
    ca: ReadableFile | None = None
    """PEM file with authorities that are trusted besides those of the system."""

    @model_validator(mode="after")
    def _is_protected(self) -> Self:
        url = urlsplit(self.issuer)
        if url.scheme != "https" and not ListenAddress(url.hostname or "", 0).is_loopback:
            raise ValueError("an issuer needs https: its keys decide who is let in")
        return self


class KubernetesAuth(Section):
    """Service account tokens, checked by TokenReview."""

    audience: Annotated[str, Field(min_length=1)]
    """Audience a token must be meant for."""
    url: WebUrl = "https://kubernetes.default.svc"
    """URL of the API server."""
    ca: ReadableFile | None = None
    """PEM file with its authority. Default: what is mounted into every Pod."""
    token_file: ReadableFile | None = None
    """File with the mirror's own token for it. Default: what is mounted into every Pod."""


class AuthRule(Section):
    """What somebody may do; what no rule lets is denied."""

    who: Annotated[str, AfterValidator(_who)]
    """`user:NAME`, `group:NAME`, `claim:NAME=VALUE`, `*` (who proves who he is), `anonymous`."""
    pull: tuple[Glob, ...] = ()
    """Patterns over `upstream/repository` that may be pulled."""
    admin: Literal["read", "write"] | None = None
    """What may be done at the admin API."""

    @model_validator(mode="after")
    def _lets_something(self) -> Self:
        if not self.pull and self.admin is None:
            raise ValueError("a rule lets somebody pull something, or gives an admin role")
        if self.admin is not None and self.who == ANONYMOUS:
            raise ValueError("there is no admin role for the anonymous")
        return self

    @property
    def rule(self) -> Rule:
        """The rule as a value to decide by."""
        return Rule(self.who, self.pull, Role.named(self.admin))


class Auth(Section):
    """Who may pull; without it everybody who reaches the listener."""

    challenge: Literal["never", "objects", "ping"] = "objects"
    """Where to ask for credentials; `ping` is what podman and `docker login` need."""
    allow_plaintext: bool = False
    """Accept credentials without TLS on an address that is not loopback."""
    realm: WebUrl | None = None
    """URL of the token endpoint as clients reach it. Default: `/token` at the host they ask."""
    token_ttl_seconds: Annotated[PositiveDuration, Field(ge=60, le=3600)] = 300
    """How long a token of the token endpoint is good for."""
    htpasswd: AuthFile | None = None
    """Users with bcrypt passwords."""
    tokens: AuthFile | None = None
    """Static bearer tokens: lines `name:token` or `name:token:group,group`."""
    oidc: tuple[Oidc, ...] = ()
    """Identity providers."""
    kubernetes: KubernetesAuth | None = None
    """Kubernetes service accounts."""
    rules: tuple[AuthRule, ...] = ()
    """Who may pull what; without any rule, whoever proves who he is may pull everything."""

    @property
    def takes_credentials(self) -> bool:
        """Whether there is something that a caller could show in a header."""
        return bool(self.htpasswd or self.tokens or self.oidc or self.kubernetes)

    @property
    def decisive_rules(self) -> tuple[Rule, ...]:
        """The rules as values to decide by."""
        return tuple(each.rule for each in self.rules) or DEFAULT_RULES


class Server(Section):
    """The registry listener and the admin listener."""

    listen: Listen = ListenAddress("0.0.0.0", 5000)  # noqa: S104 -- a registry serves others
    """Address of the registry API; `:5000` is every address of the machine."""
    admin_listen: Listen = ListenAddress("127.0.0.1", 5001)
    """Address of metrics, health, admin API and dashboard."""
    admin: Admin = Admin()
    """Access to the admin listener."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that serve clients; with more than one, the main process does the rest."""
    shutdown_grace_seconds: Duration = 30
    """How long running downloads may go on after the signal to stop."""
    tls: ServerTls | None = None
    """Certificate of the registry listener; plain HTTP without it."""
    catalog: bool = False
    """List the cached repositories at `/v2/_catalog`."""
    limits: Limits = Limits()
    """Limits that keep slow or greedy clients from harming the others."""
    auth: Auth | None = None
    """Who may pull; without it everybody who reaches the listener."""

    @model_validator(mode="after")
    def _listeners_differ(self) -> Self:
        if self.listen.overlaps(self.admin_listen):
            raise ValueError("listen and admin_listen need different ports")
        return self

    @model_validator(mode="after")
    def _credentials_are_protected(self) -> Self:
        self.check_protection()
        return self

    def check_protection(self) -> None:
        """Raise ValueError if somebody on the way could read what clients show."""
        if self.auth is None or not self.auth.takes_credentials or self.auth.allow_plaintext:
            return
        if self.tls is None and not self.listen.is_loopback:
            raise ValueError(f"auth takes credentials, which anybody could read: {PLAINTEXT_HINT}")
        opens_admin = any(rule.admin for rule in self.auth.rules)
        if opens_admin and self.admin.tls is None and not self.admin_listen.is_loopback:
            raise ValueError(
                "auth.rules open the admin API, and credentials could be read on the way there: "
                "set admin.tls, or let admin_listen be a loopback address"
            )
