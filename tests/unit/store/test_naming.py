"""An object that comes and one that goes, of the same digest, at the same moment."""

import asyncio
import threading
from pathlib import Path

import pytest

from mirror.domain.names import Digest
from mirror.store.database import IndexBrokenError
from mirror.store.index import object_key
from mirror.store.rows import Commit, ObjectRow
from mirror.store.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.content import Blob, blob, image
from tests.unit.store.test_store import REPOSITORY, commit, files, is_here, keep, store_of

IMAGE = image(1, layer_bytes=3000)
BLOB = blob(5000, 9)


def row(store: Store, pushed: Blob) -> ObjectRow | None:
    return store.parts.index.get(object_key(pushed.digest), ObjectRow)


async def test_a_manifest_that_comes_again_is_not_taken_away_by_an_eviction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its old file, which was just going, was taken for the one it had brought."""
    async with store_of(tmp_path) as store:
        await keep(store, IMAGE)
        loop, removals = asyncio.get_running_loop(), store.parts.removals
        is_going, is_named = threading.Event(), threading.Event()
        name, unlink = store._written_whole, removals._unlink
        evictions = []

        def unlink_after_naming(victims: list[tuple[str, str, ObjectRow]]) -> None:
            is_going.set()
            if victims:
                is_named.wait(5)
            unlink(victims)

        def name_during_eviction(*arguments: object) -> object:
            evictions.append(asyncio.run_coroutine_threadsafe(store.changes.evict(2**40), loop))
            is_going.wait(5)
            try:
                return name(*arguments)  # type: ignore[arg-type]  # as they came
            finally:
                is_named.set()

        monkeypatch.setattr(removals, "_unlink", unlink_after_naming)
        monkeypatch.setattr(store, "_written_whole", name_during_eviction)
        await keep(store, IMAGE)
        await asyncio.gather(*map(asyncio.wrap_future, evictions))

        assert len(evictions) == 1
        assert (row(store, IMAGE) is None) == (IMAGE.digest not in files(tmp_path))
        assert await is_here(store, IMAGE)
        manifests = tmp_path / "refs/docker.io/library/alpine/_manifests"
        assert [path.name for path in manifests.iterdir()] == [IMAGE.digest]


async def test_what_is_being_named_is_neither_evicted_nor_dropped(tmp_path: Path) -> None:
    digest = Digest.parse(BLOB.digest)
    async with store_of(tmp_path) as store:
        await commit(store, BLOB)
        store.parts.under_way[BLOB.digest] += 1
        assert await store.changes.evict(2**40) == 0
        assert await store.remove(digest) == 0
        assert not await store.drop(digest, lambda: True)
        assert files(tmp_path) == {BLOB.digest: BLOB.size_bytes}
        store.parts.under_way.clear()
        assert await store.changes.evict(2**40) == BLOB.size_bytes


async def test_a_row_that_cannot_be_written_takes_no_file_of_another_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store_of(tmp_path) as store:
        await commit(store, BLOB)

        def fail(*_: object) -> None:
            raise IndexBrokenError("the disk is full", is_full=True)

        for pushed in (BLOB, IMAGE.blobs[0]):
            with monkeypatch.context() as patch:
                patch.setattr(store.parts.index, "commit", fail)
                with pytest.raises(IndexBrokenError):
                    await commit(store, pushed)

        assert files(tmp_path) == {BLOB.digest: BLOB.size_bytes}
        assert await is_here(store, BLOB)


async def test_a_pinned_object_whose_file_is_gone_goes(tmp_path: Path) -> None:
    clock = FakeClock(1e9)
    async with store_of(tmp_path, clock=clock) as store:
        await keep(store, IMAGE)
        await store.pin(REPOSITORY, Digest.parse(IMAGE.digest))
        assert IMAGE.digest in store.pins.digests
        assert await store.changes.evict(2**40) == 0
        next((tmp_path / "blobs").rglob(IMAGE.digest.partition(":")[2])).unlink()
        await store.changes.evict(2**40)

        assert row(store, IMAGE) is None
        assert store.space.used_bytes == 0


async def test_an_object_is_not_adopted_whose_file_has_gone(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        await commit(store, BLOB)
        known = row(store, BLOB)
        assert known is not None
        await store.remove(Digest.parse(BLOB.digest))

        with pytest.raises(FileNotFoundError):
            await store.adopt(Commit(BLOB.digest, known))
        assert row(store, BLOB) is None
        assert store.parts.index.pending_commit() is None
