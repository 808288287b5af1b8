"""Bodies over TLS, encrypted beside the event loop, and all that can happen to one meanwhile."""

import asyncio
import io
import json
import os
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from mirror.runtime.certificates import server_context
from mirror.runtime.pools import Pool
from mirror.settings import Limits, Policy, ServerTls, Timeouts
from mirror.web import connections
from mirror.web.encrypting import EncryptingSender, LendableTransport, lendable
from mirror.web.loans import Loan
from tests.fakes.certificates import Authority
from tests.fakes.clients import compose
from tests.fakes.content import Blob, blob
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, Mirror, in_one_process
from tests.unit.web.test_tls import got, secure_mirror, trusting
from tests.unit.web.wire import REPOSITORY, blob_path

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> ServerTls:
    return authority.server()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What threads have sent, step by step."""
    found: list[int] = []
    send = Loan.send

    async def noted(self: Loan, *args: object) -> int:
        found.append(await send(self, *args))  # type: ignore[arg-type] # as they came
        return found[-1]

    monkeypatch.setattr(Loan, "send", noted)
    return found


async def stored(mirror: Mirror, upstream: FakeRegistry, context: ssl.SSLContext) -> Blob:
    pushed = blob(12 * MIB + 5)
    upstream.push_blob(REPOSITORY, pushed)
    place = mirror.url + blob_path(pushed.digest)
    assert await got(mirror, place, context) == (200, pushed.content)
    await mirror.settled()
    # Only then is its last step noted: the client has the last byte before.
    await mirror.becomes("mirror_connections", 0, listener="registry")
    return pushed


async def connected(mirror: Mirror, context: ssl.SSLContext) -> Stream:
    """Connect with little room for what has not been read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.setblocking(False)  # noqa: FBT003 -- the socket's own signature
    await asyncio.get_running_loop().sock_connect(sock, (mirror.host, mirror.port))
    return await asyncio.open_connection(
        sock=sock, ssl=context, server_hostname="127.0.0.1", limit=16384
    )


async def answered(reader: asyncio.StreamReader, pushed: Blob) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    return await reader.readexactly(pushed.size_bytes)


def said(log_lines: io.StringIO, event: str) -> list[dict[str, object]]:
    entries = [json.loads(line) for line in log_lines.getvalue().splitlines()]
    return [entry for entry in entries if entry["event"] == event]


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not happened():  # noqa: ASYNC110 -- nothing tells when a line is written
            await asyncio.sleep(0.01)


