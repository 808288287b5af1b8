"""Manifests by digest: verified, bounded, asked for once."""

import asyncio
from pathlib import Path

import pytest

from mirror.settings.units import SizeOrShare
from tests.fakes import faults
from tests.fakes.clock import FakeClock
from tests.fakes.content import OCI_INDEX, OCI_MANIFEST, blob, digest_of, image, index
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, Mirror, gathered, mirror_of
from tests.unit.web.wire import REPOSITORY, blob_path, manifest_path

ONE, TWO = image(1), image(2)


async def test_a_digest_is_never_asked_for_again(
    mirror: Mirror, upstream: FakeRegistry, clock: FakeClock
) -> None:
    upstream.push(REPOSITORY, ONE)

    cold = await mirror.get(manifest_path(ONE.digest))
    await mirror.pull_blobs(REPOSITORY, ONE)
    clock.advance(10 * 365 * 86400)
    warm = await mirror.get(manifest_path(ONE.digest))

    assert cold.body == warm.body == ONE.content
    assert (cold.cache_status, warm.cache_status) == (
        "mirror; fwd=uri-miss; stored",
        "mirror; hit",
    )
    assert upstream.count(kind="manifest") == 1


async def test_a_digest_is_asked_for_once_by_many(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.push(REPOSITORY, ONE)
    gate = upstream.hold_head(kind="manifest")
    asking = asyncio.create_task(gathered(20, lambda: mirror.get(manifest_path(ONE.digest))))
    await gate.reached.wait()
    await mirror.get("/v2/")
    gate.release()

    answers = await asking

    assert all(each.body == ONE.content for each in answers)
    assert sorted({each.cache_status for each in answers}) == [
        "mirror; fwd=uri-miss; collapsed",
        "mirror; fwd=uri-miss; stored",
    ]
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("by", ["digest", "tag"])
async def test_s07_wrong_bytes_are_neither_served_nor_kept(
    mirror: Mirror, upstream: FakeRegistry, by: str
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    upstream.fail(faults.flip(at_byte=7), kind="manifest", method="GET")

    got = await mirror.get(manifest_path("v1" if by == "tag" else ONE.digest))

    assert (got.status, got.error_code) == (502, "UNKNOWN")
    assert not [path for path in (mirror.directory / "blobs").rglob("*") if path.is_file()]
    assert await mirror.metric("mirror_digest_mismatches_total", upstream="docker.io") == (
        upstream.count("GET")
    )
    upstream.heal()
    assert (await mirror.get(manifest_path(ONE.digest))).body == ONE.content


@pytest.mark.parametrize(("more_bytes", "status"), [(0, 200), (1, 502)])
async def test_s11_the_cap_of_four_mib(
    mirror: Mirror, upstream: FakeRegistry, more_bytes: int, status: int
) -> None:
    bare = image(annotations={"x": ""})
    large = image(annotations={"x": "y" * (4 * MIB - bare.size_bytes + more_bytes)})
    assert large.size_bytes == 4 * MIB + more_bytes
    upstream.push(REPOSITORY, large, ["v1"])

    for reference in (large.digest, "v1"):
        got = await mirror.get(manifest_path(reference))
        assert got.status == status
        assert status == 200 or got.error_code == "MANIFEST_INVALID"
    assert mirror.stored(large.digest).exists() is (status == 200)


async def test_s11_a_manifest_without_end_is_not_read_to_its_end(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.put_manifest(REPOSITORY, "v1", b"x" * (32 * MIB), OCI_MANIFEST)
    upstream.fail(faults.chunked(), kind="manifest", method="GET")

    assert (await mirror.get(manifest_path("v1"))).status == 502
    assert await mirror.metric("mirror_upstream_bytes_total", upstream="docker.io") < 8 * MIB


@pytest.mark.parametrize("by", ["digest", "tag"])
async def test_sha512(mirror: Mirror, upstream: FakeRegistry, by: str) -> None:
    pushed = image(algorithm="sha512")
    upstream.push(REPOSITORY, pushed, ["v1"])

    manifest = await mirror.get(manifest_path("v1" if by == "tag" else pushed.digest))
    layer = await mirror.get(blob_path(pushed.layers[0].digest))
    await mirror.settled()

    assert (manifest.body, layer.body) == (pushed.content, pushed.layers[0].content)
    assert manifest.headers["Docker-Content-Digest"] == pushed.digest
    assert pushed.digest.startswith("sha512:")
    for digest in (pushed.digest, pushed.layers[0].digest):
        assert mirror.stored(digest).exists()
    upstream.clear()
    assert (await mirror.get(manifest_path(pushed.digest))).cache_status == "mirror; hit"
    assert (await mirror.head(blob_path(pushed.layers[0].digest))).cache_status == "mirror; hit"
    assert not upstream.requests


async def test_wrong_sha512(mirror: Mirror, upstream: FakeRegistry) -> None:
    pushed = image(algorithm="sha512")
    upstream.push(REPOSITORY, pushed)
    upstream.fail(faults.flip(at_byte=7), method="GET")

    assert (await mirror.get(manifest_path(pushed.digest))).status == 502
    assert (await mirror.get(blob_path(pushed.layers[0].digest))).status == 502


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b"", OCI_MANIFEST),
        (b"<html></html>", "text/html"),
        (b'{"schemaVersion": 2}', OCI_MANIFEST),
        (b'{"manifests": [], "layers": [], "config": {}}', OCI_INDEX),
        (ONE.content, OCI_INDEX),
        (index([ONE]).content, OCI_MANIFEST),
        (b'{"schemaVersion": 1, "fsLayers": []}', OCI_MANIFEST),
    ],
    ids=["empty", "page", "nothing", "both", "not an index", "an index", "schema 1"],
)
async def test_s08_what_is_no_manifest_is_neither_served_nor_kept(
    mirror: Mirror, upstream: FakeRegistry, content: bytes, media_type: str
) -> None:
    digest = upstream.put_manifest(REPOSITORY, "v1", content, media_type)

    assert (await mirror.get(manifest_path("v1"))).status == 502
    assert not mirror.stored(digest).exists()


