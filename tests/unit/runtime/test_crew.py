"""Work in threads: nothing is lost, nothing is done for nobody, many share what can be shared."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from mirror.runtime.pools import Pool
from mirror.runtime.together import Together


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool("test", 1)
    yield pool
    pool.close()


async def test_what_nobody_waits_for_any_more_is_not_begun(pool: Pool) -> None:
    go, done = threading.Event(), list[str]()
    first = pool.start(go.wait, 5)
    second, third = pool.start(done.append, "second"), pool.start(done.append, "third")
    second.cancel()
    go.set()
    await asyncio.gather(first, third)

    assert done == ["third"]


async def test_threads_are_begun_as_they_are_needed_and_no_more() -> None:
    pool, meeting = Pool("several", 3), threading.Barrier(3)
    assert await pool.run(threading.get_ident) == await pool.run(threading.get_ident)
    both = await asyncio.gather(*[pool.run(meeting.wait, 5) for _ in range(3)])
    names = await asyncio.gather(
        *[pool.run(lambda: threading.current_thread().name) for _ in range(9)]
    )
    pool.close()

    assert sorted(both) == [0, 1, 2]
    assert set(names) <= {f"mirror-several_{number}" for number in range(3)}


async def test_results_that_come_together_wake_the_loop_once(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, wakes = asyncio.get_running_loop(), list[object]()
    real = loop.call_soon_threadsafe

    def counted(callback: object, *arguments: object) -> object:
        wakes.append(callback)
        return real(callback, *arguments)  # type: ignore[arg-type] # as it came

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    is_done = threading.Event()
    waiting = [pool.start(int, "7") for _ in range(20)]
    last = pool.start(is_done.set)
    assert is_done.wait(5)  # and so the loop could not look in between
    assert await asyncio.gather(*waiting) == [7] * 20
    await last
    assert len(wakes) <= 2


async def test_an_iteration_that_ends_is_an_error_like_others(pool: Pool) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await pool.run(next, iter([]))


async def test_what_comes_during_a_step_is_done_by_the_next_one(pool: Pool) -> None:
    go, steps = threading.Event(), list[list[int]]()

    def double(numbers: list[int]) -> list[int]:
        go.wait(5)
        steps.append(numbers)
        return [2 * number for number in numbers]

    together = Together(pool, double, at_most=3)
    waiting = [together.start(number) for number in range(6)]
    go.set()

    assert await asyncio.gather(*waiting) == [0, 2, 4, 6, 8, 10]
    assert steps == [[0], [1, 2, 3], [4, 5]]


async def test_the_error_of_one_is_not_that_of_the_others(pool: Pool) -> None:
    go = threading.Event()

    def inverse(numbers: list[int]) -> list[float]:
        go.wait(5)
        return [1 / number for number in numbers]

    together = Together(pool, inverse, at_most=10)
    first, *others = [together.start(number) for number in (1, 2, 0, 4)]
    others[0].cancel()
    go.set()

    assert await first == 1
    with pytest.raises(ZeroDivisionError):
        await others[1]
    assert await others[2] == 0.25
