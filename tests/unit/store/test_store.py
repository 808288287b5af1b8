"""The store: bounded at every moment, healed by a miss, whole after a restart."""

import asyncio
import itertools
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from mirror.domain.manifests import LinkKind, read_manifest
from mirror.domain.names import ANONYMOUS_SCOPE, Digest, Repository
from mirror.observe.metrics import Metrics
from mirror.runtime.clock import Clock
from mirror.runtime.pools import Pools
from mirror.runtime.recent import MemoryTier
from mirror.settings import Cache, Policy
from mirror.settings.units import SizeOrShare
from mirror.store import space
from mirror.store.space import NoSpaceError, Reservation
from mirror.store.store import Store
from mirror.store.stored import StoredObject
from tests.fakes.clock import FakeClock
from tests.fakes.content import Blob, Image, blob, image, index
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, Mirror, mirror_of

REPOSITORY = Repository("docker.io", "library/alpine")


@asynccontextmanager
async def store_of(
    directory: Path,
    max_bytes: int = 1 << 30,
    min_free: int = 0,
    clock: FakeClock | None = None,
    share: float | None = None,
    policies: Mapping[str, Policy] = MappingProxyType({}),
) -> AsyncIterator[Store]:
    """Open a store, bounded by *max_bytes* or by a *share* of the file system."""
    pools, tier = Pools(), MemoryTier(1 << 20)
    cache = Cache(
        directory=directory,
        max_size=SizeOrShare(size_bytes=None if share else max_bytes, share=share),
        min_free=SizeOrShare(size_bytes=min_free),
    )
    clocks = Clock() if clock is None else Clock(wall=clock, monotonic=clock)
    store = Store(cache, pools, tier, Metrics(CollectorRegistry()), clocks, policies)
    try:
        yield store
        await store.close()
    finally:
        pools.close()
        await tier.clear()


async def commit(
    store: Store, pushed: Blob, scope: str = ANONYMOUS_SCOPE, source: Repository = REPOSITORY
) -> None:
    """Bring a blob in as a fill does; raises NoSpaceError."""
    digest = Digest.parse(pushed.digest)
    reservation = store.reservation(source.upstream)
    try:
        await reservation.grow(pushed.size_bytes)
        partial = store.partials.take(digest, scope)
        try:
            partial.hash([pushed.content])
            partial.write([pushed.content])
            reservation.written(pushed.size_bytes)
            await store.commit_blob(partial, source, scope, reservation)
        finally:
            partial.close()
    finally:
        reservation.release()


async def keep(store: Store, pushed: Image, scope: str = ANONYMOUS_SCOPE) -> None:
    manifest = read_manifest(pushed.content, pushed.media_type, Digest.parse(pushed.digest))
    await store.keep_manifest(REPOSITORY, manifest, scope)


def files(directory: Path) -> dict[str, int]:
    """Return the sizes of the files in ``blobs/``."""
    return {
        f"sha256:{path.name}": path.stat().st_size
        for path in (directory / "blobs").rglob("*")
        if path.is_file()
    }


async def is_here(store: Store, pushed: Blob) -> bool:
    return await store.has(Digest.parse(pushed.digest), ANONYMOUS_SCOPE)


# --- the bound -------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody gives room back in these tests: what is waited for comes no more."""
    monkeypatch.setattr(space, "WAIT_SECONDS", 0.02)


_LIMIT = 1000
_SIZES = [1, 100, 300, 500, 900, 1000, 1001]
_NUMBERS = itertools.count()
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["commit", "commit", "commit", "read", "hold", "let go", "reserve", "give"]
        ),
        st.integers(0, len(_SIZES) - 1),
    ),
    max_size=14,
)


