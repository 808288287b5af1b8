"""What comes while a step runs shares the next one, and no errors."""

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
