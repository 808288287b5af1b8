"""The circuit breaker of an endpoint, and its pauses."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from mirror.domain.errors import RateLimitedError, UpstreamTroubleError
from mirror.domain.routing import Kind
from mirror.runtime.clock import Clock
from mirror.upstream.accounts import Holder
from mirror.upstream.door import FAILURES_TO_OPEN, PAUSES_MAX, Door
from tests.fakes.clock import FakeClock


def door_of(clock: FakeClock, jitter: float = 0.0) -> Door:
    return Door("docker.io", 3.0, Clock(wall=clock, monotonic=clock), lambda: jitter)


async def ask(door: Door, meanwhile: Callable[[], Awaitable[object]]) -> None:
    async with door.asked():
        await meanwhile()


async def fail(door: Door, times: int = 1, check: Callable[[], bool] = lambda: True) -> None:
    async def end() -> None:
        assert check()
        raise UpstreamTroubleError("no connection")

    for _ in range(times):
        with pytest.raises(UpstreamTroubleError):
            await ask(door, end)


def may_ask(door: Door, account: str = "anonymous", kind: Kind = Kind.MANIFEST) -> bool:
    return door.refusal(Holder(account), kind) is None


async def test_it_opens_after_three_failures_in_a_row_and_an_answer_closes_it() -> None:
    clock = FakeClock(100)
    door = door_of(clock)
    await fail(door, FAILURES_TO_OPEN - 1)
    async with door.asked():
        pass
    await fail(door, FAILURES_TO_OPEN - 1)
    assert may_ask(door)
    await fail(door)
    assert not may_ask(door)
    clock.advance(1)
    assert may_ask(door)
    async with door.asked():
        pass
    assert may_ask(door)
    assert not door.is_open


async def test_it_tells_when_it_opens_and_when_it_closes_and_only_then() -> None:
    clock, told = FakeClock(100), list[str | None]()
    times = Clock(wall=clock, monotonic=clock)
    door = Door("docker.io", 3.0, times, lambda: 0.0, on_change=told.append)
    await fail(door, FAILURES_TO_OPEN + 2)
    assert told == ["upstream trouble: no connection"]
    for _ in range(2):
        async with door.asked():
            pass
    assert told == ["upstream trouble: no connection", None]


async def test_one_at_a_time_tries_again_and_each_failure_doubles_the_wait() -> None:
    clock = FakeClock(100)
    door = door_of(clock)
    await fail(door, FAILURES_TO_OPEN)
    for seconds in (1, 2, 4, 8, 15, 15):
        clock.advance(seconds - 0.01)
        assert not may_ask(door)
        clock.advance(0.01)
        assert may_ask(door)
        await fail(door, check=lambda: not may_ask(door))  # a second one would be a herd


async def test_a_herd_that_fails_together_counts_as_one_opening() -> None:
    clock = FakeClock(100)
    door = door_of(clock)
    may_fail = asyncio.Event()

    async def fail_later() -> None:
        await may_fail.wait()
        raise UpstreamTroubleError("no connection")

    asking = [asyncio.create_task(ask(door, fail_later)) for _ in range(100)]
    await asyncio.sleep(0)
    clock.advance(1)
    may_fail.set()
    ends = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(end, UpstreamTroubleError) for end in ends)
    clock.advance(1)
    assert may_ask(door)


@pytest.mark.parametrize(("seconds", "opens"), [(2.8, True), (2.0, False)])
async def test_a_wait_that_is_broken_off_counts_if_it_was_long(seconds: float, opens: bool) -> None:  # noqa: FBT001 -- a parameter of the test
    clock = FakeClock(100)
    door = door_of(clock)

    async def leave() -> None:
        clock.advance(seconds)
        raise asyncio.CancelledError

    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(asyncio.CancelledError):
            await ask(door, leave)
    assert door.is_open is opens


async def test_a_probe_that_is_broken_off_lets_the_next_one_try() -> None:
    clock = FakeClock(100)
    door = door_of(clock)
    await fail(door, FAILURES_TO_OPEN)
    clock.advance(1)
    probe = asyncio.create_task(ask(door, asyncio.Event().wait))
    await asyncio.sleep(0)
    assert not may_ask(door)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert may_ask(door)


async def test_mirrors_do_not_come_back_together() -> None:
    clock = FakeClock(100)
    door = door_of(clock, jitter=0.8)
    await fail(door, FAILURES_TO_OPEN)
    clock.advance(0.6)
    assert may_ask(door)


@pytest.mark.parametrize(("said", "seconds"), [(120, 120), (None, 60), (0, 0)])
def test_a_429_pauses_the_account_for_as_long_as_it_says(said: int | None, seconds: int) -> None:
    clock = FakeClock(100)
    door = door_of(clock)
    door.limited(Holder("ci"), Kind.MANIFEST, said)
    assert may_ask(door, "anonymous")
    assert door.pause_seconds(Holder("ci")) == seconds
    refusal = door.refusal(Holder("ci"), Kind.MANIFEST)
    if seconds:
        assert isinstance(refusal, RateLimitedError)
        assert refusal.retry_after_seconds == seconds
        assert not may_ask(door, "ci", Kind.TAGS)
    clock.advance(seconds)
    assert may_ask(door, "ci")


def test_a_429_for_a_manifest_says_nothing_of_blobs_and_one_for_a_blob_of_all() -> None:
    door = door_of(FakeClock(100))
    door.limited(Holder("a"), Kind.MANIFEST, 60)
    door.limited(Holder("b"), Kind.BLOB, 60)
    assert may_ask(door, "a", Kind.BLOB)
    assert not may_ask(door, "b", Kind.BLOB)
    assert not may_ask(door, "b", Kind.MANIFEST)


def test_pauses_of_callers_are_no_more_than_so_many() -> None:
    """However many there are: over the bound those that are over go, and then the oldest."""
    clock, ours = FakeClock(100), Holder("ci")
    door = door_of(clock)
    door.limited(ours, Kind.MANIFEST, 1000)
    callers = [Holder("caller", number.to_bytes(4)) for number in range(PAUSES_MAX)]
    for each in callers:
        door.limited(each, Kind.MANIFEST, 60)
    assert door.refusal(callers[0], Kind.MANIFEST) is None
    for each in (ours, callers[1], callers[-1]):
        assert door.refusal(each, Kind.MANIFEST) is not None
    assert len(door._pauses) == PAUSES_MAX
    clock.advance(61)
    door.limited(callers[0], Kind.MANIFEST, 60)
    assert len(door._pauses) == 2
    assert door.refusal(ours, Kind.MANIFEST) is not None
