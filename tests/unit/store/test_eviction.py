"""What goes and what stays: whole images, pins, upstreams' own bounds, expiry, crashes."""

import asyncio
import shutil
from collections import Counter
from pathlib import Path

import pytest

from mirror.domain.names import ANONYMOUS_SCOPE, Digest, Repository, Tag
from mirror.settings import Policy
from mirror.settings.units import SizeOrShare
from mirror.store import space
from mirror.store.index import Demand, object_key
from mirror.store.rows import Commit, ObjectRow, TagRow
from mirror.store.space import NoSpaceError
from mirror.store.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.content import Image, blob, image, index
from tests.unit.store.test_store import REPOSITORY, commit, files, is_here, keep, store_of

ONE, TWO = image(1, layer_bytes=3000), image(2, layer_bytes=3000, architecture="arm64")
GHCR = Repository("ghcr.io", "library/alpine")


async def pull(store: Store, pulled: Image) -> None:
    await keep(store, pulled)
    for each in pulled.blobs:
        await commit(store, each)


async def are_here(store: Store, pulled: Image) -> list[bool]:
    return [await is_here(store, each) for each in (pulled, *pulled.blobs)]


# --- whole images ----------------------------------------------------------------------------


async def test_images_go_whole_and_their_refs_with_them(tmp_path: Path) -> None:
    clock = FakeClock(1e9)
    async with store_of(tmp_path, clock=clock) as store:
        for pulled in (ONE, TWO):
            clock.advance(100)
            await pull(store, pulled)
        whole = sum(each.size_bytes for each in (ONE, *ONE.blobs))
        assert await store.changes.evict(whole) == whole

        assert await are_here(store, ONE) == [False] * 4
        assert await are_here(store, TWO) == [True] * 4
        assert set(files(tmp_path)) == {each.digest for each in (TWO, *TWO.blobs)}
        manifests = tmp_path / "refs/docker.io/library/alpine/_manifests"
        assert [path.name for path in manifests.iterdir()] == [TWO.digest]


async def test_more_blobs_than_one_step_takes_go_with_their_manifest(tmp_path: Path) -> None:
    many = image(3, layers=150, layer_bytes=100)
    async with store_of(tmp_path) as store:
        await pull(store, many)
        await store.changes.evict(1)
        assert files(tmp_path) == {}
        assert store.space.used_bytes == 0


async def test_what_nothing_links_goes_before_an_older_image(tmp_path: Path) -> None:
    clock = FakeClock(1e9)
    lone = blob(5000, 9)
    async with store_of(tmp_path, clock=clock) as store:
        await pull(store, ONE)
        clock.advance(1000)
        await commit(store, lone)
        await store.changes.evict(1)

        assert not await is_here(store, lone)
        assert await are_here(store, ONE) == [True] * 4


async def test_a_layer_that_was_touched_before_its_manifest_is_not_older_than_it(
    tmp_path: Path,
) -> None:
    """Uses are noted once a minute; the one that comes from a manifest is noted always."""
    clock = FakeClock(1e9)
    async with store_of(tmp_path, clock=clock) as store:
        await pull(store, ONE)
        clock.advance(100)
        store.touch(*(Digest.parse(each.digest) for each in ONE.blobs))
        clock.advance(30)
        await store.manifest(REPOSITORY, Digest.parse(ONE.digest), ANONYMOUS_SCOPE)
        await store.changes.evict(1)

        assert await are_here(store, ONE) == [False] * 4  # and not a layer alone


# --- in use ----------------------------------------------------------------------------------


