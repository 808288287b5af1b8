"""Fresh, revalidated, or stale because upstream is in trouble: one way for tags and lists."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from mirror.domain.errors import (
    IncompleteError,
    RateLimitedError,
    TroubleError,
    UpstreamTimeoutError,
)
from mirror.domain.freshness import IMMUTABLE, Lifetime, Verdict
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Result
from mirror.service.served import Served, reason_of
from mirror.settings import Timeouts

T = TypeVar("T")
_log = get_logger("service")


@dataclass(frozen=True, slots=True)
class Held(Generic[T]):
    """What we have, and how long ago upstream confirmed it.

    ``is_whole`` tells that all that it refers to can be had, too; what is not is served
    only on upstream's word (DESIGN, invariant 10).
    """

    value: T
    age_seconds: float
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Asking(Generic[T]):
    """A question to upstream that is under way, and whether somebody else began it."""

    task: "asyncio.Task[T]"
    joined: bool


async def freshened(
    held: Held[T] | None,
    lifetime: Lifetime,
    timeouts: Timeouts,
    ask: Callable[[], Asking[T]],
    what: str,
) -> tuple[T, Served]:
    """Return what is held while it is fresh; else what upstream says, if it says so in time.

    A usable copy is never kept waiting for longer than ``timeouts.revalidate``: the question
    goes on without the caller (DESIGN, invariant 9).

    Raises:
        MirrorError: upstream's own word, or trouble without a usable copy.
    """
    if held is not None and is_fresh(held, lifetime):
        return held.value, Served(Result.HIT, _ttl(lifetime, held))
    verdict = Verdict.FORGET if held is None else lifetime.judge(held.age_seconds)
    usable = held if held is not None and held.is_whole and verdict is Verdict.ASK else None
    asking = ask()
    limit_seconds = timeouts.revalidate_seconds if usable else timeouts.response_seconds
    try:
        value = await asyncio.wait_for(asyncio.shield(asking.task), limit_seconds)
    except TimeoutError:
        return _stale(held, usable, lifetime, UpstreamTimeoutError(what), what)
    except TroubleError as error:
        return _stale(held, usable, lifetime, error, what)
    if held is not None and value == held.value:
        return value, Served(Result.REVALIDATED, lifetime.fresh_seconds, "stale")
    result = Result.JOINED if asking.joined else Result.MISS
    return value, Served(result, _ttl(lifetime, Held(value, 0)), "stale" if held else "uri-miss")


def is_fresh(held: Held[T], lifetime: Lifetime) -> bool:
    """Tell whether what is held may be served without asking.

    Whoever asks looks once more before the question goes out: an earlier one may have ended
    since the caller looked, and a herd must not ask twice (DESIGN, invariant 2).
    """
    return held.is_whole and lifetime.judge(held.age_seconds) is Verdict.USE


def _stale(
    held: Held[T] | None,
    usable: Held[T] | None,
    lifetime: Lifetime,
    error: TroubleError,
    what: str,
) -> tuple[T, Served]:
    if usable is None:
        if held is not None and not held.is_whole:
            raise incomplete(error, what) from None
        raise error.with_traceback(None)  # it may be shared with others who asked
    _log.warning("served stale", what=what, age_seconds=usable.age_seconds, reason=str(error))
    served = Served(Result.STALE, _ttl(lifetime, usable), "stale", reason_of(error))
    return usable.value, served


def incomplete(error: TroubleError, what: str) -> TroubleError:
    """Return why something that is here is not served although upstream is in trouble."""
    if isinstance(error, RateLimitedError):
        return error.with_traceback(None)
    return IncompleteError(what, str(error))


def _ttl(lifetime: Lifetime, held: Held[T]) -> float | None:
    if lifetime.fresh_seconds == IMMUTABLE:
        return None
    return lifetime.ttl_seconds(held.age_seconds)