@in_one_process
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_what_is_asked_during_a_body_is_answered_after_it(
    tmp_path: Path,
    upstream: FakeRegistry,
    authority: Authority,
    tls: ServerTls,
    steps: list[int],
    version: ssl.TLSVersion,
) -> None:
    context = trusting(authority)
    context.minimum_version = context.maximum_version = version
    async with secure_mirror(tmp_path, upstream, tls) as mirror:
        pushed = await stored(mirror, upstream, context)
        steps.clear()
        reader, writer = await connected(mirror, context)
        writer.write(compose(blob_path(pushed.digest)))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        body = await reader.readexactly(1000)
        writer.write(compose(blob_path(pushed.digest)))
        body += await reader.readexactly(pushed.size_bytes - 1000)
        assert body == pushed.content
        assert await answered(reader, pushed) == pushed.content
        writer.write(compose("/v2/"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert sum(steps) == 2 * pushed.size_bytes
        writer.close()
        await writer.wait_closed()
        await mirror.becomes("mirror_connections", 0, listener="registry")


@in_one_process
async def test_where_asyncio_has_other_names_the_loop_encrypts(
    tmp_path: Path,
    upstream: FakeRegistry,
    authority: Authority,
    tls: ServerTls,
    steps: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def renamed(secure: asyncio.Transport, raw: asyncio.Transport) -> asyncio.Transport:
        class Other(asyncio.Transport):
            def get_extra_info(self, name: str, default: object = None) -> object:
                return secure.get_extra_info(name, default)

        other = Other()
        assert lendable(other, raw) is other
        return secure

    monkeypatch.setattr(connections, "lendable", renamed)
    context = trusting(authority)
    async with secure_mirror(tmp_path, upstream, tls) as mirror:
        pushed = await stored(mirror, upstream, context)
        assert await got(mirror, mirror.url + blob_path(pushed.digest), context) == (
            200,
            pushed.content,
        )
    assert not steps


@pytest.mark.parametrize("way", ["close_notify", "fin", "rst"])
async def test_a_client_that_leaves_during_a_body_is_not_an_error(
    tmp_path: Path,
    upstream: FakeRegistry,
    authority: Authority,
    tls: ServerTls,
    log_lines: io.StringIO,
    way: str,
) -> None:
    context = trusting(authority)
    async with secure_mirror(tmp_path, upstream, tls) as mirror:
        pushed = await stored(mirror, upstream, context)
        reader, writer = await connected(mirror, context)
        writer.write(compose(blob_path(pushed.digest)))
        await reader.readexactly(100_000)
        sock = writer.get_extra_info("socket")
        if way == "rst":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if way == "close_notify":
            writer.close()
        else:
            writer.transport.abort()
        await until(lambda: said(log_lines, "client left"))
        await mirror.becomes("mirror_connections", 0, listener="registry")
        assert await got(mirror, mirror.url + "/v2/", context) == (200, b"{}")
    assert not said(log_lines, "a body failed unexpectedly")


async def test_a_client_that_leaves_while_nothing_comes_is_noticed(
    tmp_path: Path, upstream: FakeRegistry, authority: Authority, tls: ServerTls
) -> None:
    context = trusting(authority)
    coming = blob(8 * MIB)
    upstream.push_blob(REPOSITORY, coming)
    gate = upstream.hold_body(coming.digest, after_bytes=2 * MIB)
    patient = Policy(timeouts=Timeouts(idle_seconds=15))
    async with secure_mirror(tmp_path, upstream, tls, policy=patient) as mirror:
        reader, writer = await connected(mirror, context)
        writer.write(compose(blob_path(coming.digest)))
        await reader.readexactly(2 * MIB)
        await mirror.becomes("mirror_fill_readers", 1)
        writer.close()
        await mirror.becomes("mirror_fill_readers", 0)
        gate.release()
        await mirror.settled()
        assert mirror.stored(coming.digest).exists()


async def test_a_client_that_takes_nothing_is_let_go_and_a_slow_one_is_not(
    tmp_path: Path,
    upstream: FakeRegistry,
    authority: Authority,
    tls: ServerTls,
    log_lines: io.StringIO,
) -> None:
    context = trusting(authority)
    limits = Limits(send_stall_seconds=0.6)
    async with secure_mirror(tmp_path, upstream, tls, limits) as mirror:
        pushed = await stored(mirror, upstream, context)
        (slow, slow_writer), (idle, idle_writer) = [
            await connected(mirror, context) for _ in range(2)
        ]
        for writer in (slow_writer, idle_writer):
            writer.write(compose(blob_path(pushed.digest)))
        got_bytes = 0
        while not said(log_lines, "answer cut short"):
            got_bytes += len(await slow.readexactly(MIB // 8))
            await asyncio.sleep(0.02)
        [line] = said(log_lines, "answer cut short")
        assert line["error"] == "the client took nothing for too long"
        await slow.readexactly(pushed.size_bytes - got_bytes)
        slow_writer.transport.abort()
        idle_writer.transport.abort()
        assert len(await idle.read()) < pushed.size_bytes
        await mirror.becomes("mirror_connections", 0, listener="registry")


# --- the transport alone ---------------------------------------------------------------------


class Peer:
    """Both ends of a connection, in this process."""

    def __init__(self, server: LendableTransport, client: Stream) -> None:
        self.server = server
        self.reader, self.writer = client
        self.pool = Pool("test", 1)
        self.sender = EncryptingSender(self.pool, 5)
        self.taken: list[int] = []

    def send(self, file: BinaryIO, count: int) -> "asyncio.Task[int]":
        return asyncio.create_task(self.sender.send(self.server, file, 0, count, self.taken.append))


class Quiet(asyncio.Protocol):
    """Takes all, and notes the end."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.got = b""

    def data_received(self, data: bytes) -> None:
        self.got += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


@asynccontextmanager
async def pair(authority: Authority, tls: ServerTls) -> AsyncIterator[tuple[Peer, Quiet]]:
    loop = asyncio.get_running_loop()
    protocol, arrived = Quiet(), loop.create_future()

    class Arrival(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            arrived.set_result(transport)

    listening = await loop.create_server(Arrival, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    connecting = asyncio.create_task(
        asyncio.open_connection("127.0.0.1", port, ssl=trusting(authority))
    )
    raw = await arrived
    context = server_context(tls, "server.tls")
    secure = await loop.start_tls(raw, protocol, context, server_side=True)
    assert secure is not None
    server = lendable(secure, raw)
    assert isinstance(server, LendableTransport)
    peer = Peer(server, await connecting)
    try:
        yield peer, protocol
    finally:
        peer.writer.transport.abort()
        server.abort()
        peer.pool.close()
        listening.close()
        async with asyncio.timeout(5):
            await protocol.lost.wait()


class Held:
    """``os.preadv``, which waits until it is let on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        self._read = os.preadv
        monkeypatch.setattr(os, "preadv", self)

    def __call__(self, file: int, buffers: list[memoryview], offset: int) -> int:
        count = self._read(file, buffers, offset)
        self.entered.set()
        assert self.go_on.wait(5)
        return count


@pytest.mark.parametrize("way", ["close", "abort"])
async def test_closing_waits_for_the_thread_and_ends_the_body(
    tmp_path: Path,
    authority: Authority,
    tls: ServerTls,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    (tmp_path / "file").write_bytes(b"x" * MIB)
    held = Held(monkeypatch)
    with (tmp_path / "file").open("rb") as file:
        async with pair(authority, tls) as (peer, protocol):
            sending = peer.send(file, MIB)
            await until(held.entered.is_set)
            with pytest.raises(RuntimeError, match="is being sent"):
                peer.server.write(b"more")
            getattr(peer.server, way)()
            assert peer.server.is_closing()
            await asyncio.sleep(0.02)
            assert not protocol.lost.is_set()
            held.go_on.set()
            with pytest.raises(ConnectionResetError):
                await sending
            assert await peer.reader.read() == b""
            peer.writer.close()
    assert peer.taken == []


async def test_what_a_cancelled_thread_has_read_is_not_sent(
    tmp_path: Path, authority: Authority, tls: ServerTls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then the number of the file may be that of another one."""
    (tmp_path / "file").write_bytes(b"x" * MIB)
    held = Held(monkeypatch)
    with (tmp_path / "file").open("rb") as file:
        async with pair(authority, tls) as (peer, protocol):
            sending = peer.send(file, MIB)
            await until(held.entered.is_set)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            held.go_on.set()
            with pytest.raises((ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)):
                await peer.reader.readexactly(1)
            await asyncio.wait_for(protocol.lost.wait(), 5)


async def test_a_file_that_ends_early_leaves_the_connection_whole(
    tmp_path: Path, authority: Authority, tls: ServerTls
) -> None:
    (tmp_path / "file").write_bytes(b"x" * 300_000)
    with (tmp_path / "file").open("rb") as file:
        async with pair(authority, tls) as (peer, protocol):
            assert await peer.send(file, MIB) == 300_000
            assert sum(peer.taken) == 300_000
            assert await peer.reader.readexactly(300_000) == b"x" * 300_000
            peer.server.write(b"more")
            assert await peer.reader.readexactly(4) == b"more"
            peer.writer.write(b"thanks")
            await until(lambda: protocol.got == b"thanks")


async def test_of_what_waits_while_a_thread_sends_only_the_sender_judges() -> None:
    """Looked at from outside, encrypted rests of one size would be one that nobody takes."""

    class Line(asyncio.Transport):
        def get_write_buffer_size(self) -> int:
            return 5

        def is_closing(self) -> bool:
            return False

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_bio(
        ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True
    )
    transport = LendableTransport(Line(), Line(), tls, ssl.MemoryBIO())
    assert transport.untaken_bytes() == 10
    transport._loan = object()  # type: ignore[assignment] # there is one
    assert transport.untaken_bytes() == 0
