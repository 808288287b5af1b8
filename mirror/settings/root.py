"""The configuration as a whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from mirror.domain.errors import MirrorError
from mirror.domain.images import parse_pin
from mirror.settings.fields import (
    AnyPath,
    Duration,
    EventName,
    NotEmpty,
    Platform,
    PositiveDuration,
    PositiveSpace,
    ReadableFile,
    Size,
    Space,
    UpstreamName,
    WebUrl,
)
from mirror.settings.policy import DAY_SECONDS, Policy
from mirror.settings.section import Section
from mirror.settings.server import PLAINTEXT_HINT, Server
from mirror.settings.units import GIB, MIB, SizeOrShare
from mirror.settings.upstreams import BUILTIN, Upstream, clashes, routing_table, with_builtin


class Cache(Section):
    """What is kept, where, and how much of it."""

    directory: AnyPath = Path("/var/lib/mirror")
    """Directory of the cache."""
    max_size: PositiveSpace = SizeOrShare(size_bytes=50 * GIB)
    """How much it may hold: a size, or a share of the file system."""
    min_free: Space = SizeOrShare(share=0.05)
    """How much of the file system stays free: a size, or a share."""
    keep_partial_seconds: Duration = DAY_SECONDS
    """How long the beginning of an unfinished download is kept."""
    memory_bytes: Size = 64 * MIB
    """Memory for hot manifests, tags, tokens and links."""


class Fill(Section):
    """Downloads from upstream."""

    abandon: Literal["finish", "stop"] = "finish"
    """What happens to a download that nobody reads any more."""
    range_wait_seconds: Duration = 5
    """A range that the running download would reach later than that is asked for separately."""
    max_concurrent: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Downloads at a time."""
    parallel_ranges: Annotated[int, Field(ge=1, le=64)] = 1
    """Connections for one large blob (from 16 MiB on), for upstreams that are slow on each."""


class Pin(Section):
    """An image that is never evicted, fetched when missing, and kept fresh."""

    image: str
    """The image, such as `docker.io/library/alpine:3.20`; with a digest, the tag stays at it."""
    platforms: tuple[Platform, ...] = ()
    """Platforms that are kept; without any, all of them."""


class Prefetch(Section):
    """Images that are fetched at regular times."""

    images: Annotated[tuple[str, ...], NotEmpty]
    """The images, such as `docker.io/library/alpine:3.20`."""
    every_seconds: PositiveDuration
    """How often, a tenth more or less."""
    platforms: tuple[Platform, ...] = ()
    """Platforms that are fetched; without any, those that the cache serves, else linux/amd64."""
    referrers: bool = False
    """Fetch signatures, SBOMs and attestations, too."""


class Webhook(Section):
    """An address that is told what happens."""

    url: WebUrl
    """Where events are sent."""
    events: tuple[EventName, ...] = ()
    """Which events; without any, all of them."""
    secret_file: ReadableFile | None = None
    """File with the key that events are signed with."""


class Log(Section):
    """What is written to standard error."""

    format: Literal["json", "console"] = "json"
    """One JSON object a line, or text for people, which is also what a terminal gets by default."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important lines that are written."""


def _null_removes(schema: dict[str, Any]) -> None:
    schema["additionalProperties"] = {"anyOf": [schema["additionalProperties"], {"type": "null"}]}


def _check_images(images: list[str], info: ValidationInfo) -> None:
    """Raise ValueError unless all of them are names of images."""
    if not {"upstreams", "default_upstream"} <= set(info.data):
        return  # these have mistakes of their own
    table = routing_table(info.data["upstreams"], info.data["default_upstream"])
    problems = []
    for image in images:
        try:
            parse_pin(image, table)
        except MirrorError as error:
            problems.append(f"{image[:256]!r} does not name an image: {error}")
    if problems:
        raise ValueError("; ".join(problems))


