"""Files to sockets: in order after what asyncio holds, in bounded steps, and every way to end."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from mirror.web.sendfile import SLICE_BYTES, keep_in_step, sendfile

KIB = 1024
MIB = 1024 * KIB
CONTENT = os.urandom(3 * MIB + 7)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[BinaryIO]:
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    with path.open("rb") as opened:
        yield opened


@asynccontextmanager
async def connected(room_bytes: int) -> AsyncIterator[tuple[asyncio.Transport, socket.socket]]:
    """Yield our end of a connection, and a client's that has so much room and takes nothing."""
    ends: asyncio.Queue[asyncio.Transport] = asyncio.Queue()

    class Ours(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            ends.put_nowait(transport)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Ours, "127.0.0.1", 0)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room_bytes)
        client.setblocking(False)  # noqa: FBT003 -- the socket's own signature
        await loop.sock_connect(client, server.sockets[0].getsockname())
        transport = await ends.get()
        try:
            yield transport, client
        finally:
            transport.abort()
            server.close()


async def taken(client: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        piece = await asyncio.get_running_loop().sock_recv(client, count - len(got))
        if not piece:
            break
        got += piece
    return got


async def test_what_asyncio_holds_comes_first_and_no_step_is_large(file: BinaryIO) -> None:
    head = b"h" * (8 * MIB)  # more than the kernel takes, so that asyncio holds the rest
    steps: list[int] = []
    async with connected(64 * KIB) as (transport, client):
        transport.write(head)
        assert transport.get_write_buffer_size()
        async with asyncio.TaskGroup() as group:
            got = group.create_task(taken(client, len(head) + len(CONTENT) - 5))
            sent = group.create_task(
                sendfile(transport, file, 5, len(CONTENT) - 5, stall_seconds=9, took=steps.append)
            )

    assert got.result() == head + CONTENT[5:]
    assert sent.result() == sum(steps) == len(CONTENT) - 5
    assert max(steps) <= SLICE_BYTES


async def test_what_fits_is_sent_at_once(file: BinaryIO) -> None:
    async with connected(MIB) as (transport, client):
        sending = sendfile(transport, file, 0, 1000, stall_seconds=9, took=lambda _: None)
        with pytest.raises(StopIteration) as ended:  # it never waits
            sending.send(None)
        assert ended.value.value == 1000
        assert await taken(client, 1000) == CONTENT[:1000]


async def test_a_file_that_ends_too_early_is_left_to_the_caller(file: BinaryIO) -> None:
    async with connected(64 * KIB) as (transport, client), asyncio.TaskGroup() as group:
        group.create_task(taken(client, len(CONTENT)))
        count = await sendfile(
            transport, file, 0, len(CONTENT) + 100, stall_seconds=9, took=lambda _: None
        )
        assert count == len(CONTENT)


async def test_what_the_kernel_cannot_send_is_left_to_the_caller() -> None:
    readable, writable = os.pipe()  # nothing can be mapped of a pipe
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        async with connected(64 * KIB) as (transport, _):
            assert not await sendfile(transport, pipe, 0, 100, stall_seconds=9, took=lambda _: None)


async def test_a_client_that_takes_nothing_is_noticed(file: BinaryIO) -> None:
    async with connected(4 * KIB) as (transport, _):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * KIB)
        with pytest.raises(TimeoutError):
            await sendfile(transport, file, 0, len(CONTENT), stall_seconds=0.2, took=lambda _: None)


@pytest.mark.parametrize("who", ["client", "us"])
async def test_a_connection_that_ends_meanwhile_is_noticed(file: BinaryIO, who: str) -> None:
    async with connected(4 * KIB) as (transport, client):
        began = asyncio.Event()
        sending = asyncio.create_task(
            sendfile(transport, file, 0, len(CONTENT), stall_seconds=2, took=lambda _: began.set())
        )
        await began.wait()
        if who == "client":
            client.close()
        else:
            transport.abort()
        with pytest.raises(ConnectionError):
            await sending


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def test_nothing_is_left_open(file: BinaryIO) -> None:
    before = open_files()
    await test_what_asyncio_holds_comes_first_and_no_step_is_large(file)
    await test_a_client_that_takes_nothing_is_noticed(file)
    await asyncio.sleep(0)
    assert open_files() <= before


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="Linux tells how far a client is")
async def test_the_kernel_holds_little_for_a_client_on_the_same_machine(
    file: BinaryIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def held_bytes() -> int:
        async with connected(4 * KIB) as (transport, _):
            keep_in_step(transport)
            held = 0

            def took(count: int) -> None:
                nonlocal held
                held += count

            with pytest.raises(TimeoutError):
                await sendfile(transport, file, 0, len(CONTENT), stall_seconds=0.2, took=took)
            return held

    assert await held_bytes() <= 768 * KIB
    monkeypatch.setattr("mirror.web.sendfile._NEAR_MICROSECONDS", 0)
    assert await held_bytes() > 768 * KIB
