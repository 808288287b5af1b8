"""Fresh, revalidated, or stale because upstream is in trouble: one way for tags and lists.

What is done is decided in ``domain/decisions.py``; here it is carried out.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from mirror.domain.decisions import Action, Gone, Have, Situation, Upstream, decide
from mirror.domain.errors import (
    IncompleteError,
    ManifestUnknownError,
    MirrorError,
    NotFoundError,
    RateLimitedError,
    TroubleError,
    UpstreamTimeoutError,
)
from mirror.domain.freshness import Age, Lifetime
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Result
from mirror.service.served import Served, reason_of
from mirror.settings import Timeouts

T = TypeVar("T")
OFFLINE = "policy.mode is offline"
_SHARE: Final = 0.98
"""Of the time for an answer: when it is over, ours is to be out."""
_log = get_logger("service")


@dataclass(frozen=True, slots=True)
class Held(Generic[T]):
    """What we have, and how long ago upstream confirmed it.

    ``is_whole`` tells that all that it refers to can be had, too; what is not is served
    only on upstream's word (invariant 17).
    """

    value: T
    age_seconds: float
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Asking(Generic[T]):
    """A question to upstream that is under way, and whether somebody else began it."""

    task: "asyncio.Task[T]"
    joined: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms something is served.

    ``trouble`` is why there is no use in asking upstream now, if there is none.
    """

    lifetime: Lifetime
    timeouts: Timeouts
    trouble: TroubleError | None = None
    is_offline: bool = False
    gone: Gone = Gone.TELL


@dataclass(frozen=True, slots=True)
class Case(Generic[T]):
    """One request: what is held, on what terms, and what it is called in the log."""

    held: Held[T] | None
    terms: Terms
    what: str

    def situation(self, upstream: Upstream | None = None) -> Situation:
        """Return what the decision depends on; *upstream* is its answer, if it was asked."""
        terms, held = self.terms, self.held
        if upstream is None:
            upstream = Upstream.READY if terms.trouble is None else Upstream.UNAVAILABLE
            upstream = Upstream.OFFLINE if terms.is_offline else upstream
        if held is None:
            return Situation(Have.NOTHING, Age.OLD, upstream, terms.gone)
        have = Have.WHOLE if held.is_whole else Have.PART
        return Situation(have, terms.lifetime.age(held.age_seconds), upstream, terms.gone)

    @property
    def ttl_seconds(self) -> float | None:
        """How long what is held stays fresh; ``None``: for ever."""
        lifetime = self.terms.lifetime
        if lifetime.is_immutable or self.terms.is_offline or self.held is None:
            return None
        return lifetime.ttl_seconds(self.held.age_seconds)


async def freshened(
    case: Case[T], ask: Callable[[], Asking[T]], refresh: Callable[[], object]
) -> tuple[T, Served]:
    """Return what is held while it is fresh; else what upstream says, if it says so in time.

    A usable copy is never kept waiting for longer than ``timeouts.revalidate``: the question
    goes on without the caller (invariant 9).

    Args:
        case: What is held, and on what terms.
        ask: Begins to ask upstream, or joins who does.
        refresh: The same, in the background and although it is fresh.

    Raises:
        MirrorError: upstream's own word, or trouble without a usable copy.
    """
    action = decide(case.situation())
    if action in {Action.ASK, Action.REVALIDATE}:
        return await _asked(case, ask, is_usable=action is Action.REVALIDATE)
    if action is Action.SERVE_AND_REFRESH:
        refresh()
    return _ended(case, action, case.terms.trouble)


async def _asked(
    case: Case[T], ask: Callable[[], Asking[T]], *, is_usable: bool
) -> tuple[T, Served]:
    asking, timeouts, held = ask(), case.terms.timeouts, case.held
    limit_seconds = timeouts.response_seconds
    if is_usable:
        limit_seconds = _SHARE * timeouts.revalidate_seconds
    error: MirrorError
    try:
        value = await asyncio.wait_for(asyncio.shield(asking.task), limit_seconds)
    except TimeoutError:
        error, answer = UpstreamTimeoutError(case.what), Upstream.TROUBLE
    except TroubleError as trouble:
        error, answer = trouble, Upstream.TROUBLE
    except NotFoundError as gone:
        error, answer = gone, Upstream.GONE
    except MirrorError as refusal:
        error, answer = refusal, Upstream.REFUSES
    else:
        if held is not None and value == held.value:
            lifetime = case.terms.lifetime
            ttl_seconds = None if lifetime.is_immutable else lifetime.fresh_seconds
            return value, Served(Result.REVALIDATED, ttl_seconds, "stale")
        result = Result.JOINED if asking.joined else Result.MISS
        new = Case(Held(value, 0), case.terms, case.what)
        return value, Served(result, new.ttl_seconds, "stale" if held else "uri-miss")
    return _ended(case, decide(case.situation(answer)), error)


def is_settled(held: Held[T], lifetime: Lifetime) -> bool:
    """Tell whether there is no need to ask about what is held.

    Whoever asks looks once more before the question goes out: an earlier one may have ended
    since the caller looked, and a herd must not ask twice (invariant 2).
    """
    return held.is_whole and lifetime.age(held.age_seconds) is Age.FRESH


def _ended(case: Case[T], action: Action, error: MirrorError | None) -> tuple[T, Served]:
    """Serve what is held, or raise what stands in the way."""
    held = case.held
    match action:
        case Action.FAIL_MISSING:
            raise ManifestUnknownError(f"{case.what} is not in the cache, and {OFFLINE}")
        case Action.FAIL_INCOMPLETE:
            raise incomplete(error, case.what) from None
        case _ if held is not None and action in {Action.SERVE, Action.SERVE_AND_REFRESH}:
            return held.value, Served(Result.HIT, case.ttl_seconds)
        case Action.SERVE_STALE if held is not None and error is not None:
            _log.warning(
                "served stale", what=case.what, age_seconds=held.age_seconds, reason=str(error)
            )
            return held.value, Served(Result.STALE, case.ttl_seconds, "stale", reason_of(error))
        case _ if error is not None:
            raise error.with_traceback(None)  # it may be shared with others who asked
        case _:
            raise AssertionError(f"no row of the table leads to {action} here")


def incomplete(error: MirrorError | None, what: str) -> MirrorError:
    """Return why something that is here is not served although upstream is in trouble."""
    if isinstance(error, RateLimitedError):
        return error.with_traceback(None)
    return IncompleteError(what, OFFLINE if error is None else str(error))
