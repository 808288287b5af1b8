"""Settings of the registries that are mirrored, and the well-known ones."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from mirror.domain.routing import Table
from mirror.settings.fields import (
    AccountName,
    Endpoint,
    Glob,
    Helper,
    Host,
    HostOrNetwork,
    NotEmpty,
    ProxyUrl,
    ReadableFile,
    Secret,
)
from mirror.settings.policy import Policy
from mirror.settings.section import Section

# What each well-known registry needs beyond `https://<name>`.
BUILTIN: Final[Mapping[str, Mapping[str, object]]] = {
    "docker.io": {
        "endpoints": ["https://registry-1.docker.io"],
        "aliases": ["index.docker.io", "registry-1.docker.io"],
        "realms": ["auth.docker.io"],
    },
    "ghcr.io": {},
    "quay.io": {},
    "registry.k8s.io": {},
    "gcr.io": {},
    "mcr.microsoft.com": {},
    "public.ecr.aws": {},
    "nvcr.io": {},
}

# No YAML key can be written like this: the name of an upstream is its key in `upstreams`.
_NOT_A_KEY: Final = "\0name"

_WAYS: Final = (
    "password",
    "password_file",
    "token",
    "token_file",
    "docker_config",
    "helper",
    "cloud",
)


class Credential(Section):
    """One account at an upstream; exactly one way of proving it."""

    name: AccountName = "default"
    """What metrics call the account."""
    repositories: Annotated[tuple[Glob, ...], NotEmpty] = ("**",)
    """Repositories it is used for; the longest matching pattern wins."""
    username: Annotated[str, Field(min_length=1)] | None = None
    """User of `password` or `password_file`."""
    password: Secret | None = None
    """Password or access token of the user; `password_file` keeps it out of this file."""
    password_file: ReadableFile | None = None
    """File with the password."""
    token: Secret | None = None
    """Bearer token that is sent as it is."""
    token_file: ReadableFile | None = None
    """File with the bearer token."""
    docker_config: ReadableFile | None = None
    """Docker's `config.json` that holds the account, or names the helper that does."""
    helper: Helper | None = None
    """Credential helper, such as `docker-credential-gcloud`: on the PATH, or with its path."""
    cloud: Literal["ecr", "gcp", "azure"] | None = None
    """The identity that the machine has at its cloud."""

    @model_validator(mode="after")
    def _proves_itself_once(self) -> Self:
        ways = (getattr(self, name) for name in _WAYS)
        if sum(way is not None for way in ways) != 1:
            raise ValueError(f"give exactly one of {', '.join(_WAYS[:-1])} or {_WAYS[-1]}")
        needs_user = self.password is not None or self.password_file is not None
        if needs_user is not (self.username is not None):
            raise ValueError("username goes with password or password_file")
        return self


class UpstreamTls(Section):
    """How the certificate of an upstream is checked, and which one is shown to it."""

    ca: ReadableFile | None = None
    """PEM file with authorities that are trusted besides those of the system."""
    certificate: ReadableFile | None = None
    """PEM file with the certificate shown to the upstream."""
    key: ReadableFile | None = None
    """PEM file with its private key."""
    insecure: bool = False
    """Accept any certificate: whoever is in between can then read credentials."""

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> Self:
        if (self.certificate is None) is not (self.key is None):
            raise ValueError("certificate and key go together")
        return self


def _list_or_one(schema: dict[str, Any]) -> None:
    several = {"type": schema.pop("type"), "items": schema.pop("items")}
    schema["anyOf"] = [several, several["items"]]


def _without_required(schema: dict[str, Any]) -> None:
    # The name, which is known by then, gives the default of endpoints.
    schema.pop("required")


class Upstream(Section):
    """One mirrored registry."""

    model_config = ConfigDict(json_schema_extra=_without_required)

    name: Annotated[SkipJsonSchema[str], Field(alias=_NOT_A_KEY, exclude=True)] = ""
    endpoints: Annotated[tuple[Endpoint, ...], NotEmpty]
    """URLs of the registry, tried in order; another mirror works too. Default: `https://<name>`."""
    aliases: tuple[Host, ...] = ()
    """Other names of the same registry."""
    hosts: tuple[Host, ...] = ()
    """Host header values that mean this upstream."""
    credentials: Annotated[tuple[Credential, ...], Field(json_schema_extra=_list_or_one)] = ()
    """Accounts, or a single one for all repositories. Default: anonymous."""
    realms: tuple[Host, ...] = ()
    """Hosts allowed as token servers besides the registry's own domain; they may be private."""
    redirects: tuple[HostOrNetwork, ...] = ()
    """Private hosts or networks that redirects may lead to, such as `10.0.0.0/8`."""
    tls: UpstreamTls = UpstreamTls()
    """How its certificate is checked, and which one is shown to it."""
    proxy: ProxyUrl | None = None
    """Proxy on the way there. Default: `HTTPS_PROXY` and `NO_PROXY`."""
    trace_context: bool = False
    """Tell the endpoints by `traceparent` which trace a request belongs to: a mirror of yours."""
    policy: Policy = Policy()
    """Keys of `policy` that differ for this upstream."""

    @classmethod
    def _given_nothing(cls) -> dict[str, object]:
        raise ValueError("there is no such upstream to remove; write {} to add it")

    @field_validator("credentials", mode="before")
    @classmethod
    def _one_is_enough(cls, given: object) -> object:
        return (given,) if isinstance(given, Mapping | Credential) else given

    @field_validator("credentials", mode="after")
    @classmethod
    def _names_differ(cls, credentials: tuple[Credential, ...]) -> tuple[Credential, ...]:
        if len({credential.name for credential in credentials}) != len(credentials):
            raise ValueError("each of several credentials needs a name of its own")
        return credentials


def with_builtin(given: Mapping[str, object], *, add: bool) -> dict[str, object]:
    """Merge *given* with the well-known registries, all of which are added if *add*."""
    merged: dict[str, object] = {name: _entry(name, {}) for name in BUILTIN if add}
    for name, own in given.items():
        if own is None and name in BUILTIN:
            merged.pop(name, None)
        else:
            merged[name] = _entry(name, own) if isinstance(own, Mapping) else own
    return merged


def _entry(name: str, own: Mapping[str, object]) -> dict[str, object]:
    given = {key: value for key, value in own.items() if value is not None}
    return {"endpoints": [f"https://{name}"], **BUILTIN.get(name, {}), **given}


def clashes(upstreams: Mapping[str, Upstream]) -> list[str]:
    """Say which aliases and hosts mean more than one upstream."""
    by_alias = {name: name for name in upstreams}
    by_host: dict[str, str] = {}
    problems = []
    for name, upstream in upstreams.items():
        taken = [other for other in upstream.aliases if by_alias.setdefault(other, name) != name]
        taken += [other for other in upstream.hosts if by_host.setdefault(other, name) != name]
        problems += [f"{other} of {name} already means another upstream" for other in taken]
    return problems


def routing_table(upstreams: Mapping[str, Upstream], default: str) -> Table:
    """Return the closed world: every name and host that means an upstream."""
    names = {name: name for name in upstreams}
    hosts: dict[str, str] = {}
    for name, upstream in upstreams.items():
        names |= dict.fromkeys(upstream.aliases, name)
        hosts |= dict.fromkeys(upstream.hosts, name)
    return Table(names, hosts, default)