async def test_what_is_open_stays_and_goes_when_it_is_closed(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        await commit(store, blob(1000))
        digest = Digest.parse(blob(1000).digest)
        stored = await store.open(digest, ANONYMOUS_SCOPE)
        assert stored is not None
        assert await store.changes.evict(1) == await store.remove(digest) == 0
        stored.close()
        assert await store.changes.evict(1) == 1000


async def test_room_that_comes_within_a_second_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert space.WAIT_SECONDS == 1
    monkeypatch.setattr(space, "WAIT_SECONDS", 30)
    async with store_of(tmp_path, 1000) as store:
        first, second = store.reservation("docker.io"), store.reservation("docker.io")
        await first.grow(800)
        waiting = asyncio.create_task(second.grow(800))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        first.release()
        await waiting
        monkeypatch.setattr(space, "WAIT_SECONDS", 0.02)
        with pytest.raises(NoSpaceError):
            await first.grow(800)
        second.release()


async def test_who_waits_too_long_for_an_eviction_goes_and_the_room_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "MAKE_ROOM_SECONDS", 0.05)
    async with store_of(tmp_path, 1000) as store:
        account, may_go_on = store.space, asyncio.Event()
        account.stored_by["docker.io"] = 900

        async def evict(need_bytes: int, upstream: str | None = None) -> int:
            await may_go_on.wait()
            account.stored_by["docker.io"] -= need_bytes
            return need_bytes

        with pytest.raises(NoSpaceError, match="takes too long"):
            await account.reserve(500, "docker.io", evict)
        leaving = asyncio.create_task(account.reserve(800, "docker.io", evict))
        await asyncio.sleep(0)
        leaving.cancel()
        assert account.reserved_bytes == 0
        monkeypatch.setattr(space, "MAKE_ROOM_SECONDS", 30)
        may_go_on.set()
        await account.reserve(400, "docker.io", evict)

        assert account.reserved_bytes == 400
        assert account.stored_bytes == 500
        account.reserved_by.clear()
        account.stored_by.clear()


