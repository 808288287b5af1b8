"""An origin counts, records, holds, and leaves nothing open."""

import asyncio
from collections.abc import AsyncIterator
from typing import NoReturn

import aiohttp
import pytest

from tests.fakes import content, faults
from tests.fakes.answers import Answer
from tests.fakes.clients import Ended as ClientEnded
from tests.fakes.clients import RawClient, compose, fetch, get
from tests.fakes.registry import FakeRegistry
from tests.fakes.wire import Ended, Kind, Recorded

BLOB = content.blob(1000)
TARGET = f"/v2/a/blobs/{BLOB.digest}"


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as running:
        running.push_blob("a", BLOB)
        yield running


async def test_a_request_is_recorded_as_it_was_sent(registry: FakeRegistry) -> None:
    lines = [("accept", "a/b"), ("Accept", "c/d, e/f"), ("Authorization", "bearer t")]
    raw = compose(f"{TARGET}?x=%2F&y", lines, host="made.up:1")
    await fetch(registry.host, registry.port, raw)
    (request,) = registry.requests
    assert (request.method, request.target) == ("GET", f"{TARGET}?x=%2F&y")
    assert (request.path, request.query, request.host) == (TARGET, "x=%2F&y", "made.up:1")
    assert request.headers == [("Host", "made.up:1"), *lines]
    assert request.header_lines("Accept") == ["a/b", "c/d, e/f"]
    assert (request.authorization_kind, request.authorization) == ("bearer", "bearer t")
    assert (request.kind, request.repository, request.reference) == ("blob", "a", BLOB.digest)
    assert (request.status, request.sent_bytes, request.ended) == (200, 1000, Ended.COMPLETE)
    assert request.parameter("x") == "/"


async def test_requests_are_counted_and_forgotten(registry: FakeRegistry) -> None:
    await get(registry.host, registry.port, TARGET, method="HEAD")
    await get(registry.host, registry.port, TARGET, [("Range", "bytes=990-")])
    await get(registry.host, registry.port, "/v2/b/manifests/x")
    assert registry.count() == 3
    assert registry.count("HEAD") == registry.count("GET", Kind.BLOB) == 1
    assert registry.count(kind="blob", repository="a", reference=BLOB.digest) == 2
    assert registry.bytes_sent(BLOB.digest) == 10
    first, second, third = (request.number for request in registry.requests)
    assert first < second < third
    registry.clear()
    assert registry.count() == 0


async def test_a_connection_is_kept_and_has_a_number(registry: FakeRegistry) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.get(registry.url + TARGET) as response:
                assert await response.read() == BLOB.content
    assert [request.connection for request in registry.requests] == [1, 1]
    await get(registry.host, registry.port, TARGET, [("Connection", "close")])
    assert registry.requests[-1].connection == registry.connections == 2


async def test_a_body_is_held_until_it_is_released(registry: FakeRegistry) -> None:
    gate = registry.hold_body(BLOB.digest, 300, times=1)
    async with await RawClient.connect(registry.host, registry.port) as client:
        await client.send(compose(TARGET))
        assert (await client.head()).status == 200
        assert await client.read(300) == BLOB.content[:300]
        await gate.reached.wait()
        assert registry.bytes_sent(BLOB.digest) == 300
        other = await get(registry.host, registry.port, TARGET)
        assert other.body == BLOB.content
        gate.release()
        assert await client.read(700) == BLOB.content[300:]


async def test_a_head_is_held_and_decided_after_the_release(registry: FakeRegistry) -> None:
    gate = registry.hold_head(Kind.BLOB, BLOB.digest)
    asking = [asyncio.create_task(get(registry.host, registry.port, TARGET)) for _ in range(3)]
    await gate.arrivals(3)
    registry.delete_blob("a", BLOB.digest)
    gate.release()
    assert [answer.status for answer in await asyncio.gather(*asking)] == [404] * 3


async def test_it_is_noticed_when_a_client_leaves(registry: FakeRegistry) -> None:
    gate = registry.hold_body(BLOB.digest, 10)
    async with await RawClient.connect(registry.host, registry.port) as client:
        await client.send(compose(TARGET))
        await gate.reached.wait()
    await registry.until(lambda: registry.requests[0].ended is Ended.GONE)
    await registry.quiet()
    assert registry.bytes_sent(BLOB.digest) == 10


async def test_a_client_that_does_not_read_is_not_sent_everything() -> None:
    big = content.blob(64 << 20)
    async with FakeRegistry() as registry:
        registry.push_blob("a", big)
        async with await RawClient.connect(registry.host, registry.port) as client:
            await client.send(compose(f"/v2/a/blobs/{big.digest}"))
            await client.head()
        await registry.quiet()
        assert registry.bytes_sent(big.digest) < big.size_bytes


async def test_a_large_blob_is_sent_whole() -> None:
    big = content.blob(64 << 20)
    async with FakeRegistry() as registry:
        registry.push_blob("a", big)
        answer = await get(registry.host, registry.port, f"/v2/a/blobs/{big.digest}")
        assert answer.body == big.content
        await registry.quiet()
        assert registry.bytes_sent(big.digest) == big.size_bytes


async def test_closing_releases_what_is_held() -> None:
    async with FakeRegistry() as registry:
        registry.push_blob("a", BLOB)
        gate = registry.hold_head()
        asking = asyncio.create_task(get(registry.host, registry.port, TARGET))
        await gate.reached.wait()
    assert (await asking).ended in {ClientEnded.FIN, ClientEnded.RST}
    assert registry.requests[0].ended is Ended.GONE


async def test_an_origin_can_be_down_for_a_while(registry: FakeRegistry) -> None:
    port = registry.port
    await registry.go_down()
    with pytest.raises(ConnectionRefusedError):
        await get(registry.host, port, "/v2/")
    await registry.come_up()
    assert (await get(registry.host, port, "/v2/")).status == 200


async def test_a_request_without_a_user_agent_may_be_refused(registry: FakeRegistry) -> None:
    registry.requires_user_agent = True
    answer = await get(registry.host, registry.port, "/v2/")
    assert (answer.status, answer.header("Content-Type")) == (403, "text/html")
    assert (await get(registry.host, registry.port, "/v2/", [("User-Agent", "x")])).status == 200


async def test_a_mistake_in_a_fake_is_not_hidden() -> None:
    def broken(request: Recorded, answer: Answer) -> NoReturn:
        raise ZeroDivisionError

    async def break_it() -> None:
        async with FakeRegistry() as registry:
            registry.fail(broken)
            await get(registry.host, registry.port, "/v2/")

    with pytest.raises(ZeroDivisionError):
        await break_it()


async def test_faults_are_counted_skipped_combined_and_healed(registry: FakeRegistry) -> None:
    async def statuses(count: int) -> list[int]:
        answers = [await get(registry.host, registry.port, TARGET) for _ in range(count)]
        return [answer.status for answer in answers]

    registry.fail(faults.status(503), times=2, skip=1, kind=Kind.BLOB)
    registry.fail(faults.status(404), reference="another")
    assert await statuses(4) == [200, 503, 503, 200]
    rule = registry.fail(faults.flip(1), faults.header("X-A", "b"), method="GET")
    answer = await get(registry.host, registry.port, TARGET)
    assert (answer.header("X-A"), answer.body[0:1]) == ("b", BLOB.content[0:1])
    assert answer.body[1] == BLOB.content[1] ^ 1
    assert rule.hits == 1
    rule.cancel()
    registry.fail(faults.status(500), repository="a")
    assert await statuses(1) == [500]
    registry.heal()
    assert await statuses(1) == [200]