class Settings(Section):
    """The configuration of Mirror."""

    server: Server = Server()
    """The registry listener and the admin listener."""
    cache: Cache = Cache()
    """What is kept, where, and how much of it."""
    fill: Fill = Fill()
    """Downloads from upstream."""
    policy: Policy = Policy()
    """What is served, and how fresh it is: for every upstream that does not say otherwise."""
    builtin_upstreams: bool = True
    """Mirror the well-known registries, too."""
    upstreams: dict[UpstreamName, Upstream] = Field(
        default_factory=dict, validate_default=True, json_schema_extra=_null_removes
    )
    """The mirrored registries by name, merged with the well-known ones; null removes one."""
    default_upstream: str = Field(default="docker.io", validate_default=True)
    """The upstream of requests that name none."""
    pins: tuple[Pin, ...] = ()
    """Images that are never evicted, fetched when missing, and kept fresh."""
    prefetch: tuple[Prefetch, ...] = ()
    """Images that are fetched at regular times."""
    webhooks: tuple[Webhook, ...] = ()
    """Addresses that are told what happens."""
    log: Log = Log()
    """What is written to standard error."""

    @field_validator("upstreams", mode="before")
    @classmethod
    def _add_builtin(cls, given: object, info: ValidationInfo) -> object:
        if not isinstance(given, Mapping):
            return given
        return with_builtin(given, add=bool(info.data.get("builtin_upstreams", True)))

    @field_validator("upstreams", mode="after")
    @classmethod
    def _complete(cls, upstreams: dict[str, Upstream], info: ValidationInfo) -> dict[str, Upstream]:
        """Tell each upstream its name and its effective policy."""
        if problems := clashes(upstreams):
            raise ValueError("; ".join(problems))
        policy = info.data.get("policy", Policy())
        return {
            name: upstream.model_copy(
                update={"name": name, "policy": policy.overlaid(upstream.policy)}
            )
            for name, upstream in upstreams.items()
        }

    @field_validator("default_upstream", mode="after")
    @classmethod
    def _default_exists(cls, name: str, info: ValidationInfo) -> str:
        # Without "upstreams" these have mistakes of their own, which are reported.
        there = info.data.get("upstreams", {name: None})
        if not there:
            raise ValueError(
                "there is no upstream at all; name one below upstreams and here, or leave out "
                "builtin_upstreams: false"
            )
        if name not in there:
            raise ValueError(f"there is no such upstream; set it to one of {', '.join(there)}")
        return name

    @field_validator("pins", mode="after")
    @classmethod
    def _pins_are_images(cls, pins: tuple[Pin, ...], info: ValidationInfo) -> tuple[Pin, ...]:
        _check_images([pin.image for pin in pins], info)
        return pins

    @model_validator(mode="after")
    def _verified_callers_are_protected(self) -> Self:
        both = [name for name in self._verifying() if self.upstreams[name].credentials]
        if both:
            raise ValueError(
                f"{both[0]} has access: verify, which asks with the callers' own credentials: "
                "remove its credentials, or the access"
            )
        self._check_callers()
        return self

    def _verifying(self) -> list[str]:
        return [name for name, one in self.upstreams.items() if one.policy.access == "verify"]

    def _check_callers(self) -> None:
        verifying, server, auth = self._verifying(), self.server, self.server.auth
        is_plain = server.tls is None and not (auth is not None and auth.allow_plaintext)
        if verifying and is_plain and not server.listen.is_loopback:
            raise ValueError(
                f"{verifying[0]} has access: verify, and anybody could read what callers show: "
                f"{PLAINTEXT_HINT}"
            )

    def check_protection(self) -> None:
        """Raise ValueError if somebody on the way could read what clients show."""
        self.server.check_protection()
        self._check_callers()

    @field_validator("prefetch", mode="after")
    @classmethod
    def _prefetches_are_images(
        cls, given: tuple[Prefetch, ...], info: ValidationInfo
    ) -> tuple[Prefetch, ...]:
        _check_images([image for each in given for image in each.images], info)
        return given

    @property
    def removed_upstreams(self) -> tuple[str, ...]:
        """The well-known registries that are not mirrored although the others are."""
        return tuple(
            name for name in BUILTIN if self.builtin_upstreams and name not in self.upstreams
        )
