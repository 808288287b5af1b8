"""Manifests on the wire: headers, Accept, conditions, ranges."""

import asyncio
import random
from itertools import product

import pytest

from tests.fakes import faults
from tests.fakes.clients import Ended
from tests.fakes.content import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Manifest,
    blob,
    digest_of,
    image,
    index,
)
from tests.fakes.registry import FakeRegistry
from tests.fakes.script import Fault
from tests.harness import MIB, Mirror
from tests.unit.web.wire import REPOSITORY, ask, blob_path, everything, lasting, manifest_path

IMAGE = image()
SIX_OF_DOCKER = [
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/json",
    DOCKER_MANIFEST,
    DOCKER_LIST,
    OCI_MANIFEST,
    OCI_INDEX,
]


@pytest.mark.parametrize(
    "pushed", [IMAGE, index([IMAGE]), image(docker=True)], ids=["image", "index", "docker"]
)
@pytest.mark.parametrize("by", ["tag", "digest"])
async def test_head_and_get_are_alike(
    mirror: Mirror, upstream: FakeRegistry, pushed: Manifest, by: str
) -> None:
    upstream.push(REPOSITORY, pushed, ["v1"])
    path = manifest_path("v1" if by == "tag" else pushed.digest)

    cold_head, cold_get = await mirror.head(path), await mirror.get(path)
    warm_head, warm_get = await mirror.head(path), await mirror.get(path)

    assert (cold_get.status, cold_get.body) == (200, pushed.content)
    assert (cold_head.status, cold_head.body) == (200, b"")
    assert warm_get.body == pushed.content
    for other in (cold_head, warm_head, warm_get):
        assert lasting(other.headers) == lasting(cold_get.headers)
    assert warm_head.headers["Cache-Status"] == warm_get.headers["Cache-Status"]
    assert dict(lasting(cold_get.headers)).items() >= {
        ("content-type", pushed.media_type),
        ("content-length", str(pushed.size_bytes)),
        ("docker-content-digest", pushed.digest),
        ("etag", f'"{pushed.digest}"'),
    }


async def test_head_and_get_are_alike_while_upstream_is_being_asked(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    gate = upstream.hold_head(kind="manifest", method="HEAD")
    get = asyncio.create_task(mirror.get(manifest_path("v1")))
    await gate.reached.wait()
    head = asyncio.create_task(mirror.head(manifest_path("v1")))
    await mirror.get("/v2/")
    gate.release()

    assert lasting((await head).headers) == lasting((await get).headers)
    assert (await get).cache_status == "mirror; fwd=uri-miss; stored"
    assert (await head).cache_status == "mirror; fwd=uri-miss; collapsed"
    assert upstream.count("GET", "manifest") == 1


async def test_six_accept_lines_in_any_order(mirror: Mirror, upstream: FakeRegistry) -> None:
    pushed = index([IMAGE])
    upstream.push(REPOSITORY, pushed, ["v1"])
    shuffled = random.Random(7)

    for _ in range(6):
        lines = [("Accept", text) for text in shuffled.sample(SIX_OF_DOCKER, 6)]
        answer = await ask(mirror, manifest_path("v1"), *lines)
        assert (answer.status, answer.body) == (200, pushed.content)


async def test_an_accept_that_allows_the_type(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])

    for lines in (
        [],
        ["*/*"],
        [""],
        ["application/*"],
        [", ".join(SIX_OF_DOCKER)],
        [f"{DOCKER_LIST}, {OCI_INDEX};q=0.9, */*"],
        [OCI_MANIFEST.upper()],
    ):
        answer = await ask(mirror, manifest_path("v1"), *[("Accept", each) for each in lines])
        assert (answer.status, answer.body) == (200, IMAGE.content), lines


