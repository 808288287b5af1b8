"""The scrub finds what the disk has spoilt; the sweep runs by itself."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mirror.service.housekeeping import Housekeeping, Pace
from mirror.service.policies import Policies
from mirror.store.sweep import Sweep
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.harness import Mirror, mirror_of
from tests.unit.web.wire import REPOSITORY, blob_path, manifest_path

ONE = image(1)
QUICK = Pace(bytes_per_second=1e12, round_seconds=3600, sweep_seconds=3600, first_seconds=0)


@pytest.fixture
async def mirror(tmp_path: Path, upstream: FakeRegistry) -> AsyncIterator[Mirror]:
    upstream.push(REPOSITORY, ONE, ["one"])
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as up:
        await up.get(manifest_path("one"))
        await up.pull_blobs(REPOSITORY, ONE)
        yield up


def house(mirror: Mirror, pace: Pace = QUICK) -> Housekeeping:
    store = mirror.up.store
    return Housekeeping(store, Sweep(store, Policies({}).useful_seconds), mirror.up.metrics, pace)


def scrubbed(mirror: Mirror) -> float:
    return mirror.up.metrics.registry.get_sample_value("mirror_cache_scrubbed_bytes_total") or 0.0


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not happened():  # noqa: ASYNC110 -- what happens on the disk sets no event
            await asyncio.sleep(0.001)


async def test_a_round_reads_everything_and_drops_what_is_spoilt(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    layer = ONE.layers[0]
    path = mirror.stored(layer.digest)
    path.write_bytes(b"x" * path.stat().st_size)
    scrub = asyncio.create_task(house(mirror).scrub())
    try:
        size = sum(each.size_bytes for each in (ONE, *ONE.blobs))
        await mirror.becomes("mirror_cache_scrubbed_bytes_total", size)
        await mirror.becomes("mirror_cache_corrupt_objects_total", 1)
    finally:
        scrub.cancel()
        await asyncio.gather(scrub, return_exceptions=True)
    assert not path.exists()
    upstream.clear()
    assert (await mirror.get(blob_path(layer.digest))).body == layer.content
    assert upstream.requests


async def test_the_scrub_is_as_slow_as_it_was_told(mirror: Mirror) -> None:
    slow = Pace(bytes_per_second=1, round_seconds=3600, sweep_seconds=3600, first_seconds=0)
    scrub = asyncio.create_task(house(mirror, slow).scrub())
    sizes = {each.size_bytes for each in (ONE, *ONE.blobs)}
    try:
        await until(lambda: scrubbed(mirror) > 0)
        read = scrubbed(mirror)
        await asyncio.sleep(0.1)
        assert scrubbed(mirror) == read
    finally:
        scrub.cancel()
        await asyncio.gather(scrub, return_exceptions=True)
    assert read in sizes  # one object, and then it waits for as many seconds as it has bytes


async def test_the_sweep_removes_what_nothing_needs(mirror: Mirror) -> None:
    lone = mirror.stored("sha256:" + "ab" * 32)
    lone.parent.mkdir(parents=True, exist_ok=True)
    lone.write_bytes(b"x")
    sweep = asyncio.create_task(house(mirror).sweep())
    try:
        await until(lambda: not lone.exists())
    finally:
        sweep.cancel()
        await asyncio.gather(sweep, return_exceptions=True)
    assert mirror.stored(ONE.digest).exists()
