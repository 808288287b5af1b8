"""A disk that is full, really full, and one that breaks: no client notices, nothing stays behind.

The full disk is a tmpfs that another program fills while a download runs. The broken one is
made by libfiu, which stands between the mirror and the C library (``fiu-run``).
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.crash.client import Got, ask
from tests.crash.directory import Directory
from tests.fakes.content import Blob, blob
from tests.fakes.registry import FakeRegistry
from tests.fakes.script import Gate

from .daemon import eventually, run
from .loop_thread import LoopThread
from .mirror_process import Mirror

MIB: Final = 1 << 20
DISK_BYTES: Final = 40 * MIB
BLOB_BYTES: Final = 16 * MIB
REPOSITORY: Final = "library/disk"
READERS: Final = 8
Start = Callable[..., Mirror]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "mirror-test", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs may be mounted here: {mounted.stderr.strip()}")
    yield disk
    run("umount", disk)


@pytest.fixture
def registry(loop_thread: LoopThread) -> Iterator[FakeRegistry]:
    registry = FakeRegistry()
    loop_thread.run(registry.come_up())
    yield registry
    loop_thread.run(registry.close())


@pytest.fixture
def start(registry: FakeRegistry, tmp_path: Path) -> Iterator[Start]:
    started: list[Mirror] = []

    def one(directory: Path, *wrapper: str) -> Mirror:
        cache = {"directory": str(directory), "max_size": "1GiB", "min_free": "0B"}
        upstreams = {"docker.io": {"endpoints": [registry.url]}}
        mirror = Mirror(tmp_path / "mirror", upstreams, cache=cache)
        mirror.wrapper = wrapper
        mirror.cache = directory
        mirror.start()
        started.append(mirror)
        return mirror

    yield one
    for mirror in started:
        mirror.stop()


def pushed(registry: FakeRegistry, size_bytes: int = BLOB_BYTES, seed: int = 1) -> Blob:
    made = blob(size_bytes, seed)
    registry.push_blob(REPOSITORY, made)
    return made


def path(made: Blob) -> str:
    return f"/v2/{REPOSITORY}/blobs/{made.digest}"


def is_stored(mirror: Mirror, made: Blob) -> bool:
    return ask(mirror.port, path(made), method="HEAD").is_hit


def check_agreement(mirror: Mirror) -> None:
    """Files, rows and totals agree, at once and after a restart; nothing is left half done."""
    directory = Directory(mirror.cache)
    assert directory.complaints() == []
    mirror.stop()
    mirror.start()
    assert directory.complaints() + directory.intents() == []


def read_from(mirror: Mirror, made: Blob, start: int) -> Got:
    return ask(mirror.port, path(made), {"Range": f"bytes={start}-"} if start else {})


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Let another program take all the room there is."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(64 * 1024))
    assert shutil.disk_usage(disk).free == 0
    yield
    ballast.unlink()


class HeldDownload:
    """A download that stands still in the middle, with readers at different places of it."""

    def __init__(self, mirror: Mirror, registry: FakeRegistry, thread: LoopThread) -> None:
        self.made = pushed(registry)
        self._mirror = mirror
        self._thread = thread
        self._gate: Gate = registry.hold_body(self.made.digest, BLOB_BYTES // 2, times=1)
        self._readers: dict[int, Future[Got]] = {}

    def begin(self, pool: ThreadPoolExecutor, readers: int) -> None:
        """Start the readers, and wait until half of the blob has been sent."""
        for start in range(0, BLOB_BYTES, BLOB_BYTES // readers):
            self._readers[start] = pool.submit(read_from, self._mirror, self.made, start)
        self._thread.run(self._gate.arrivals())
        eventually(lambda: self._mirror.metric("mirror_fill_readers") == readers, "all are reading")

    def release(self) -> None:
        """Let upstream send the rest."""
        self._thread.loop.call_soon_threadsafe(self._gate.release)

    def check(self) -> None:
        """Everybody gets what was asked for, whole and right."""
        for start, future in self._readers.items():
            got = future.result(60)
            assert got.is_whole, (start, str(got))
            assert got.body == self.made.content[start:], start


@pytest.mark.parametrize("readers", [1, READERS])
def test_a_disk_that_gets_full_in_the_middle_of_a_download(
    readers: int, small_disk: Path, registry: FakeRegistry, loop_thread: LoopThread, start: Start
) -> None:
    mirror = start(small_disk / "cache")
    before = pushed(registry, MIB, seed=2)
    assert read_from(mirror, before, 0).is_whole
    eventually(lambda: is_stored(mirror, before), "the first blob is stored")
    held = HeldDownload(mirror, registry, loop_thread)

    with ThreadPoolExecutor(readers) as pool:
        held.begin(pool, readers)
        with full(small_disk):
            held.release()
            held.check()
            assert ask(mirror.port, path(before)).body == before.content
            eventually(lambda: mirror.metric("mirror_fills_in_progress") == 0, "the fill ended")
            assert not is_stored(mirror, held.made)
            assert os.strerror(errno.ENOSPC) in mirror.log_text()

    assert read_from(mirror, held.made, 0).body == held.made.content
    eventually(lambda: is_stored(mirror, held.made), "there is room again, so it is stored")
    check_agreement(mirror)


def test_a_disk_that_is_full_already_is_passed_by(
    small_disk: Path, registry: FakeRegistry, start: Start
) -> None:
    mirror = start(small_disk / "cache")
    made = pushed(registry)

    with full(small_disk):
        assert read_from(mirror, made, 0).body == made.content
        assert read_from(mirror, made, MIB).body == made.content[MIB:]
        assert not is_stored(mirror, made)

    assert read_from(mirror, made, 0).body == made.content
    eventually(lambda: is_stored(mirror, made), "there is room again, so it is stored")
    check_agreement(mirror)


def test_a_mirror_starts_on_a_full_disk_and_serves_what_it_has(
    small_disk: Path, registry: FakeRegistry, start: Start
) -> None:
    mirror = start(small_disk / "cache")
    made = pushed(registry)
    assert read_from(mirror, made, 0).is_whole
    eventually(lambda: is_stored(mirror, made), "the blob is stored")
    other = pushed(registry, MIB, seed=3)

    with full(small_disk):
        mirror.kill()
        mirror.start()
        got = ask(mirror.port, path(made))
        passed = ask(mirror.port, path(other))

    assert got.is_hit
    assert got.body == made.content
    assert passed.body == other.content


class Broken:
    """Makes calls of a running mirror fail with EIO."""

    def __init__(self, mirror: Mirror, prefix: Path) -> None:
        self._mirror = mirror
        self._prefix = prefix

    def __call__(self, command: str) -> None:
        run("fiu-ctrl", "-f", self._prefix, "-c", command, str(self._mirror.pid))


@pytest.fixture
def breakable(start: Start, tmp_path: Path) -> tuple[Mirror, Broken]:
    prefix = tmp_path / "fiu"
    mirror = start(tmp_path / "cache", "fiu-run", "-x", "-f", str(prefix))
    return mirror, Broken(mirror, prefix)


@pytest.mark.parametrize("readers", [1, READERS])
def test_a_disk_that_breaks_in_the_middle_of_a_download(
    readers: int,
    breakable: tuple[Mirror, Broken],
    registry: FakeRegistry,
    loop_thread: LoopThread,
) -> None:
    mirror, broken = breakable
    held = HeldDownload(mirror, registry, loop_thread)

    with ThreadPoolExecutor(readers) as pool:
        held.begin(pool, readers)
        broken(f"enable name=posix/io/rw/pwrite,failinfo={errno.EIO}")
        held.release()
        held.check()
        eventually(lambda: mirror.metric("mirror_fills_in_progress") == 0, "the fill ended")
        assert os.strerror(errno.EIO) in mirror.log_text()
        broken("disable name=posix/io/rw/pwrite")

    assert read_from(mirror, held.made, 0).body == held.made.content
    eventually(lambda: is_stored(mirror, held.made), "the disk is well again, so it is stored")
    check_agreement(mirror)


@pytest.mark.parametrize("call", ["sync/fsync", "sync/fdatasync", "dir/rename"])
def test_a_disk_that_breaks_at_the_commit(
    call: str, breakable: tuple[Mirror, Broken], registry: FakeRegistry
) -> None:
    mirror, broken = breakable
    made = pushed(registry)

    broken(f"enable name=posix/io/{call},failinfo={errno.EIO}")
    during = [read_from(mirror, made, start) for start in (0, MIB)]
    broken(f"disable name=posix/io/{call}")

    assert [one.body for one in during] == [made.content, made.content[MIB:]]
    assert read_from(mirror, made, 0).body == made.content
    eventually(lambda: is_stored(mirror, made), "the disk is well again, so it is stored")
    check_agreement(mirror)


def test_a_disk_that_breaks_now_and_then(
    breakable: tuple[Mirror, Broken], registry: FakeRegistry
) -> None:
    mirror, broken = breakable
    blobs = [pushed(registry, 3 * MIB, seed) for seed in range(16)]

    for call in ("rw/pwrite", "sync/fsync", "dir/rename"):
        broken(f"enable_random name=posix/io/{call},failinfo={errno.EIO},probability=0.1")
    with ThreadPoolExecutor(READERS) as pool:
        got = list(pool.map(lambda made: read_from(mirror, made, 0), blobs * 3))
    for call in ("rw/pwrite", "sync/fsync", "dir/rename"):
        broken(f"disable name=posix/io/{call}")

    assert [str(one) for one in got if not one.is_whole] == []
    assert all(one.body == made.content for one, made in zip(got, blobs * 3, strict=True))
    for made in blobs:
        assert read_from(mirror, made, 0).body == made.content
        eventually(lambda made=made: is_stored(mirror, made), "it is stored")  # type: ignore[misc]  # the lambda is called at once
    check_agreement(mirror)
