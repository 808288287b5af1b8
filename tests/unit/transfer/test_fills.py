"""Fills seen from outside: past the cache, abandoned, refused, without a length."""

import asyncio
from pathlib import Path

import pytest

from mirror.settings import Fill, Policy, Timeouts
from mirror.settings.units import SizeOrShare
from tests.fakes import faults
from tests.fakes.content import blob, image
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, Mirror, mirror_of

REPOSITORY = "library/alpine"


def path(digest: str, repository: str = REPOSITORY) -> str:
    return f"/v2/{repository}/blobs/{digest}"


@pytest.mark.parametrize("range_header", [None, "bytes=1000000-1999999"])
async def test_a_blob_larger_than_the_cache_passes_it(
    tmp_path: Path, upstream: FakeRegistry, range_header: str | None
) -> None:
    pushed = blob(3 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    small = {"max_size": SizeOrShare(size_bytes=MIB)}
    headers = {"Range": range_header} if range_header else {}
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, cache=small) as mirror:
        got = await mirror.get(path(pushed.digest), headers)

        expected = pushed.content[1_000_000:2_000_000] if range_header else pushed.content
        assert got.body == expected
        assert await mirror.total("mirror_requests_total", result="passthrough") == 1
        assert not mirror.stored(pushed.digest).exists()


async def test_the_cache_stays_below_its_bound_and_drops_what_is_oldest(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    pushed = [blob(MIB, seed) for seed in range(6)]
    for each in pushed:
        upstream.push_blob(REPOSITORY, each)
    bound = 3 * MIB + 1000
    small = {"max_size": SizeOrShare(size_bytes=bound)}
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, cache=small) as mirror:
        for each in pushed:
            assert (await mirror.get(path(each.digest))).body == each.content
            await mirror.settled()
            stored = [file for file in (tmp_path / "cache/blobs").rglob("*") if file.is_file()]
            assert sum(file.stat().st_size for file in stored) <= bound
            assert mirror.up.store.space.used_bytes <= bound
        assert mirror.stored(pushed[-1].digest).exists()
        assert await mirror.total("mirror_cache_evictions_total") == 3


async def test_trap_03_a_fill_without_readers_goes_on(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    """Distribution's fill ends with its first client's broken line."""
    pushed = blob(4 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=MIB)
    async with mirror.session.get(mirror.url + path(pushed.digest)) as response:
        await gate.reached.wait()
        response.close()
    gate.release()
    await mirror.settled()

    assert mirror.stored(pushed.digest).read_bytes() == pushed.content


async def test_an_abandoned_fill_stops_if_the_operator_says_so(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    pushed = blob(4 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.hold_body(pushed.digest, after_bytes=MIB)
    stop = Fill(abandon="stop")
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, fill=stop) as mirror:
        async with mirror.session.get(mirror.url + path(pushed.digest)) as response:
            await response.content.readexactly(1000)
            response.close()
        await asyncio.wait_for(mirror.settled(), 10)

        assert await mirror.metric("mirror_fills_total", outcome="abandoned") == 1
        assert not list((tmp_path / "cache/partial").iterdir())


async def test_one_repository_that_lacks_a_blob_does_not_speak_for_another(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    pushed = image()
    upstream.push(REPOSITORY, pushed, tags=["v1"])
    await mirror.get(f"/v2/{REPOSITORY}/manifests/v1")
    digest = pushed.layers[0].digest
    gate = upstream.hold_head("blob", digest, repository="library/other")
    stranger = asyncio.create_task(mirror.get(path(digest, "library/other")))
    await gate.reached.wait()
    owner = asyncio.create_task(mirror.get(path(digest)))
    gate.release()

    assert (await stranger).status == 404
    assert (await owner).body == pushed.layers[0].content


async def test_a_range_far_ahead_of_a_slow_fill_is_forwarded(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    pushed = blob(4 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=1000, times=1)
    at_once = Fill(range_wait_seconds=0)
    patient = Policy(timeouts=Timeouts(idle_seconds=30))  # or the held fill would be resumed
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, fill=at_once, policy=patient
    ) as mirror:
        first = asyncio.create_task(mirror.get(path(pushed.digest)))
        await gate.reached.wait()
        got = await mirror.get(path(pushed.digest), {"Range": "bytes=3000000-3000999"})

        assert got.body == pushed.content[3_000_000:3_001_000]
        assert await mirror.total("mirror_forwarded_ranges_total") == 1
        gate.release()
        assert (await first).body == pushed.content


async def test_an_upstream_that_ignores_ranges_is_read_over(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    pushed = blob(3 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.cut(MIB), kind="blob", times=1)
    upstream.fail(faults.ignore_range(), kind="blob")

    assert (await mirror.get(path(pushed.digest))).body == pushed.content


async def test_a_blob_of_unknown_length_arrives_chunked(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    pushed = blob(MIB)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.chunked(), kind="blob")

    got = await mirror.get(path(pushed.digest))

    assert got.body == pushed.content
    assert got.headers["Transfer-Encoding"] == "chunked"