class Machine:
    """A store beside a model of it: sizes by digest, least recently used first."""

    def __init__(self, store: Store, directory: Path) -> None:
        self.store = store
        self.directory = directory
        self.blobs = [blob(size, seed) for seed, size in enumerate(_SIZES)]
        self.sizes: dict[str, int] = {}
        self.held: dict[str, StoredObject] = {}
        self.reservations: list[Reservation] = []

    async def step(self, what: str, number: int) -> None:
        """Do a step; raises AssertionError if what must hold after each does not."""
        if what == "commit":
            await self._commit(self.blobs[number])
        elif what in {"read", "hold"}:
            await self._read(self.blobs[number], hold=what == "hold")
        elif what == "reserve":
            await self._reserve(_SIZES[number])
        elif what == "let go" and self.held:
            self.held.popitem()[1].close()
        elif what == "give" and self.reservations:
            self.reservations.pop().release()
        self.assert_alike()

    def assert_alike(self) -> None:
        """The store has what the model has, and stays below its bound."""
        space = self.store.space
        assert space.used_bytes <= _LIMIT
        assert space.reserved_bytes == self._reserved()
        assert space.stored_bytes == self.store._index.totals.size_bytes
        assert files(self.directory) == self.sizes
        assert space.stored_bytes == sum(self.sizes.values())

    def close(self) -> None:
        for stored in self.held.values():
            stored.close()

    async def _commit(self, pushed: Blob) -> None:
        if pushed.digest in self.sizes:
            return
        if self._make_room(pushed.size_bytes):
            await commit(self.store, pushed)
            self.sizes[pushed.digest] = pushed.size_bytes
        else:
            with pytest.raises(NoSpaceError):
                await commit(self.store, pushed)

    async def _read(self, pushed: Blob, *, hold: bool) -> None:
        digest = Digest.parse(pushed.digest)
        stored = await self.store.open(digest, ANONYMOUS_SCOPE)
        assert (stored is not None) == (pushed.digest in self.sizes)
        if stored is None:
            return
        self.store.touch(digest)
        self.sizes[pushed.digest] = self.sizes.pop(pushed.digest)
        assert stored.file.read() == pushed.content
        if hold and pushed.digest not in self.held:
            self.held[pushed.digest] = stored
        else:
            stored.close()

    async def _reserve(self, size: int) -> None:
        reservation = self.store.reservation("docker.io")
        if self._make_room(size):
            await reservation.grow(size)
            self.reservations.append(reservation)
        else:
            with pytest.raises(NoSpaceError):
                await reservation.grow(size)

    def _reserved(self) -> int:
        return sum(reservation.size_bytes for reservation in self.reservations)

    def _make_room(self, size: int) -> bool:
        if size > _LIMIT:
            return False
        for digest in list(self.sizes):
            if sum(self.sizes.values()) + self._reserved() + size <= _LIMIT:
                break
            kept = self.sizes.pop(digest)
            if digest in self.held:
                self.sizes[digest] = kept  # it goes behind what was used until now
        return sum(self.sizes.values()) + self._reserved() + size <= _LIMIT


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=_STEPS)
def test_the_bound_holds_at_every_moment_and_the_least_recently_used_go(
    tmp_path: Path, steps: list[tuple[str, int]]
) -> None:
    directory = tmp_path / str(next(_NUMBERS))

    async def check() -> None:
        clock = FakeClock(1e9)
        async with store_of(directory, _LIMIT, clock=clock) as store:
            machine = Machine(store, directory)
            for what, number in steps:
                clock.advance(61)  # uses are noted once a minute
                await machine.step(what, number)
            machine.close()
            machine.assert_alike()

    asyncio.run(check())
    shutil.rmtree(directory)


