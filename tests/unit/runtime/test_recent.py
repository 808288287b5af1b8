"""The memory tier: bounded in bytes, forgetful in time, and without aiocache's traps."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.runtime.recent import MemoryTier, Recent


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60)), max_size=40))
def test_the_bound_holds_and_the_newest_stays(puts: list[tuple[int, int]]) -> None:
    async def run() -> None:
        tier = MemoryTier(100)
        for key, size_bytes in puts:
            await tier.put(key, f"{key}", size_bytes, None)
            assert 0 <= tier.size_bytes <= 100
            assert await tier.get(key) == f"{key}"
        await tier.clear()
        assert tier.size_bytes == 0

    asyncio.run(run())


async def test_the_least_recently_used_makes_room() -> None:
    tier = MemoryTier(3)
    for key in "abc":
        await tier.put(key, key, 1, None)
    assert await tier.get("a") == "a"
    await tier.put("d", "d", 1, None)

    assert [await tier.get(key) for key in "abcd"] == ["a", None, "c", "d"]


async def test_what_is_larger_than_the_tier_is_not_kept() -> None:
    tier = MemoryTier(10)
    await tier.put("small", 1, 5, None)
    await tier.put("large", 2, 11, None)
    assert await tier.get("large") is None
    assert await tier.get("small") == 1


async def test_an_old_timer_does_not_end_a_new_value() -> None:
    """Aiocache's own clear leaves timers running, which then delete what was set since."""
    tier = MemoryTier(10)
    await tier.put("key", "old", 1, 0.02)
    await tier.clear()
    await tier.put("key", "new", 1, None)
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, passed.set)
    await passed.wait()

    assert await tier.get("key") == "new"
    await tier.clear()


async def test_kinds_do_not_meet_and_none_is_no_value() -> None:
    tier = MemoryTier(1000)
    numbers: Recent[int] = Recent(tier, "number", lambda _: 1)
    words: Recent[str] = Recent(tier, "word", len)
    await numbers.put("key", 1)
    await words.put("key", "one")

    assert (await numbers.get("key"), await words.get("key")) == (1, "one")
    await numbers.drop("key")
    assert (await numbers.get("key"), await words.get("key")) == (None, "one")
    with pytest.raises(TypeError):
        await tier.put("key", None, 1, None)
