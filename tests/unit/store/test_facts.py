"""What is known not to be there: from memory, until it comes."""

import asyncio
import threading
from pathlib import Path

import pytest

from mirror.domain.manifests import LinkKind
from mirror.domain.names import Digest
from mirror.store.database import Database
from mirror.store.facts import link_key
from mirror.store.index import IndexBrokenError
from mirror.store.rows import LinkRow
from mirror.store.store import Store
from tests.fakes.content import blob, image
from tests.unit.store.test_store import REPOSITORY, commit, keep, store_of

BLOB = blob(500, 3)
DIGEST = Digest.parse(BLOB.digest)
IMAGE = image(2, layer_bytes=300)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the keys that the index is asked for."""
    seen: list[str] = []
    real = Database.read

    def read(self: Database, key: str, kind: type) -> object:
        seen.append(key)
        return real(self, key, kind)

    monkeypatch.setattr(Database, "read", read)
    return seen


async def about(store: Store, digest: Digest = DIGEST) -> tuple[bool, bool]:
    found = await store.facts.about(REPOSITORY, digest, LinkKind.BLOB)
    return found[0] is not None, found[1] is not None


async def test_what_is_not_there_is_looked_for_once(tmp_path: Path, reads: list[str]) -> None:
    async with store_of(tmp_path) as store:
        reads.clear()
        assert await about(store) == (False, False)
        assert len(reads) == 2
        assert await about(store) == (False, False)
        assert await store.facts.object(DIGEST) is None
        assert await store.facts.link(REPOSITORY, DIGEST, LinkKind.BLOB) is None
        assert len(reads) == 2


async def test_what_comes_is_there_at_once(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        assert await about(store) == (False, False)
        await commit(store, BLOB)
        assert await about(store) == (True, True)


async def test_what_a_manifest_links_is_known_of_at_once(tmp_path: Path) -> None:
    layer = Digest.parse(IMAGE.blobs[-1].digest)
    async with store_of(tmp_path) as store:
        assert await about(store, layer) == (False, False)
        await keep(store, IMAGE)
        assert (await about(store, layer))[0]


async def test_a_look_that_was_overtaken_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store_of(tmp_path) as store:
        facts, looked, go = store.facts, asyncio.Event(), threading.Event()
        loop, real = asyncio.get_running_loop(), store.parts.index.read

        def slow(key: str, kind: type[LinkRow]) -> LinkRow | None:
            found = real(key, kind)
            loop.call_soon_threadsafe(looked.set)
            go.wait(5)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(store.parts.index, "read", slow)
            looking = asyncio.create_task(facts.link(REPOSITORY, DIGEST, LinkKind.BLOB))
            await looked.wait()
            await facts.put_link(REPOSITORY, DIGEST, LinkKind.BLOB, LinkRow(5, None, 1))
            go.set()
            assert await looking is None
        await facts._recent.drop(link_key(REPOSITORY, DIGEST, LinkKind.BLOB))
        assert await facts.link(REPOSITORY, DIGEST, LinkKind.BLOB) is not None


async def test_an_index_that_cannot_tell_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store_of(tmp_path) as store:
        await commit(store, BLOB)
        await store.facts.forget([f"o:{BLOB.digest}"])

        def broken(_key: str, _kind: type) -> object:
            raise IndexBrokenError("it is locked")

        with monkeypatch.context() as patch:
            patch.setattr(store.parts.index, "read", broken)
            assert await store.facts.object(DIGEST) is None
        assert await store.facts.object(DIGEST) is not None
