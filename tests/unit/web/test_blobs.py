"""GET and HEAD of blobs through the whole mirror."""

import asyncio

import aiohttp
import pytest

from tests.fakes import faults
from tests.fakes.clients import Ended
from tests.fakes.content import blob, image
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, Mirror, gathered

REPOSITORY = "library/alpine"


def path(digest: str, repository: str = REPOSITORY) -> str:
    return f"/v2/{repository}/blobs/{digest}"


async def test_a_blob_is_fetched_once_and_then_served_from_the_store(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    pushed = blob(3 * MIB)
    upstream.push_blob(REPOSITORY, pushed)

    cold = await mirror.get(path(pushed.digest))
    await mirror.settled()
    warm = await mirror.get(path(pushed.digest))

    assert cold.body == warm.body == pushed.content
    assert cold.cache_status == "mirror; fwd=uri-miss; stored"
    assert warm.cache_status == "mirror; hit"
    assert upstream.count("GET", "blob") == 1
    assert mirror.stored(pushed.digest).read_bytes() == pushed.content


async def test_many_clients_cause_one_download(mirror: Mirror, upstream: FakeRegistry) -> None:
    pushed = blob(8 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=4 * MIB)

    async def pull() -> bytes:
        return (await mirror.get(path(pushed.digest))).body

    clients = [asyncio.create_task(pull()) for _ in range(20)]
    await gate.reached.wait()
    late = asyncio.create_task(pull())
    gate.release()
    bodies = await asyncio.gather(*clients, late)

    assert all(body == pushed.content for body in bodies)
    assert upstream.bytes_sent(pushed.digest) == len(pushed.content)
    assert upstream.count("GET", "blob") == 1


async def test_the_client_that_came_first_may_leave(mirror: Mirror, upstream: FakeRegistry) -> None:
    pushed = blob(8 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=4 * MIB)

    async with mirror.session.get(mirror.url + path(pushed.digest)) as first:
        assert first.status == 200
        second = asyncio.create_task(mirror.get(path(pushed.digest)))
        await gate.reached.wait()
        first.close()
    gate.release()

    assert (await second).body == pushed.content
    assert upstream.count("GET", "blob") == 1


@pytest.mark.parametrize("size_bytes", [5000, 3 * MIB])
async def test_nobody_gets_the_whole_of_a_wrong_blob(
    mirror: Mirror, upstream: FakeRegistry, size_bytes: int
) -> None:
    pushed = blob(size_bytes)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.flip(at_byte=size_bytes // 2), kind="blob")

    async def pull() -> bytes | None:
        try:
            got = await mirror.get(path(pushed.digest))
        except aiohttp.ClientPayloadError:
            return None
        return got.body if got.status == 200 else None

    assert await gathered(4, pull) == [None] * 4
    await mirror.settled()
    assert not mirror.stored(pushed.digest).exists()
    assert await mirror.metric("mirror_digest_mismatches_total", upstream="docker.io") == (
        upstream.count("GET", "blob")
    )
    assert not list((mirror.directory / "partial").iterdir())


async def test_a_broken_body_ends_with_fin_before_its_length(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    pushed = blob(3 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.flip(at_byte=100), kind="blob")

    answer = await mirror.raw(path(pushed.digest))

    assert answer.status == 200
    assert answer.header("Content-Length") == str(3 * MIB)
    assert answer.ended is Ended.FIN
    assert len(answer.body) < 3 * MIB


async def test_a_broken_download_goes_on_where_it_broke(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    pushed = blob(4 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.cut(MIB), kind="blob", times=1)
    upstream.fail(faults.cut(MIB, rst=True), kind="blob", times=1)

    got = await mirror.get(path(pushed.digest))

    assert got.body == pushed.content
    ranges = [request.header("Range") for request in upstream.matching(kind="blob")]
    assert ranges[0] is None
    assert all(text is not None for text in ranges[1:])


async def test_head_of_an_uncached_blob_starts_no_fill(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    pushed = blob(5000)
    upstream.push_blob(REPOSITORY, pushed)

    head = await mirror.head(path(pushed.digest))

    assert head.status == 200
    assert head.headers["Content-Length"] == "5000"
    assert upstream.count("GET") == 0
    assert upstream.count("HEAD", "blob") == 1


async def test_head_and_get_have_the_same_headers(mirror: Mirror, upstream: FakeRegistry) -> None:
    pushed = blob(100_000)
    upstream.push_blob(REPOSITORY, pushed)
    await mirror.get(path(pushed.digest))
    await mirror.settled()

    head, get = await mirror.head(path(pushed.digest)), await mirror.get(path(pushed.digest))

    own = {"date", "x-request-id"}
    heads = [(name.lower(), value) for name, value in head.headers.items()]
    gets = [(name.lower(), value) for name, value in get.headers.items()]
    assert [item for item in heads if item[0] not in own] == [
        item for item in gets if item[0] not in own
    ]
    assert get.headers["Content-Type"] == "application/octet-stream"
    assert get.headers["Docker-Content-Digest"] == pushed.digest
    assert get.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize("moment", ["cold", "running", "warm"])
@pytest.mark.parametrize(
    ("range_header", "start", "stop"),
    [
        ("bytes=0-", 0, None),
        ("bytes=1000000-", 1_000_000, None),
        ("bytes=10-19", 10, 20),
        ("bytes=-5", -5, None),
        ("bytes=0-0", 0, 1),
    ],
)
async def test_ranges(
    mirror: Mirror,
    upstream: FakeRegistry,
    moment: str,
    range_header: str,
    start: int,
    stop: int | None,
) -> None:
    pushed = blob(2 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=MIB) if moment == "running" else None
    if moment == "warm":
        await mirror.get(path(pushed.digest))
        await mirror.settled()

    pull = asyncio.create_task(mirror.get(path(pushed.digest), {"Range": range_header}))
    if gate is not None:
        await gate.reached.wait()
        gate.release()
    got = await pull

    assert got.status == 206
    assert got.body == pushed.content[start:stop]
    assert got.headers["Content-Range"].endswith(f"/{2 * MIB}")
    await mirror.settled()
    assert upstream.bytes_sent(pushed.digest) == 2 * MIB


async def test_a_blob_of_another_repository_is_not_served_by_its_digest(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    pushed = blob(5000)
    upstream.push_blob(REPOSITORY, pushed)
    await mirror.get(path(pushed.digest))
    await mirror.settled()

    assert (await mirror.get(path(pushed.digest, "library/other"))).status == 404
    assert (await mirror.head(path(pushed.digest, "library/other"))).status == 404
    ranged = await mirror.get(path(pushed.digest, "library/other"), {"Range": "bytes=0-9"})
    assert ranged.status == 404


async def test_an_image_pulls_whole(mirror: Mirror, upstream: FakeRegistry) -> None:
    pushed = image(layers=3, layer_bytes=200_000)
    upstream.push(REPOSITORY, pushed, tags=["v1"])

    manifest = await mirror.get("/v2/library/alpine/manifests/v1")
    bodies = [await mirror.get(path(each.digest)) for each in pushed.blobs]

    assert manifest.body == pushed.content
    assert [got.body for got in bodies] == [each.content for each in pushed.blobs]
