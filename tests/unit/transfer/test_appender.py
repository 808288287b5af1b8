"""What becomes of memory when the disk breaks."""

import asyncio
import threading
from collections.abc import Iterator
from functools import partial as bound

import pytest

from mirror.runtime.pools import Pool
from mirror.transfer.appender import Appender
from mirror.upstream.receiving import Batch


class BrokenDisk:
    """A partial that cannot be written, as soon as that has been tried for long enough."""

    wants_sync = False

    def __init__(self) -> None:
        self.fails = threading.Event()

    def append(self, _pieces: object) -> None:
        self.fails.wait(5)
        raise OSError(5, "Input/output error")


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool("disk", 1)
    yield pool
    pool.close()


async def test_what_waited_for_a_broken_disk_is_given_back(pool: Pool) -> None:
    disk, released = BrokenDisk(), list[int]()
    appender = Appender(pool, disk, lambda: None)  # type: ignore[arg-type] # all it needs
    for number in range(3):
        await appender.put(Batch([b"x"], 1, bound(released.append, number)))
    disk.fails.set()
    async with asyncio.timeout(5):
        with pytest.raises(OSError, match="Input/output"):
            await appender.finish()
    assert released == [0, 1, 2]
    with pytest.raises(OSError, match="Input/output"):
        await appender.put(Batch([b"x"], 1))
