"""What the disk does not give back stays where it is, and is in nobody's way."""

import io
from pathlib import Path
from typing import BinaryIO

import pytest

from mirror.domain.names import ANONYMOUS_SCOPE, Digest
from mirror.service.policies import Policies
from mirror.store import removal
from mirror.store.store import Store
from mirror.store.sweep import Leftover, Sweep, Swept
from tests.fakes.clock import FakeClock
from tests.fakes.content import Blob, blob, image
from tests.unit.store.test_eviction import are_here, pull
from tests.unit.store.test_store import commit, is_here, keep, store_of

ONE, TWO = image(1, layer_bytes=3000), image(2, layer_bytes=3000)
DAY_SECONDS = 86400


def break_file(store: Store, which: Blob) -> None:
    """Put something there that cannot be opened; permissions do not keep root out."""
    path = store.parts.layout.blob(Digest.parse(which.digest))
    path.unlink()
    path.mkdir()


def links_of(store: Store, image_blobs: tuple[Blob, ...]) -> list[int]:
    return [store.parts.index.links_of(each.digest) for each in image_blobs]


async def swept(store: Store) -> Swept:
    return await Sweep(store, Policies({}).useful_seconds).run()


async def test_what_cannot_be_opened_does_not_keep_the_rest_from_going(
    tmp_path: Path, log_lines: io.StringIO
) -> None:
    clock = FakeClock(1e9)
    async with store_of(tmp_path, clock=clock) as store:
        for seed in range(3):
            clock.advance(100)
            await commit(store, blob(1000, seed))
        break_file(store, blob(1000, 0))

        assert await store.changes.evict(1) == 1000
        assert [await is_here(store, blob(1000, seed)) for seed in range(3)] == [True, False, True]
        assert await store.changes.evict(1 << 30) == 1000
        assert await store.changes.evict(1) == 0
        assert await store.remove(Digest.parse(blob(1000, 0).digest)) == 0
        assert store.space.stored_bytes == 1000
    assert log_lines.getvalue().count("an object cannot be opened") == 1


async def test_a_manifest_that_cannot_be_read_goes_and_links_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(path: Path) -> BinaryIO:
        return path.open("ab", buffering=0)  # to read it is an OSError

    async with store_of(tmp_path) as store:
        await keep(store, ONE)
        monkeypatch.setattr(removal, "open_exclusive", unreadable)
        assert await store.changes.evict(1) == ONE.size_bytes

        assert not await is_here(store, ONE)
        assert links_of(store, ONE.blobs) == [1] * 3  # until a sweep counts them
        monkeypatch.undo()
        assert (await swept(store)).counts[Leftover.COUNT] == 3
        assert links_of(store, ONE.blobs) == [0] * 3


async def test_a_sweep_takes_nothing_from_a_manifest_that_cannot_be_read(tmp_path: Path) -> None:
    clock = FakeClock(1e9)
    async with store_of(tmp_path, clock=clock) as store:
        await pull(store, ONE)
        await pull(store, TWO)
        lone = blob(1000)
        path = store.parts.layout.blob(Digest.parse(lone.digest))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lone.content)
        break_file(store, ONE)
        clock.advance(DAY_SECONDS)

        assert (await swept(store)).counts == {Leftover.FILE: 1}
        assert await are_here(store, ONE) == await are_here(store, TWO) == [True] * 4
        assert links_of(store, ONE.blobs) == [1] * 3


async def test_a_manifest_that_cannot_be_read_does_not_keep_a_rebuild_from_starting(
    tmp_path: Path, log_lines: io.StringIO
) -> None:
    async with store_of(tmp_path) as store:
        await pull(store, ONE)
        await pull(store, TWO)
        break_file(store, ONE)
    for path in (tmp_path / "index").iterdir():
        path.unlink()
    async with store_of(tmp_path) as store:
        assert await are_here(store, TWO) == [True] * 4
        assert not await store.has(Digest.parse(ONE.digest), ANONYMOUS_SCOPE)
    assert "a manifest cannot be read" in log_lines.getvalue()


async def test_a_file_without_a_row_that_cannot_be_opened_does_not_end_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(path: Path) -> BinaryIO:
        raise PermissionError(13, "Permission denied", str(path))

    lone = blob(1000)
    async with store_of(tmp_path) as store:
        path = store.parts.layout.blob(Digest.parse(lone.digest))
        path.parent.mkdir(parents=True)
        path.write_bytes(lone.content)
        monkeypatch.setattr("mirror.store.sweep.open_exclusive", unreadable)

        assert (await swept(store)).counts == {}
        assert path.exists()