async def test_objects_are_counted_once_however_often_they_come(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        pulled = image()
        for _ in range(3):
            await keep(store, pulled)
            await commit(store, pulled.layers[0])
        both = pulled.size_bytes + pulled.layers[0].size_bytes

        assert store.space.used_bytes == both == sum(files(tmp_path).values())


async def test_two_who_keep_the_same_manifest_at_once_do_not_spoil_it(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        pulled = [image(seed) for seed in range(5)]
        await asyncio.gather(*(keep(store, each) for each in pulled * 4))

        assert files(tmp_path) == {each.digest: each.size_bytes for each in pulled}
        assert store.space.used_bytes == sum(each.size_bytes for each in pulled)
        assert not list((tmp_path / "partial").iterdir())


async def test_a_share_of_the_file_system_is_a_bound(tmp_path: Path) -> None:
    facts = os.statvfs(tmp_path)
    async with store_of(tmp_path, share=0.5) as store:
        assert store.space.limit_bytes == pytest.approx(
            facts.f_blocks * facts.f_frsize / 2, rel=0.01
        )


async def test_the_file_system_keeps_its_free_space(tmp_path: Path) -> None:
    facts = os.statvfs(tmp_path)
    free = facts.f_bavail * facts.f_frsize
    # Others use the disk, too: figures that a file of theirs does not change.
    async with store_of(tmp_path, min_free=4 * free) as store:
        with pytest.raises(NoSpaceError):
            await store.reservation("docker.io").grow(1)
    async with store_of(tmp_path, 1 << 60, min_free=free // 2) as store:
        await commit(store, blob(1000))
        with pytest.raises(NoSpaceError):
            await store.reservation("docker.io").grow(free)


async def test_what_is_written_already_is_not_wanted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = os.statvfs(tmp_path)

    def statvfs(_path: object) -> os.statvfs_result:
        whole, frame = list(facts), 1000
        whole[0:5] = [frame, frame, 100, 100, free]
        return os.statvfs_result(whole)

    free = 50  # blocks of 1000 bytes
    async with store_of(tmp_path, 90_000, min_free=10_000) as store:
        monkeypatch.setattr(os, "statvfs", statvfs)
        first = store.reservation("docker.io")
        await first.grow(30_000)
        with pytest.raises(NoSpaceError):
            await store.reservation("docker.io").grow(11_000)
        free = 20  # the first has written all it asked for
        first.written(30_000)
        await store.reservation("docker.io").grow(10_000)
        first.release()
        assert store.space.written_bytes == 0


async def test_a_bound_that_was_lowered_holds_from_the_start(tmp_path: Path) -> None:
    clock = FakeClock(1e9)
    async with store_of(tmp_path, clock=clock) as store:
        for seed in range(4):
            clock.advance(100)
            await commit(store, blob(1000, seed))
    async with store_of(tmp_path, 2500, clock=clock) as store:
        await store.trim()

        assert files(tmp_path) == {blob(1000, seed).digest: 1000 for seed in (2, 3)}
        assert store.space.used_bytes == 2000


# --- last use --------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["manifest", "index"])
async def test_trap_24_what_an_index_or_manifest_links_is_used_with_it(
    tmp_path: Path, asked: str
) -> None:
    """Harbor purges the layers of hot images: nodes that have them ask for the index only."""
    clock = FakeClock(1e9)
    hot, cold = image(1, layer_bytes=3000), image(2, layer_bytes=3000)
    top = index([hot])
    async with store_of(tmp_path, 20_000, clock=clock) as store:
        await keep(store, top)  # type: ignore[arg-type] # an index is kept in the same way
        for pulled in (hot, cold):
            await keep(store, pulled)
            for each in pulled.blobs:
                clock.advance(1)
                await commit(store, each)
        for _ in range(3):
            clock.advance(3600)
            wanted = top if asked == "index" else hot
            digest = Digest.parse(wanted.digest)
            assert await store.manifest(REPOSITORY, digest, ANONYMOUS_SCOPE) is not None
        await commit(store, blob(9000, 3))

        assert [await is_here(store, each) for each in hot.blobs] == [True] * 3
        assert not all([await is_here(store, each) for each in cold.blobs])


async def test_uses_outlast_a_restart(tmp_path: Path) -> None:
    clock = FakeClock(1e9)
    pushed = [blob(1000, seed) for seed in range(3)]
    async with store_of(tmp_path, 3000, clock=clock) as store:
        for each in pushed:
            clock.advance(61)
            await commit(store, each)
        clock.advance(61)
        store.touch(Digest.parse(pushed[0].digest))
    async with store_of(tmp_path, 3000, clock=clock) as store:
        await commit(store, blob(1000, 9))

        assert [await is_here(store, each) for each in pushed] == [True, False, True]


async def test_a_use_is_written_once_a_minute(tmp_path: Path) -> None:
    clock = FakeClock(1e9)
    digest = Digest.parse(blob(10).digest)
    async with store_of(tmp_path, clock=clock) as store:
        await commit(store, blob(10))
        clock.advance(100)
        for _ in range(5):
            store.touch(digest)
            clock.advance(10)
        assert [used_at for _, used_at in store._uses.take_pending()] == [1e9 + 100]
        clock.advance(10)
        store.touch(digest)
        assert [used_at for _, used_at in store._uses.take_pending()] == [1e9 + 160]


# --- eviction beside everything else ---------------------------------------------------------


async def test_trap_23_eviction_needs_no_pause(tmp_path: Path, upstream: FakeRegistry) -> None:
    """Distribution's garbage collection wants the registry read-only."""
    pushed = [blob(MIB, seed) for seed in range(8)]
    for each in pushed:
        upstream.push_blob("library/alpine", each)
    small = {"max_size": SizeOrShare(size_bytes=3 * MIB)}
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, cache=small) as mirror:

        async def pull(each: Blob) -> bool:
            return (
                await mirror.get(f"/v2/library/alpine/blobs/{each.digest}")
            ).body == each.content

        for _ in range(2):
            assert await asyncio.gather(*(pull(each) for each in pushed * 3)) == [True] * 24
            await mirror.settled()
            assert sum(files(tmp_path / "cache").values()) <= 3 * MIB
        assert await mirror.total("mirror_cache_evictions_total") > 0


async def test_an_object_that_is_being_read_stays(tmp_path: Path) -> None:
    async with store_of(tmp_path, 2000) as store:
        await commit(store, blob(1500, 1))
        stored = await store.open(Digest.parse(blob(1500, 1).digest), ANONYMOUS_SCOPE)
        assert stored is not None
        with stored:
            with pytest.raises(NoSpaceError):
                await commit(store, blob(1500, 2))
            assert stored.file.read() == blob(1500, 1).content
        await commit(store, blob(1500, 2))
        assert list(files(tmp_path)) == [blob(1500, 2).digest]


async def test_who_stops_waiting_for_a_file_leaves_none_open(tmp_path: Path) -> None:
    digest = Digest.parse(blob(1000).digest)
    async with store_of(tmp_path) as store:
        await commit(store, blob(1000))
        for _ in range(20):
            opening = asyncio.create_task(store.open(digest, ANONYMOUS_SCOPE))
            await asyncio.sleep(0)
            opening.cancel()
            stored = (await asyncio.gather(opening, return_exceptions=True))[0]
            if isinstance(stored, StoredObject):
                stored.close()
        async with asyncio.timeout(5):  # the thread closes what nobody waits for
            while not await store.remove(digest):  # noqa: ASYNC110 -- no event tells
                await asyncio.sleep(0.01)
        assert not files(tmp_path)


async def test_a_change_that_nobody_waits_for_is_counted(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        for seed in range(20):
            committing = asyncio.create_task(commit(store, blob(1000, seed)))
            for _ in range(seed):
                await asyncio.sleep(0)
            committing.cancel()
            await asyncio.gather(committing, return_exceptions=True)
        await store.changes.close()  # behind all that was under way

        assert store.space.reserved_bytes == store.space.written_bytes == 0
        assert store.space.stored_bytes == store._index.totals.size_bytes


# --- files that are not what they were -------------------------------------------------------


@pytest.mark.parametrize("harm", ["gone", "cut short", "empty"])
async def test_a_blob_file_that_is_not_whole_is_a_miss_and_heals(
    mirror: Mirror, upstream: FakeRegistry, harm: str
) -> None:
    pushed = blob(MIB)
    upstream.push_blob("library/alpine", pushed)
    path = f"/v2/library/alpine/blobs/{pushed.digest}"
    await mirror.get(path)
    await mirror.settled()
    file = mirror.stored(pushed.digest)
    if harm == "gone":
        file.unlink()
    else:
        os.truncate(file, 1000 if harm == "cut short" else 0)

    assert (await mirror.get(path)).body == pushed.content
    await mirror.settled()
    assert (await mirror.get(path)).cache_status == "mirror; hit"
    assert upstream.count("GET", "blob") == 2
    assert mirror.up.store.space.used_bytes == MIB


@pytest.mark.parametrize("harm", ["gone", "cut short", "another"])
async def test_a_manifest_file_that_is_not_right_is_a_miss_and_heals(
    tmp_path: Path, upstream: FakeRegistry, harm: str
) -> None:
    pushed = image()
    upstream.push("library/alpine", pushed, tags=["v1"])
    path = f"/v2/library/alpine/manifests/{pushed.digest}"
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        await mirror.get(path)
        file = mirror.stored(pushed.digest)
    if harm == "gone":
        file.unlink()
    elif harm == "another":
        file.write_bytes(pushed.content.replace(b"linux", b"plan9").replace(b"2", b"3"))
    else:
        os.truncate(file, 100)

    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        assert (await mirror.get(path)).body == pushed.content
        assert file.read_bytes() == pushed.content
        assert mirror.up.store.space.used_bytes == pushed.size_bytes
    assert upstream.count("GET", "manifest") == 2


# --- restart ---------------------------------------------------------------------------------


async def test_trap_21_a_restart_without_upstream_serves_what_was_pulled(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    """Distribution's proxy does not start without its upstream (2016 to this day)."""
    pushed = image()
    top = index([pushed])
    upstream.push("library/alpine", top, tags=["v1"])
    paths = [
        *(f"/v2/library/alpine/manifests/{name}" for name in ("v1", top.digest, pushed.digest)),
        *(f"/v2/library/alpine/blobs/{each.digest}" for each in pushed.blobs),
    ]
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        before = [(await mirror.get(path)).body for path in paths]
        await mirror.settled()
        totals = mirror.up.store._index.totals
    await upstream.go_down()

    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        assert mirror.up.store._index.totals == totals
        assert [(await mirror.get(path)).body for path in paths] == before


async def test_links_and_scopes_outlast_a_restart(tmp_path: Path) -> None:
    digest = Digest.parse(blob(10).digest)
    async with store_of(tmp_path) as store:
        await commit(store, blob(10), "ghcr.io")
    async with store_of(tmp_path) as store:
        assert await store.has(digest, "ghcr.io")
        assert not await store.has(digest, ANONYMOUS_SCOPE)
        assert not await store.has(digest, "docker.io")
        link = await store.facts.link(REPOSITORY, digest, LinkKind.BLOB)
        assert link is not None
        assert link.answered_at
