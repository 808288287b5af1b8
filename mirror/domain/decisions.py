"""What to do with a tag, a tags list or a referrers list: one table, the first row that fits.

Each request is looked up twice: before upstream is asked, and with what it has said. The
rows are shown in ``docs/freshness.md``, which is made from this file.

Source: invariants 8, 9 and 17; RFC 5861 for serving stale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final, TypeVar

from mirror.domain.freshness import Age

E = TypeVar("E", bound=StrEnum)


class Have(StrEnum):
    """How much of it is here."""

    NOTHING = "nothing"
    PART = "a part"
    """The manifest, but not all that it refers to (invariant 17)."""
    WHOLE = "all of it"


class Upstream(StrEnum):
    """What is known of upstream: before it is asked, or what it has said."""

    OFFLINE = "must not be asked"
    """``policy.mode: offline``."""
    READY = "can be asked"
    UNAVAILABLE = "is known not to answer"
    """All endpoints are paused by a 429, or their circuit breakers are open."""
    SAME = "confirms it"
    NEW = "says something else"
    MOVED = "says something else, but the tag is immutable"
    GONE = "says 404"
    REFUSES = "says 401 or 403"
    TROUBLE = "is in trouble"
    """429, 5xx, no answer in time, no connection, no name, no TLS, no token."""


class Gone(StrEnum):
    """``policy.on_upstream_gone``; pinned images always have ``serve``."""

    TELL = "pass"
    SERVE = "serve"


class Action(StrEnum):
    """What is done."""

    SERVE = "serve it"
    SERVE_AND_REFRESH = "serve it, and ask in the background"
    SERVE_STALE = "serve it, marked stale"
    SERVE_NEW = "serve what upstream says"
    REVALIDATE = "ask; after `timeouts.revalidate` serve it stale"
    ASK = "ask, for up to `timeouts.response`"
    FAIL_MISSING = "404: it is not in the cache"
    FAIL_UPSTREAM = "pass on upstream's word"
    FAIL_INCOMPLETE = "503: not all of it is here"
    FAIL_TROUBLE = "502, 503 or 504, by the kind of trouble"


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision depends on."""

    have: Have
    age: Age
    upstream: Upstream
    gone: Gone = Gone.TELL


@dataclass(frozen=True, slots=True)
class Row:
    """A rule: what it fits (``None``: anything), what is done, and why."""

    have: tuple[Have, ...] | None
    age: tuple[Age, ...] | None
    upstream: tuple[Upstream, ...]
    action: Action
    why: str
    gone: tuple[Gone, ...] | None = None

    def fits(self, situation: Situation) -> bool:
        """Return whether the rule is about a situation."""
        return (
            _has(self.have, situation.have)
            and _has(self.age, situation.age)
            and _has(self.upstream, situation.upstream)
            and _has(self.gone, situation.gone)
        )


_HELD: Final = (Have.PART, Have.WHOLE)
_WHOLE: Final = (Have.WHOLE,)
_PART: Final = (Have.PART,)
_SHOWN: Final = (Age.FRESH, Age.EXPIRING, Age.STALE)
"""Not too old to be shown to anyone."""

TABLE: Final[Sequence[Row]] = (
    Row(_WHOLE, None, (Upstream.OFFLINE,), Action.SERVE, "an offline mirror knows no age"),
    Row(
        _PART,
        None,
        (Upstream.OFFLINE,),
        Action.FAIL_INCOMPLETE,
        "clients would take the manifest and fail at a layer",
    ),
    Row(
        None,
        None,
        (Upstream.OFFLINE,),
        Action.FAIL_MISSING,
        "what is not in the cache of an offline mirror does not exist",
    ),
    Row(
        _WHOLE,
        (Age.FRESH,),
        (Upstream.READY, Upstream.UNAVAILABLE),
        Action.SERVE,
        "it is younger than `tag_ttl`, or immutable",
    ),
    Row(
        _WHOLE,
        (Age.EXPIRING,),
        (Upstream.READY,),
        Action.SERVE_AND_REFRESH,
        "it is asked for within `refresh_ahead` of its end, so it will be again",
    ),
    Row(
        _WHOLE,
        (Age.EXPIRING,),
        (Upstream.UNAVAILABLE,),
        Action.SERVE,
        "it is still fresh",
    ),
    Row(
        _WHOLE,
        (Age.STALE,),
        (Upstream.READY,),
        Action.REVALIDATE,
        "a usable copy is never kept waiting for long",
    ),
    Row(
        _WHOLE,
        (Age.STALE,),
        (Upstream.UNAVAILABLE,),
        Action.SERVE_STALE,
        "asking would only cost time, or more of the rate limit",
    ),
    Row(None, None, (Upstream.READY,), Action.ASK, "there is no copy that could be served"),
    Row(
        _PART,
        None,
        (Upstream.UNAVAILABLE, Upstream.TROUBLE),
        Action.FAIL_INCOMPLETE,
        "clients would take the manifest and fail at a layer",
    ),
    Row(
        None,
        None,
        (Upstream.UNAVAILABLE,),
        Action.FAIL_TROUBLE,
        "the client can go elsewhere at once",
    ),
    Row(_HELD, None, (Upstream.SAME,), Action.SERVE, "it is fresh again"),
    Row(
        _HELD,
        None,
        (Upstream.MOVED,),
        Action.SERVE,
        "`immutable: true` promises what was seen first; the move is logged and counted",
    ),
    Row(
        None,
        None,
        (Upstream.SAME, Upstream.NEW, Upstream.MOVED),
        Action.SERVE_NEW,
        "upstream's word",
    ),
    Row(
        _HELD,
        None,
        (Upstream.GONE,),
        Action.SERVE_STALE,
        "it was deleted upstream, and is kept on purpose",
        (Gone.SERVE,),
    ),
    Row(
        None,
        None,
        (Upstream.GONE, Upstream.REFUSES),
        Action.FAIL_UPSTREAM,
        "an answer is not an outage",
    ),
    Row(
        _WHOLE,
        _SHOWN,
        (Upstream.TROUBLE,),
        Action.SERVE_STALE,
        "a copy within `stale_if_error` is better than an outage",
    ),
    Row(
        None,
        None,
        (Upstream.TROUBLE,),
        Action.FAIL_TROUBLE,
        "there is no copy, or one that is too old to be shown",
    ),
)


@cache
def decide(situation: Situation) -> Action:
    """Return what is done; every situation has a row."""
    return rule(situation).action


def rule(situation: Situation) -> Row:
    """Return the row that decides."""
    return next(row for row in TABLE if row.fits(situation))


def _has(wanted: tuple[E, ...] | None, value: E) -> bool:
    return wanted is None or value in wanted
