"""Settings that decide what is served, and how fresh it is; set for all upstreams or for one."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mirror.settings.fields import Duration, Glob, PositiveDuration, PositiveSpace, Share
from mirror.settings.section import Section

DAY_SECONDS = 86400


class TagRule(Section):
    """How fresh the tags that match a pattern must be."""

    match: Glob
    """Pattern over `repository:tag`."""
    ttl_seconds: Duration | None = None
    """How long such a tag is believed."""
    immutable: bool = False
    """Such a tag never changes and is never asked again."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if (self.ttl_seconds is None) is not self.immutable:
            raise ValueError("a rule has either a ttl or immutable: true")
        return self


class RateLimit(Section):
    """How the pull budget of an upstream is stretched."""

    low_water: Share = 0.2
    """Below this share of the budget tags are asked less often."""
    stretch: Annotated[float, Field(ge=1, le=1000)] = 6
    """How many times longer tags are believed then."""
    reserve: tuple[Glob, ...] = ()
    """Repositories for which the last of the budget is kept."""


class Timeouts(Section):
    """Deadlines towards upstream."""

    connect_seconds: PositiveDuration = 5
    """For a connection, TLS included."""
    response_seconds: PositiveDuration = 8
    """For everything before the first byte of our answer."""
    revalidate_seconds: PositiveDuration = 1
    """As `response`, when there is a usable copy: after that it is served stale."""
    idle_seconds: PositiveDuration = 30
    """A download that brings no byte for so long is resumed elsewhere."""


class Policy(Section):
    """What is served, and how fresh it is."""

    mode: Literal["online", "offline", "deny"] = "online"
    """`offline` never asks upstream, whatever the age; `deny` serves nothing."""
    tag_ttl_seconds: Duration = 600
    """How long a tag is believed before upstream is asked again."""
    tag_rules: tuple[TagRule, ...] = ()
    """Exceptions from `tag_ttl`; the first match decides."""
    refresh_ahead_seconds: Duration = 0
    """Popular tags are asked again this long before they expire."""
    negative_ttl_seconds: Duration = 10
    """How long "there is no such thing" is believed."""
    stale_if_error_seconds: Duration = 7 * DAY_SECONDS
    """For how long after its expiry a tag is served while upstream is in trouble; 0 is never."""
    on_upstream_gone: Literal["pass", "serve"] = "pass"
    """When upstream says 404 for a known tag: `pass` that on, or `serve` the last digest."""
    on_rate_limit: Literal["failover", "wait"] = "failover"
    """Answer so that clients go elsewhere (503), or so that they wait (429)."""
    rate_limit: RateLimit = RateLimit()
    """How the pull budget of an upstream is stretched."""
    access: Literal["shared", "verify"] = "shared"
    """`verify` has the registry check each caller's own credential; what is public stays open."""
    verify_ttl_seconds: PositiveDuration = 300
    """How long the registry's word on a credential and a repository is believed."""
    verify_offline: Literal["deny", "last-known"] = "deny"
    """What `access: verify` does while upstream does not answer."""
    allow: tuple[Glob, ...] = ("**",)
    """Repositories that may be pulled."""
    deny: tuple[Glob, ...] = ()
    """Repositories that may not, even if `allow` has them."""
    expire_after_seconds: PositiveDuration | None = None
    """Drop what nobody asked for since."""
    max_size: PositiveSpace | None = None
    """How much one upstream may hold: a size, or a share of the cache."""
    timeouts: Timeouts = Timeouts()
    """Deadlines towards upstream."""