async def test_a_large_blob_is_not_read_into_memory_for_a_manifest(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    layer = blob(5 * MIB)
    upstream.push_blob(REPOSITORY, layer)
    await mirror.get(blob_path(layer.digest))
    await mirror.settled()
    upstream.put_manifest(REPOSITORY, "v1", layer.content, OCI_MANIFEST)

    for reference in ("v1", layer.digest):
        got = await mirror.get(manifest_path(reference))
        assert (got.status, got.error_code) == (502, "MANIFEST_INVALID")
    # It was asked for under its cap, and not taken from the store, which has no cap.
    assert upstream.count("GET", "manifest") == 2


async def test_a_child_is_a_manifest_and_no_blob(mirror: Mirror, upstream: FakeRegistry) -> None:
    pushed = index([ONE, TWO])
    upstream.push(REPOSITORY, pushed, ["v1"])
    await mirror.get(manifest_path("v1"))
    await mirror.get(manifest_path(ONE.digest))

    assert (await mirror.get(blob_path(ONE.digest))).status == 404
    assert (await mirror.head(blob_path(ONE.digest))).status == 404
    assert (await mirror.get(manifest_path(ONE.layers[0].digest))).status == 404


async def test_a_full_disk_does_not_keep_a_manifest_from_being_served(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    cache = {"max_size": SizeOrShare(size_bytes=100)}
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, cache=cache) as mirror:
        assert (await mirror.get(manifest_path("v1"))).body == ONE.content
        assert (await mirror.get(f"/v2/{REPOSITORY}/tags/list")).status == 200
        assert (await mirror.get(f"/v2/{REPOSITORY}/referrers/{ONE.digest}")).status == 200
        layer = await mirror.get(blob_path(ONE.layers[0].digest))
        assert digest_of(layer.body) == ONE.layers[0].digest
        assert layer.cache_status == "mirror; fwd=uri-miss; detail=passthrough"
