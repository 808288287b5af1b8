"""The answers of distribution 2.8.2, line by line, and where we differ.

Intended deviations, and no others:

- the ping is ``application/json`` without a charset;
- several ranges get the whole (C7), where distribution sends ``multipart/byteranges``;
- a malformed digest is 400, a path with ``..`` is 404, a bad tag is 404 with JSON;
- referrers are served, from the fallback tag if need be;
- ``Cache-Control`` of blobs also says ``immutable``;
- errors have the golden code, but a message that says more and no ``detail``;
- ``Cache-Status`` and ``X-Request-Id`` are ours.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.fakes import profiles
from tests.fakes.clients import RawAnswer
from tests.fakes.content import OCI_INDEX, OCI_MANIFEST, image, index, layer
from tests.fakes.registry import FakeRegistry
from tests.harness import Mirror, mirror_of
from tests.unit.web.wire import NOWHERE, REPOSITORY, ask

IMAGE = image()
INDEX = index([IMAGE])
LAYER, _ = layer(5_000_000, seed=9)
SIZE = LAYER.size_bytes
OURS = {"cache-status", "x-request-id", "date", "server"}
VERSION = {"docker-distribution-api-version": "registry/2.0"}
INDEX_HEADERS = {
    "content-type": OCI_INDEX,
    "content-length": str(INDEX.size_bytes),
    "docker-content-digest": INDEX.digest,
    "etag": f'"{INDEX.digest}"',
    **VERSION,
}
BLOB_HEADERS = {
    "accept-ranges": "bytes",
    "cache-control": "max-age=31536000, immutable",
    "content-type": "application/octet-stream",
    "docker-content-digest": LAYER.digest,
    "etag": f'"{LAYER.digest}"',
    **VERSION,
}


@dataclass(frozen=True)
class Golden:
    """A request and its answer; a body that is a word is the code of an error."""

    path: str
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | str = b""
    method: str = "GET"
    sent: tuple[tuple[str, str], ...] = ()


def error(path: str, status: int, code: str, *sent: tuple[str, str]) -> Golden:
    return Golden(path, status, {"content-type": "application/json", **VERSION}, code, sent=sent)


def ranged(text: str, content_range: str, body: bytes) -> Golden:
    headers = {
        **BLOB_HEADERS,
        "content-range": content_range,
        "content-length": str(len(body)),
    }
    return Golden(f"blobs/{LAYER.digest}", 206, headers, body, sent=(("Range", text),))


WHOLE = {**BLOB_HEADERS, "content-length": str(SIZE)}
ANSWERS = {
    "ping": Golden(
        "/v2/",
        200,
        {"content-type": "application/json", "content-length": "2", **VERSION},
        b"{}",
    ),
    "head of an index": Golden("manifests/v1", 200, INDEX_HEADERS, method="HEAD"),
    "get of an index": Golden("manifests/v1", 200, INDEX_HEADERS, INDEX.content),
    "no such tag": error("manifests/nope", 404, "MANIFEST_UNKNOWN"),
    "no such blob": error(f"blobs/{NOWHERE}", 404, "BLOB_UNKNOWN"),
    "head of a blob": Golden(f"blobs/{LAYER.digest}", 200, WHOLE, method="HEAD"),
    "first bytes": ranged("bytes=0-9", f"bytes 0-9/{SIZE}", LAYER.content[:10]),
    "last bytes": ranged("bytes=-5", f"bytes {SIZE - 5}-{SIZE - 1}/{SIZE}", LAYER.content[-5:]),
    "several ranges": Golden(
        f"blobs/{LAYER.digest}", 200, WHOLE, LAYER.content, sent=(("Range", "bytes=0-9,20-29"),)
    ),
    "beyond the end": Golden(
        f"blobs/{LAYER.digest}",
        416,
        {
            "content-range": f"bytes */{SIZE}",
            "content-length": "0",
            "docker-content-digest": LAYER.digest,
            **VERSION,
        },
        sent=(("Range", "bytes=99999999-"),),
    ),
    "blob not modified": Golden(
        f"blobs/{LAYER.digest}", 304, BLOB_HEADERS, sent=(("If-None-Match", f'"{LAYER.digest}"'),)
    ),
    "index not modified": Golden(
        "manifests/v1",
        304,
        {name: value for name, value in INDEX_HEADERS.items() if name != "content-length"},
        sent=(("If-None-Match", f'"{INDEX.digest}"'),),
    ),
    "not accepted": error("manifests/v1", 404, "MANIFEST_UNKNOWN", ("Accept", OCI_MANIFEST)),
    "bad tag": error("manifests/.bad", 404, "MANIFEST_UNKNOWN"),
    "bad digest": error("manifests/sha256:totallywrong", 400, "DIGEST_INVALID"),
    "parent directory": error("/v2/x/../y/manifests/v1", 404, "NAME_UNKNOWN"),
    "no such repository": error("/v2/no/such/tags/list", 404, "NAME_UNKNOWN"),
    "no referrers": Golden(
        f"referrers/{NOWHERE}",
        200,
        {"content-type": OCI_INDEX, "content-length": "88", **VERSION},
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}',
    ),
}


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with profiles.distribution() as site:
        site.registry.push(REPOSITORY, INDEX, ["v1"])
        site.registry.push_blob(REPOSITORY, LAYER)
        yield site.registry


@pytest.fixture
async def golden(tmp_path: Path, registry: FakeRegistry) -> AsyncIterator[Mirror]:
    async with mirror_of(tmp_path / "cache", {"docker.io": registry}) as running:
        yield running


async def test_golden(golden: Mirror) -> None:
    for _ in range(2):  # cold, then warm
        for name, expected in ANSWERS.items():
            place = "" if expected.path.startswith("/") else f"/v2/{REPOSITORY}/"
            path = place + expected.path
            answer = await ask(golden, path, *expected.sent, method=expected.method)
            assert_is(name, answer, expected)
        await golden.settled()


def assert_is(name: str, answer: RawAnswer, expected: Golden) -> None:
    assert answer.status == expected.status, name
    headers = {key.lower(): value for key, value in answer.headers}
    assert len(headers) == len(answer.headers), name
    assert headers.keys() >= OURS, name
    own = {key: value for key, value in headers.items() if key not in OURS}
    if isinstance(expected.body, str):
        del own["content-length"]
        [only] = json.loads(answer.body)["errors"]
        assert only["code"] == expected.body, name
        assert only["message"], name
    else:
        assert answer.body == expected.body, name
    assert own == expected.headers, name


async def test_the_ping_without_a_slash_is_the_same(golden: Mirror) -> None:
    with_slash, without = await ask(golden, "/v2/"), await ask(golden, "/v2")

    assert (without.status, without.body) == (with_slash.status, with_slash.body)
    assert without.header("Docker-Distribution-API-Version") == "registry/2.0"
