"""The bound on bytes holds at every moment, whatever comes, is read and is evicted."""

import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from mirror.domain.names import ANONYMOUS_SCOPE, Digest
from mirror.observe.metrics import Metrics
from mirror.runtime.clock import Clock
from mirror.runtime.pools import Pools
from mirror.runtime.recent import MemoryTier
from mirror.settings import Cache
from mirror.settings.units import SizeOrShare
from mirror.store.space import NoSpaceError
from mirror.store.store import Store
from tests.fakes.clock import FakeClock

LIMIT_BYTES = 1000
OBJECTS = [bytes([number]) * (50 + 37 * number) for number in range(16)]
STEPS = st.lists(
    st.tuples(st.sampled_from(["keep", "touch", "hold", "drop"]), st.integers(0, 15)), max_size=40
)


class World:
    """A store, a clock, and the objects that are being read."""

    def __init__(self, directory: Path, pools: Pools) -> None:
        self.clock = FakeClock(1_000_000.0)
        settings = Cache(
            directory=directory,
            max_size=SizeOrShare(size_bytes=LIMIT_BYTES),
            min_free=SizeOrShare(size_bytes=0),
        )
        tier = MemoryTier(1 << 20)
        metrics = Metrics(CollectorRegistry())
        clock = Clock(wall=self.clock, monotonic=self.clock)
        self.store = Store(settings, pools, tier, metrics, clock)
        self.directory = directory
        self.held: dict[Digest, ExitStack] = {}

    async def step(self, action: str, content: bytes) -> None:
        digest = Digest.of(content)
        self.clock.advance(61)
        if action == "keep":
            try:
                await self.store.keep_document(content, "docker.io", ANONYMOUS_SCOPE)
            except NoSpaceError:
                assert self.held, "nothing is being read, so there must have been room"
        elif action == "touch":
            self.store.touch(digest)
            await self.store.flush()
        elif action == "hold" and digest not in self.held:
            stored = await self.store.open(digest, ANONYMOUS_SCOPE)
            if stored is not None:
                self.held[digest] = ExitStack()
                self.held[digest].enter_context(stored)
        elif action == "drop" and digest in self.held:
            self.held.pop(digest).close()

    def assert_bounded(self) -> None:
        files = [file for file in (self.directory / "blobs").rglob("*") if file.is_file()]
        on_disk = sum(file.stat().st_size for file in files)
        assert on_disk == self.store.space.stored_bytes <= LIMIT_BYTES
        assert self.store.space.reserved_bytes == 0
        names = {file.name for file in files}
        assert {digest.hex for digest in self.held} <= names, "what is read was evicted"


@settings(max_examples=15, deadline=None)
@given(STEPS)
def test_the_bound_holds_and_what_is_read_stays(steps: list[tuple[str, int]]) -> None:
    async def run(directory: Path) -> None:
        pools = Pools()
        world = World(directory, pools)
        try:
            for action, number in steps:
                await world.step(action, OBJECTS[number])
                world.assert_bounded()
        finally:
            for stack in world.held.values():
                stack.close()
            await world.store.close()
            pools.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    async def run() -> set[str]:
        pools = Pools()
        world = World(tmp_path, pools)
        first, second, third = (bytes([number]) * 400 for number in (1, 2, 3))
        await world.step("keep", first)
        await world.step("keep", second)
        await world.step("touch", first)
        await world.step("keep", third)
        await world.store.close()
        pools.close()
        return {file.name for file in (tmp_path / "blobs").rglob("*") if file.is_file()}

    kept = asyncio.run(run())
    assert kept == {Digest.of(bytes([number]) * 400).hex for number in (1, 3)}
