"""How what comes gets to the disk: in order, at two paces, and what becomes of memory."""

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from functools import partial as bound
from pathlib import Path

import pytest

from mirror.domain.names import Digest
from mirror.runtime.pools import Pool
from mirror.store.layout import Layout
from mirror.store.partial import Partial
from mirror.transfer import appender as appender_module
from mirror.transfer.appender import Appender
from mirror.upstream.receiving import Batch

KIB = 1024


class Disk:
    """A partial whose writing and hashing can be held up, and broken."""

    wants_sync = False

    def __init__(self) -> None:
        self.may_write, self.may_hash = threading.Event(), threading.Event()
        self.fails = False
        self.written_bytes = self.hashed_bytes = 0

    def write(self, pieces: list[bytes]) -> None:
        assert self.may_write.wait(5)
        if self.fails:
            raise OSError(5, "Input/output error")
        self.written_bytes += sum(map(len, pieces))

    def hash(self, pieces: list[bytes]) -> None:
        assert self.may_hash.wait(5)
        self.hashed_bytes += sum(map(len, pieces))


class Endless(Disk):
    """A disk of a download of which more has come whenever something is written."""

    appender: Appender | None = None

    def write(self, pieces: list[bytes]) -> None:
        super().write(pieces)
        if self.appender is not None:
            self.appender._writing.put(Batch([b"x"], 1))


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool("disk", 2)
    yield pool
    pool.close()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    layout.partials.mkdir(parents=True)
    return layout


def _partial(layout: Layout, content: bytes) -> Partial:
    digest = Digest.parse(f"sha256:{hashlib.sha256(content).hexdigest()}")
    path = layout.partial("", digest)
    return Partial(digest, path, layout.blob(digest), layout.replace_file)


async def test_large_and_small_batches_come_to_the_disk_and_the_hash_in_order(
    pool: Pool, layout: Layout
) -> None:
    sizes = [1, 300 * KIB, 2, 3 * KIB, 700 * KIB, 5, 256 * KIB, 1, 1]
    content = os.urandom(sum(sizes))
    partial, released, shown = _partial(layout, content), list[int](), list[int]()
    appender = Appender(pool, partial, lambda: shown.append(partial.length_bytes))
    offset = 0
    for number, size in enumerate(sizes):
        piece = content[offset : offset + size]
        offset += size
        await appender.put(Batch([piece], size, bound(released.append, number)))
        if number % 2:
            await asyncio.sleep(0)
    await appender.finish()
    assert released == list(range(len(sizes)))
    assert partial.is_right()
    assert partial.path.read_bytes() == content
    assert shown == sorted(shown)
    assert shown[-1] == len(content)
    partial.close()


async def test_readers_do_not_wait_for_the_hash(pool: Pool) -> None:
    disk, released, written = Disk(), list[int](), asyncio.Event()
    disk.may_write.set()
    appender = Appender(pool, disk, written.set)  # type: ignore[arg-type] # all it needs
    size = 512 * KIB
    await appender.put(Batch([bytes(size)], size, bound(released.append, 0)))
    async with asyncio.timeout(5):
        await written.wait()
    assert (disk.written_bytes, disk.hashed_bytes) == (size, 0)
    assert released == [], "the hash still needs the memory"
    disk.may_hash.set()
    async with asyncio.timeout(5):
        await appender.finish()
    assert disk.hashed_bytes == size
    assert released == [0]


async def test_upstream_waits_when_the_hash_lags_behind(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender_module, "_HIGH_WATER_BYTES", 1024 * KIB)
    disk = Disk()
    disk.may_write.set()
    appender = Appender(pool, disk, lambda: None)  # type: ignore[arg-type] # all it needs
    size = 600 * KIB
    await appender.put(Batch([bytes(size)], size))
    waiting = asyncio.create_task(appender.put(Batch([bytes(size)], size)))
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done()
    disk.may_hash.set()
    async with asyncio.timeout(5):
        await waiting
        await appender.finish()


async def test_a_batch_that_is_written_before_it_is_hashed_is_hashed_all_the_same(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writing thread may get the GIL whenever it likes, and be done at once."""
    disk = Disk()
    disk.may_hash.set()
    appender = Appender(pool, disk, lambda: None)  # type: ignore[arg-type] # all it needs
    await appender.put(Batch([b"x"], 1))
    lane, put = appender._writing, appender._writing.put

    def overtaken(batch: Batch) -> None:
        put(batch)
        disk.may_write.set()
        deadline = time.monotonic() + 5
        while lane._is_claimed or appender._hashing._is_claimed:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    monkeypatch.setattr(lane, "put", overtaken)
    await appender.put(Batch([b"y"], 1))
    async with asyncio.timeout(5):
        await appender.finish()
    assert (disk.written_bytes, disk.hashed_bytes) == (2, 2)


async def test_a_download_that_never_ends_lets_others_have_the_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(appender_module, "_TURN_BYTES", 1)
    pool = Pool("disk", 1)
    busy, other, heard = Endless(), Disk(), asyncio.Event()
    for disk in (busy, other):
        disk.may_hash.set()
    other.may_write.set()
    endless = Appender(pool, busy, lambda: None)  # type: ignore[arg-type] # all it needs
    modest = Appender(pool, other, heard.set)  # type: ignore[arg-type] # all it needs
    busy.appender = endless
    await endless.put(Batch([b"x"], 1))
    await modest.put(Batch([b"x"], 1))
    busy.may_write.set()
    async with asyncio.timeout(5):
        await heard.wait()
    busy.appender = None
    pool.close()


async def test_what_waited_for_a_broken_disk_is_given_back(pool: Pool) -> None:
    disk, released = Disk(), list[int]()
    disk.fails = True
    disk.may_hash.set()
    appender = Appender(pool, disk, lambda: None)  # type: ignore[arg-type] # all it needs
    for number in range(3):
        await appender.put(Batch([b"x"], 1, bound(released.append, number)))
    disk.may_write.set()
    async with asyncio.timeout(5):
        with pytest.raises(OSError, match="Input/output"):
            await appender.finish()
    assert released == [0, 1, 2]
    with pytest.raises(OSError, match="Input/output"):
        await appender.put(Batch([b"x"], 1))
