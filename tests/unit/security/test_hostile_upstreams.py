"""An upstream that lies, smuggles, dribbles or never ends (S1, S6, S7, S11 to S13)."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from mirror.settings import Policy, Timeouts, Upstream
from tests.fakes import faults
from tests.fakes.clients import Ended
from tests.fakes.content import OCI_MANIFEST, blob, image
from tests.fakes.registry import FakeRegistry
from tests.fakes.script import Fault
from tests.harness import MIB, Mirror, mirror_of
from tests.unit.upstream.pulling import guarded
from tests.unit.web.wire import REPOSITORY, ask, blob_path, everything, manifest_path

IMAGE = image()
BRIEF = Policy(
    timeouts=Timeouts(
        connect_seconds=1, response_seconds=0.5, revalidate_seconds=0.1, idle_seconds=0.4
    )
)


def files_of(directory: Path) -> set[str]:
    return {each.name for each in directory.rglob("*") if each.is_file()}


async def test_s01_digests_in_manifests_are_checked_before_they_are_used(
    mirror: Mirror, upstream: FakeRegistry, tmp_path: Path
) -> None:
    """CVE-2024-3727: they became paths and authenticated requests."""
    for digest in ("sha256:../../../../tmp/x", "../etc/passwd", "sha256:" + "A" * 64, "sha256:"):
        whole = json.loads(IMAGE.content)
        whole["layers"][0]["digest"] = digest
        upstream.put_manifest(REPOSITORY, "v1", json.dumps(whole).encode(), OCI_MANIFEST)
        assert (await mirror.get(manifest_path("v1"))).status == 502, digest
    assert {each.kind for each in upstream.requests} == {"manifest"}
    assert files_of(tmp_path) == files_of(tmp_path / "cache")


@pytest.mark.parametrize(
    "fault",
    [
        faults.crlf(),
        faults.broken_header(),
        faults.crlf("Content-Type"),
        faults.header("Content-Type", "text/html\x0b; <script>"),
        faults.header("Docker-Content-Digest", "sha256:x\r\nSet-Cookie: smuggled=1"),
        faults.crlf("Link"),
        faults.crlf("WWW-Authenticate"),
        faults.crlf("RateLimit-Remaining"),
    ],
    ids=["note", "control", "type", "odd type", "digest", "link", "challenge", "limit"],
)
async def test_s06_no_upstream_writes_into_our_headers(
    mirror: Mirror, upstream: FakeRegistry, fault: Fault
) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    upstream.fail(fault)
    paths = (manifest_path("v1"), blob_path(IMAGE.layers[0].digest), f"/v2/{REPOSITORY}/tags/list")
    for path in paths:
        received = await everything(mirror, path)
        head, _, _ = received.partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 502"))
        assert received.count(b"HTTP/1.1") == 1
        for smuggled in (b"smuggled", b"Set-Cookie", b"<script>", b"\x0b", b"\0"):
            assert smuggled.lower() not in head.lower()


@pytest.mark.parametrize(
    "fault",
    [faults.flip(70_000), faults.content_length(90_000), faults.empty()],
    ids=["another byte", "another length", "nothing"],
)
async def test_s07_what_the_digest_does_not_name_is_never_whole_nor_kept(
    mirror: Mirror, upstream: FakeRegistry, fault: Fault
) -> None:
    pushed = blob(100_000)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.options.ranges = False
    rule = upstream.fail(fault, kind="blob", method="GET")
    answer = await ask(mirror, blob_path(pushed.digest))
    assert answer.status in {200, 502}
    assert answer.status == 502 or answer.ended is Ended.FIN
    assert len(answer.body) < 100_000
    await mirror.settled()
    assert not mirror.stored(pushed.digest).exists()
    rule.cancel()
    assert (await mirror.get(blob_path(pushed.digest))).body == pushed.content


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"layers": ' + b"[" * 100_000,
        b'{"schemaVersion": 2, "size": ' + b"9" * 100_000 + b"}",
        b'{"tags": "' + b"x" * 4_000_000 + b'"}',
        b"\xff\xfe" * 1000,
    ],
    ids=["deep", "deep inside", "a long number", "a long text", "no text"],
)
async def test_s11_json_that_is_made_to_hurt(
    mirror: Mirror, upstream: FakeRegistry, content: bytes
) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    anonymous = faults.without("Docker-Content-Digest")
    upstream.fail(faults.body(content, OCI_MANIFEST), anonymous, kind="manifest")
    assert (await mirror.get(manifest_path("v1"))).status == 502
    upstream.fail(faults.body(content, "application/json"), kind="tags")
    assert (await mirror.get(f"/v2/{REPOSITORY}/tags/list")).status == 502
    assert (await mirror.get("/v2/")).status == 200


async def test_s11_a_token_answer_that_is_made_to_hurt(tmp_path: Path) -> None:
    async with guarded() as site, mirror_of(tmp_path / "c", {"docker.io": site.upstream()}) as up:
        for content in (b"[" * 100_000, b'{"token": ' + b"[" * 100_000, b"{" + b" " * 2_000_000):
            site.tokens.fail(faults.body(content), times=1)
            assert (await up.get(manifest_path("v1"))).status == 502


async def test_s11_a_header_without_end(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    rule = upstream.fail(faults.long_header(100_000))
    assert (await mirror.get(manifest_path("v1"))).status == 502
    rule.cancel()
    assert (await mirror.get(manifest_path("v1"))).status == 200


@pytest.mark.parametrize("announced", [50_000, 1 << 50], ids=["less", "a pebibyte"])
async def test_s12_a_length_that_lies(
    mirror: Mirror, upstream: FakeRegistry, announced: int
) -> None:
    pushed = blob(100_000)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.content_length(announced), kind="blob")
    answer = await ask(mirror, blob_path(pushed.digest))
    assert answer.ended is not Ended.COMPLETE or answer.status >= 500
    await mirror.settled()
    assert not mirror.stored(pushed.digest).exists()
    assert mirror.up.store.space.used_bytes < MIB


# --- slow-loris, of upstream -----------------------------------------------------------------


@asynccontextmanager
async def dribbling(first: bytes, drop: bytes) -> AsyncIterator[str]:
    """Answer every request with *first*, and then with another *drop* for ever."""
    over, tasks = asyncio.Event(), set[asyncio.Task[None] | None]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(first)
            while not over.is_set():
                writer.write(drop)
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        over.set()
        await asyncio.gather(*filter(None, tasks))


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: " + OCI_MANIFEST.encode() + b"\r\n\r\n{", b" "),
    ],
    ids=["fields", "a field", "a manifest"],
)
async def test_s13_an_upstream_that_dribbles_is_given_up_in_time(
    tmp_path: Path, first: bytes, drop: bytes
) -> None:
    async with (
        dribbling(first, drop) as url,
        mirror_of(tmp_path / "c", {"docker.io": Upstream(endpoints=(url,))}, policy=BRIEF) as up,
    ):
        for path in (manifest_path("v1"), manifest_path(IMAGE.digest)):
            async with asyncio.timeout(3):  # of the twenty that a test's client has
                assert (await up.get(path)).status in {502, 504}
