"""The raw client sends what it is given and tells one ending from another."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.fakes import faults
from tests.fakes.clients import Ended, RawClient, compose, fetch, get
from tests.fakes.registry import FakeRegistry

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def scripted(raw_answer: bytes) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw_answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("raw", "body", "ended"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", b"ab", Ended.COMPLETE),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", b"ab", Ended.FIN),
        (b"HTTP/1.1 200 OK\r\n\r\nab", b"ab", Ended.FIN),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", Ended.COMPLETE),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            b"ab",
            Ended.COMPLETE,
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nab", b"ab", Ended.FIN),
        (b"", b"", Ended.FIN),
    ],
)
async def test_endings(raw: bytes, body: bytes, ended: Ended) -> None:
    async with scripted(raw) as port:
        answer = await get("127.0.0.1", port, "/")
    assert (answer.body, answer.ended) == (body, ended)


async def test_nothing_is_changed_on_the_way() -> None:
    async with FakeRegistry() as registry:
        accepts = [("Accept", f"a/{number}") for number in range(6)]
        await get(registry.host, registry.port, "/v2/a/../../x?q=%7e", accepts)
        (request,) = registry.requests
        assert request.target == "/v2/a/../../x?q=%7e"
        assert request.header_lines("Accept") == [f"a/{number}" for number in range(6)]


async def test_requests_can_be_pipelined_and_bodies_sent() -> None:
    async with FakeRegistry() as registry:
        async with await RawClient.connect(registry.host, registry.port) as client:
            post = compose("/v2/", [("Content-Length", "3")], method="POST", body=b"abc")
            await client.send(post + compose("/v2/", method="HEAD") + compose("/v2/"))
            assert (await client.answer()).status == 405
            assert (await client.answer(is_head=True)).status == 200
            assert (await client.answer()).body == b"{}"
        assert registry.requests[0].body == b"abc"


async def test_time_can_be_up() -> None:
    async with FakeRegistry() as registry:
        registry.fail(faults.hang())
        answer = await fetch(registry.host, registry.port, compose("/v2/"), timeout_seconds=0.05)
    assert (answer.status, answer.ended) == (0, Ended.TIMEOUT)


async def test_a_port_nobody_listens_on_is_an_error() -> None:
    async with FakeRegistry() as registry:
        pass
    with pytest.raises(ConnectionRefusedError):
        await get(registry.host, registry.port, "/")
