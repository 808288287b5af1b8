"""Fills seen from outside: past the cache, abandoned, refused, without a length."""

import asyncio
from pathlib import Path

from mirror.settings.units import SizeOrShare
from tests.fakes import faults
from tests.fakes.content import blob, image
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, Mirror, mirror_of

REPOSITORY = "library/alpine"


def path(digest: str, repository: str = REPOSITORY) -> str:
    return f"/v2/{repository}/blobs/{digest}"


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