async def test_a_store_that_closes_while_room_is_made_leaves_no_task(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with store_of(tmp_path, 1000) as store:
        has_begun = asyncio.Event()

        async def evict(need_bytes: int, upstream: str | None = None) -> int:
            has_begun.set()
            await asyncio.Event().wait()
            return need_bytes

        store.space.stored_by["docker.io"] = 900
        leaving = asyncio.create_task(store.space.reserve(500, "docker.io", evict))
        await has_begun.wait()
        leaving.cancel()
        store.space.stored_by.clear()

    assert asyncio.all_tasks() == before


# --- bounds of upstreams, and time -------------------------------------------------------------


async def test_an_upstream_may_hold_so_much_and_costs_others_nothing(tmp_path: Path) -> None:
    policies = {"ghcr.io": Policy(max_size=SizeOrShare(size_bytes=2500))}
    clock = FakeClock(1e9)
    async with store_of(tmp_path, clock=clock, policies=policies) as store:
        await commit(store, blob(2000, 1))
        for seed in (2, 3, 4):
            clock.advance(100)
            await commit(store, blob(1000, seed), source=GHCR)

        here = [await is_here(store, blob(1000, seed)) for seed in (2, 3, 4)]
        assert here == [False, True, True]
        assert await is_here(store, blob(2000, 1))
        assert store.space.stored_by == {"docker.io": 2000, "ghcr.io": 2000}
        with pytest.raises(NoSpaceError, match=r"ghcr\.io may hold"):
            await store.reservation("ghcr.io").grow(2501)
    async with store_of(tmp_path, policies=policies) as store:
        assert store.space.stored_by == {"docker.io": 2000, "ghcr.io": 2000}


async def test_what_was_nobodys_counts_for_the_upstream_that_has_it_again(tmp_path: Path) -> None:
    """A rebuild finds it without anything that says whose it is; then its upstream sends it."""
    policies = {"ghcr.io": Policy(max_size=SizeOrShare(size_bytes=2500))}
    async with store_of(tmp_path) as store:
        await commit(store, blob(2000), source=GHCR)
    for directory in ("index", "refs"):
        shutil.rmtree(tmp_path / directory)
    clock = FakeClock(1e9)
    async with store_of(tmp_path, clock=clock, policies=policies) as store:
        assert store.space.stored_by == {"": 2000}
        await commit(store, blob(2000), source=GHCR)
        assert store.space.stored_by == Counter({"ghcr.io": 2000})
        clock.advance(100)
        await commit(store, blob(1000, 1), source=GHCR)

        assert not await is_here(store, blob(2000))
        assert store.space.stored_by == Counter({"ghcr.io": 1000})
        assert Counter(store.parts.index.totals.upstreams) == store.space.stored_by


async def test_what_nobody_asked_for_since_expires(tmp_path: Path) -> None:
    policies = {"docker.io": Policy(expire_after_seconds=3600)}
    clock = FakeClock(1e9)
    async with store_of(tmp_path, clock=clock, policies=policies) as store:
        await pull(store, ONE)
        await commit(store, blob(1000), source=GHCR)  # of an upstream that keeps all
        clock.advance(3000)
        await pull(store, TWO)
        clock.advance(700)
        await store.changes.expire()

        assert await are_here(store, ONE) == [False] * 4
        assert await are_here(store, TWO) == [True] * 4
        assert await is_here(store, blob(1000))


# --- pins ------------------------------------------------------------------------------------


async def test_what_is_pinned_stays_with_all_its_platforms_or_some(tmp_path: Path) -> None:
    both, tag = index([ONE, TWO]), Tag("v1")
    async with store_of(tmp_path) as store:
        await keep(store, both)  # type: ignore[arg-type] # an index is kept in the same way
        await pull(store, ONE)
        await pull(store, TWO)
        await store.keep_tag(REPOSITORY, tag, TagRow(both.digest, 1, 1))
        await store.pin(REPOSITORY, tag, ("linux/arm64",))
        await store.changes.evict(1 << 30)
        assert await are_here(store, TWO) == [True] * 4
        assert await is_here(store, both)
        assert await are_here(store, ONE) == [False] * 4
    async with store_of(tmp_path) as store:  # and after a restart
        assert await store.changes.evict(1 << 30) == 0
        assert await store.remove(Digest.parse(TWO.digest)) == 0
        assert await store.unpin(REPOSITORY, tag)
        assert not await store.unpin(REPOSITORY, tag)
        await store.changes.evict(1 << 30)
        assert files(tmp_path) == {}


async def test_a_pin_follows_its_tag(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        await store.pin(REPOSITORY, Tag("v1"))
        for pulled in (ONE, TWO):
            await pull(store, pulled)
            await store.keep_tag(REPOSITORY, Tag("v1"), TagRow(pulled.digest, 1, 1))
        await store.changes.evict(1 << 30)
        assert await are_here(store, ONE) == [False] * 4
        assert await are_here(store, TWO) == [True] * 4


# --- any moment may be the last --------------------------------------------------------------


async def test_a_file_that_was_named_last_is_kept_by_the_next_start(tmp_path: Path) -> None:
    """Killed between the rename and the row: the journal has all that the row needs."""
    pushed = blob(1000)
    async with store_of(tmp_path) as store:
        row = ObjectRow(1000, "blob", (ANONYMOUS_SCOPE,), 1.0, (), "docker.io")
        await store._pools.index_write.run(store._index.announce, Commit(pushed.digest, row))
        path = store._layout.blob(Digest.parse(pushed.digest))
        path.parent.mkdir(parents=True)
        path.write_bytes(pushed.content)
    async with store_of(tmp_path) as store:
        assert await is_here(store, pushed)
        assert store.space.used_bytes == 1000
        assert store._index.pending_commit() is None


async def test_what_was_announced_and_not_named_is_forgotten(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        row = ObjectRow(1000, "blob", (ANONYMOUS_SCOPE,), 1.0, (), "docker.io")
        await store._pools.index_write.run(store._index.announce, Commit(blob(1000).digest, row))
    async with store_of(tmp_path) as store:
        assert not await is_here(store, blob(1000))
        assert store._index.pending_commit() is None


async def test_files_whose_rows_have_gone_are_removed_by_the_next_start(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        await pull(store, ONE)

        class Careless:
            def condemn(self, _digest: str, _row: ObjectRow) -> list[str]:
                return []

        step = await store._pools.index_write.run(
            store._index.evict, Demand(1 << 30, 1e12), Careless()
        )
        assert len(step.victims) == 4
        assert files(tmp_path)  # killed before they went
    async with store_of(tmp_path) as store:
        assert files(tmp_path) == {}
        assert store.space.used_bytes == 0
        assert store._index.pending_removal() is None
        assert store._index.get(object_key(ONE.digest), ObjectRow) is None