async def test_an_accept_that_excludes_the_type(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])

    for lines in ([DOCKER_MANIFEST, DOCKER_LIST], [f"{OCI_MANIFEST};q=0"]):
        accept = [("Accept", each) for each in lines]
        refused = await ask(mirror, manifest_path("v1"), *accept)
        head = await ask(mirror, manifest_path("v1"), *accept, method="HEAD")
        assert refused.status == head.status == 404, lines
        assert b'"MANIFEST_UNKNOWN"' in refused.body
    # What one client does not accept is no reason for another not to get it.
    assert (await mirror.get(manifest_path("v1"))).status == 200


async def test_trap_08_the_key_has_the_registry_and_upstream_gets_the_whole_accept(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    """rpardini/docker-registry-proxy: a cache key without registry host or Accept."""
    upstream.options.checks_accept = True
    pushed = index([IMAGE])
    upstream.push(REPOSITORY, pushed, ["v1"])

    narrow = await ask(mirror, manifest_path("v1"), ("Accept", DOCKER_MANIFEST))
    wide = await ask(mirror, manifest_path("v1"), ("Accept", OCI_INDEX))

    assert (narrow.status, wide.status) == (404, 200)
    assert all(OCI_INDEX in (each.header("Accept") or "") for each in upstream.requests)


async def test_trap_09_an_index_is_not_rewritten(mirror: Mirror, upstream: FakeRegistry) -> None:
    """Harbor trims indexes and zot converts them: another digest than upstream's."""
    pushed = index([image(1), image(2, architecture="arm64")])
    upstream.push(REPOSITORY, pushed, ["v1"])
    upstream.delete_manifest(REPOSITORY, pushed.manifests[1].digest)

    got = await mirror.get(manifest_path("v1"))

    assert got.body == pushed.content
    assert digest_of(got.body) == got.headers["Docker-Content-Digest"] == pushed.digest


async def test_not_modified(mirror: Mirror, upstream: FakeRegistry) -> None:
    pushed = blob(5000)
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    upstream.push_blob(REPOSITORY, pushed)

    paths = [(manifest_path("v1"), IMAGE.digest), (blob_path(pushed.digest), pushed.digest)]
    texts = ['"{}"', 'W/"{}"', '"sha256:other", "{}"', "*"]
    for (path, digest), text, method in product(paths, texts, ["GET", "HEAD"]):
        condition = ("If-None-Match", text.format(digest))
        received = await everything(mirror, path, condition, method=method)
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 304 ")
        assert f'ETag: "{digest}"'.encode() in head
        assert not body
    assert upstream.count("GET", "blob") == 0  # who has the blob does not make us fetch it


async def test_modified(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])

    got = await mirror.get(manifest_path("v1"), {"If-None-Match": f'"{blob().digest}"'})

    assert (got.status, got.body) == (200, IMAGE.content)


RANGES = [
    ("bytes=0-", 206, 0, None),
    ("bytes=5-9", 206, 5, 10),
    ("bytes=-7", 206, -7, None),
    ("bytes=0-99999999", 206, 0, None),
    ("bytes=0-4,6-9", 200, 0, None),
    ("bytes=9-5", 200, 0, None),
    ("bytes=", 200, 0, None),
    ("bytes=a-b", 200, 0, None),
    ("lines=0-4", 200, 0, None),
    ("nonsense", 200, 0, None),
    ("bytes=99999999-", 416, 0, 0),
    ("bytes=-0", 416, 0, 0),
]


@pytest.mark.parametrize("what", ["manifest", "blob"])
async def test_ranges(mirror: Mirror, upstream: FakeRegistry, what: str) -> None:
    layer = IMAGE.layers[0]
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    content = IMAGE.content if what == "manifest" else layer.content
    path = manifest_path("v1") if what == "manifest" else blob_path(layer.digest)

    for text, status, start, stop in RANGES:
        answer = await ask(mirror, path, ("Range", text))

        first, last, _ = slice(start, stop).indices(len(content))
        assert (answer.status, answer.body) == (status, content[start:stop]), text
        assert answer.ended is Ended.COMPLETE
        assert (
            answer.header("Content-Range")
            == {
                200: None,
                206: f"bytes {first}-{last - 1}/{len(content)}",
                416: f"bytes */{len(content)}",
            }[status]
        )


