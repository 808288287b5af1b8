"""Every fault is on the wire what its name says."""

import gzip
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import aiohttp
import pytest

from tests.fakes import content, faults
from tests.fakes.clients import Ended, RawAnswer, get
from tests.fakes.registry import FakeRegistry
from tests.fakes.script import Fault
from tests.fakes.wire import Ended as ServerEnded

BLOB = content.blob(1000)
TARGET = f"/v2/a/blobs/{BLOB.digest}"


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as running:
        running.push_blob("a", BLOB)
        running.push("a", content.image(), ["latest"])
        yield running


async def ask(
    registry: FakeRegistry,
    *made: Fault,
    method: str = "GET",
    headers: tuple[tuple[str, str], ...] = (),
    timeout_seconds: float = 5.0,
) -> RawAnswer:
    registry.heal()
    registry.fail(*made)
    return await get(
        registry.host,
        registry.port,
        TARGET,
        headers,
        method=method,
        timeout_seconds=timeout_seconds,
    )


@pytest.mark.parametrize("code", [401, 403, 404, 405, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_status(registry: FakeRegistry, code: int, method: str) -> None:
    answer = await ask(registry, faults.status(code), method=method)
    assert (answer.status, answer.ended) == (code, Ended.COMPLETE)
    assert registry.requests[0].status == code


async def test_too_many_requests(registry: FakeRegistry) -> None:
    assert (await ask(registry, faults.too_many_requests())).header("Retry-After") is None
    assert (await ask(registry, faults.too_many_requests(7))).header("Retry-After") == "7"
    answer = await ask(registry, faults.too_many_requests(timedelta(hours=1)))
    until = parsedate_to_datetime(answer.header("Retry-After") or "")
    assert timedelta(minutes=59) < until - datetime.now(UTC) <= timedelta(hours=1)


async def test_challenge_lines(registry: FakeRegistry) -> None:
    answer = await ask(registry, faults.challenge('Basic realm="a"', "Negotiate"))
    assert answer.header_lines("WWW-Authenticate") == ['Basic realm="a"', "Negotiate"]


ENDINGS: dict[str, tuple[Fault, int, int, Ended]] = {
    "hang": (faults.hang(), 0, 0, Ended.TIMEOUT),
    "fin before head": (faults.no_answer(), 0, 0, Ended.FIN),
    "rst before head": (faults.no_answer(rst=True), 0, 0, Ended.RST),
    "fin in head": (faults.no_answer(after_bytes=12), 0, 0, Ended.FIN),
    "hang in body": (faults.hang_in_body(10), 200, 10, Ended.TIMEOUT),
    "fin after head": (faults.cut(0), 200, 0, Ended.FIN),
    "fin in body": (faults.cut(10), 200, 10, Ended.FIN),
    "rst in body": (faults.cut(10, rst=True), 200, 10, Ended.RST),
    "chunked": (faults.chunked(), 200, 1000, Ended.COMPLETE),
    "chunked short": (faults.chunked(only_bytes=10), 200, 10, Ended.COMPLETE),
    "until close": (faults.until_close(), 200, 1000, Ended.FIN),
    "until close short": (faults.until_close(only_bytes=10), 200, 10, Ended.FIN),
    "empty": (faults.empty(), 200, 0, Ended.COMPLETE),
    "length too large": (faults.content_length(1001), 200, 1000, Ended.FIN),
    "length too small": (faults.content_length(10), 200, 10, Ended.COMPLETE),
    "surplus": (faults.surplus(b"xyz"), 200, 1000, Ended.COMPLETE),
    "no length": (faults.without("Content-Length"), 200, 1000, Ended.COMPLETE),
}


@pytest.mark.parametrize("name", ENDINGS)
async def test_endings(registry: FakeRegistry, name: str) -> None:
    fault, status, body_bytes, ended = ENDINGS[name]
    patience = 0.2 if ended is Ended.TIMEOUT else 5.0
    answer = await ask(registry, fault, timeout_seconds=patience)
    assert (answer.status, len(answer.body), answer.ended) == (status, body_bytes, ended)
    assert answer.body == BLOB.content[:body_bytes]


async def test_a_cut_comes_at_the_byte_even_in_a_large_body(registry: FakeRegistry) -> None:
    big = content.blob(32 << 20)
    registry.push_blob("a", big)
    registry.fail(faults.cut(20 << 20, rst=True))
    answer = await get(registry.host, registry.port, f"/v2/a/blobs/{big.digest}")
    assert (len(answer.body), answer.ended) == (20 << 20, Ended.RST)
    assert registry.bytes_sent(big.digest) == 20 << 20
    assert registry.requests[0].ended is ServerEnded.CUT


async def test_chunks_that_are_cut_have_no_last_chunk(registry: FakeRegistry) -> None:
    answer = await ask(registry, faults.chunked(), faults.cut(10))
    assert (len(answer.body), answer.ended) == (10, Ended.FIN)


async def test_extra_bytes_really_arrive(registry: FakeRegistry) -> None:
    await ask(registry, faults.surplus(b"xyz"))
    await registry.quiet()
    assert registry.bytes_sent(BLOB.digest) == 1003


async def test_headers_left_out_and_wrong(registry: FakeRegistry) -> None:
    names = ("Content-Type", "Docker-Content-Digest", "Content-Length")
    for method in ("GET", "HEAD"):
        answer = await ask(registry, faults.without(*names), method=method)
        assert [answer.header(name) for name in names] == [None] * 3
    answer = await ask(registry, faults.wrong_digest())
    assert answer.header("Docker-Content-Digest") == "sha256:" + "0" * 64
    answer = await ask(registry, faults.header("Content-Type", "a/b"))
    assert answer.header_lines("Content-Type") == ["a/b"]
    answer = await ask(registry, faults.content_length(5), method="HEAD")
    assert answer.header("Content-Length") == "5"


async def test_bodies_that_are_wrong(registry: FakeRegistry) -> None:
    answer = await ask(registry, faults.flip(999), headers=(("Range", "bytes=998-"),))
    assert answer.body == bytes([BLOB.content[998], BLOB.content[999] ^ 1])
    answer = await ask(registry, faults.gzip())
    assert answer.header("Content-Encoding") == "gzip"
    assert gzip.decompress(answer.body) == BLOB.content
    assert len(answer.body) == int(answer.header("Content-Length") or 0)
    answer = await ask(registry, faults.body(b"hello", "text/x"))
    assert (answer.body, answer.header("Content-Type")) == (b"hello", "text/x")
    answer = await ask(registry, faults.html())
    assert (answer.status, answer.header("Content-Type")) == (200, "text/html")
    answer = await ask(registry, faults.cdn_forbidden())
    assert (answer.status, b"1010" in answer.body) == (403, True)


async def test_headers_that_are_long_or_broken(registry: FakeRegistry) -> None:
    assert len((await ask(registry, faults.long_header())).header("X-Long") or "") == 9000
    answer = await ask(registry, faults.crlf())
    assert answer.header("Set-Cookie") == "smuggled=1"
    assert (await ask(registry, faults.broken_header())).header("X-Note") == "a\rb\0c"
    assert len((await ask(registry, faults.add_header("Via", "x"))).header_lines("Via")) == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location", ["/v2/x", "https://cdn.test/a?b=%2F~%7e+", "x" * 10_000, "//h/p"]
)
async def test_redirects(registry: FakeRegistry, code: int, location: str) -> None:
    answer = await ask(registry, faults.redirect(location, code))
    assert (answer.status, answer.header("Location")) == (code, location)


async def test_a_redirect_loop_is_endless_and_hops_are_not(registry: FakeRegistry) -> None:
    answer = await ask(registry, faults.redirect_loop())
    assert answer.header("Location") == TARGET
    registry.heal()
    registry.clear()
    registry.fail(faults.redirect_hops(9))
    async with (
        aiohttp.ClientSession() as session,
        session.get(registry.url + TARGET) as response,
    ):
        assert await response.read() == BLOB.content
    assert [request.status for request in registry.requests] == [307] * 9 + [200]


async def test_ranges_that_are_wrong(registry: FakeRegistry) -> None:
    asked = (("Range", "bytes=10-19"),)
    answer = await ask(registry, faults.ignore_range(), headers=asked)
    assert (answer.status, answer.body) == (200, BLOB.content)
    answer = await ask(registry, faults.range_total(5000), headers=asked)
    assert (answer.status, answer.header("Content-Range")) == (206, "bytes 10-19/5000")
    answer = await ask(registry, faults.range_shifted(2), headers=asked)
    assert answer.header("Content-Range") == "bytes 12-19/1000"
    assert answer.body == BLOB.content[12:20]


async def test_a_client_library_sees_what_it_should(registry: FakeRegistry) -> None:
    registry.fail(faults.cut(10), times=1)
    registry.fail(faults.no_answer(), times=1)
    async with aiohttp.ClientSession() as session:
        async with session.get(registry.url + TARGET) as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.post(registry.url + TARGET)
