"""Long work in short steps: a thread does a little of it, and others come between."""

from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

from mirror.runtime.pools import Pool

T = TypeVar("T")
_STEP: Final = 64


async def in_steps(pool: Pool, items: Iterable[T], size: int = _STEP) -> AsyncIterator[T]:
    """Yield *items*, which are worked out in *pool*, so many at a time."""
    iterator = iter(items)
    while step := await pool.run(_some, iterator, size):
        for item in step:
            yield item


def _some(iterator: Iterator[T], size: int) -> list[T]:
    return list(islice(iterator, size))