async def test_two_range_lines_are_no_range(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])

    answer = await ask(mirror, manifest_path("v1"), ("Range", "bytes=0-4"), ("Range", "bytes=6-9"))

    assert (answer.status, answer.body) == (200, IMAGE.content)


@pytest.mark.parametrize(("etag", "status"), [(IMAGE.digest, 206), (blob().digest, 200)])
async def test_a_range_of_something_else_is_ignored(
    mirror: Mirror, upstream: FakeRegistry, etag: str, status: int
) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    headers = {"Range": "bytes=0-4", "If-Range": f'"{etag}"'}

    assert (await mirror.get(manifest_path("v1"), headers)).status == status


async def test_head_ignores_a_range(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])

    head = await mirror.head(manifest_path("v1"), {"Range": "bytes=0-4"})

    assert (head.status, head.headers["Content-Length"]) == (200, str(IMAGE.size_bytes))


async def test_a_large_manifest_arrives_whole(mirror: Mirror, upstream: FakeRegistry) -> None:
    pushed = image(annotations={"long": "x" * (3 * MIB)})
    upstream.push(REPOSITORY, pushed, ["v1"])

    cold, warm = await mirror.get(manifest_path("v1")), await mirror.get(manifest_path("v1"))
    part = await mirror.get(manifest_path("v1"), {"Range": "bytes=10-2000009"})

    assert cold.body == warm.body == pushed.content
    assert part.body == pushed.content[10:2_000_010]
    assert lasting((await mirror.head(manifest_path("v1"))).headers) == lasting(warm.headers)


async def test_a_garbled_type_is_read_from_the_manifest(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    garbled = [
        faults.header("Content-Type", "text/plain; charset=utf-8"),
        faults.header("Content-Type", "application/octet-stream"),
        faults.header("Content-Type", "x\ty / z"),
        faults.header("Content-Type", f"{OCI_MANIFEST}; charset=utf-8"),
        faults.header("Content-Type", "application/" + "x" * 8000),
        faults.without("Content-Type"),
    ]
    for number, fault in enumerate(garbled):
        pushed = image(number)
        upstream.push(REPOSITORY, pushed, [f"v{number}"])
        upstream.fail(fault, kind="manifest", reference=f"v{number}")
        upstream.fail(fault, kind="manifest", reference=pushed.digest)

        got = await mirror.get(manifest_path(f"v{number}"))

        assert (got.status, got.headers["Content-Type"]) == (200, OCI_MANIFEST), number


@pytest.mark.parametrize(
    "fault",
    [
        faults.crlf("X-Note"),
        faults.header("Content-Type", f"{OCI_MANIFEST}\r\nSet-Cookie: smuggled=1"),
        faults.header("Docker-Content-Digest", f"{IMAGE.digest}\r\nSet-Cookie: smuggled=1"),
        faults.header("WWW-Authenticate", 'Basic realm="upstream"'),
        faults.header("X-Ms-Copy-Source", "https://private.example/secret"),
        faults.header("docker-ratelimit-source", "203.0.113.7"),
    ],
    ids=["note", "type", "digest", "challenge", "azure", "hub"],
)
async def test_s18_no_header_of_upstream_gets_through(
    mirror: Mirror, upstream: FakeRegistry, fault: Fault
) -> None:
    pushed = IMAGE.layers[0]
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    upstream.fail(fault)

    for path in (manifest_path("v1"), blob_path(pushed.digest)):
        answer = await ask(mirror, path)
        assert answer.status == 200
        names = {name.lower() for name, _ in answer.headers}
        assert names <= {
            "accept-ranges", "cache-control", "cache-status", "content-length", "content-type",
            "date", "docker-content-digest", "docker-distribution-api-version", "etag",
            "server", "x-request-id",
        }  # fmt: skip
        assert b"smuggled" not in repr(answer.headers).encode()
