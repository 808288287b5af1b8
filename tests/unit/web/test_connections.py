"""How many connections a listener takes, and how long a client may take to ask (case S13)."""

import asyncio
import io
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import product
from pathlib import Path

import pytest
from aiohttp import web

from mirror.app.listeners import allow_open_files
from mirror.settings import Limits, Server
from mirror.web.connections import Connection, Gate, client_of
from tests.fakes.clients import Ended, RawClient, compose
from tests.fakes.content import blob
from tests.fakes.registry import FakeRegistry
from tests.fakes.tls import loopback_tls
from tests.harness import ANY_PORT, Mirror, in_one_process, mirror_of
from tests.unit.web.wire import REPOSITORY, blob_path

PING = compose("/v2/")

pytestmark = in_one_process  # each of several has its share of the limits


@asynccontextmanager
async def limited(tmp_path: Path, upstream: FakeRegistry, limits: Limits) -> AsyncIterator[Mirror]:
    server = Server(listen=ANY_PORT, admin_listen=ANY_PORT, shutdown_grace_seconds=1, limits=limits)
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, server=server) as mirror:
        yield mirror


async def dropped(mirror: Mirror, reason: str, listener: str = "registry") -> float:
    name = "mirror_connections_dropped_total"
    return await mirror.metric(name, listener=listener, reason=reason)


async def connect(mirror: Mirror, stack: AsyncExitStack) -> RawClient:
    return await stack.enter_async_context(await RawClient.connect(mirror.host, mirror.port))


@pytest.mark.parametrize("before", [b"", PING], ids=["first request", "kept alive"])
async def test_s13_a_head_has_a_deadline(
    tmp_path: Path, upstream: FakeRegistry, before: bytes
) -> None:
    async with (
        limited(tmp_path, upstream, Limits(head_seconds=0.1)) as mirror,
        AsyncExitStack() as stack,
    ):
        client = await connect(mirror, stack)
        if before:
            await client.send(before)
            assert (await client.answer()).status == 200
        await client.send(b"GET /v2/ HTTP/1.1\r\n")
        dribble = asyncio.create_task(_dribble(client))
        assert (await client.answer()).ended in {Ended.FIN, Ended.RST}
        dribble.cancel()
        assert await dropped(mirror, "head") == 1
        await mirror.becomes("mirror_connections", 0, listener="registry")


async def _dribble(client: RawClient) -> None:
    """Send another byte of a header again and again: each one comes soon enough."""
    while True:
        await client.send(b"X: y\r\n")
        await asyncio.sleep(0.01)


async def test_an_answer_may_take_longer_than_a_head(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    pushed = blob(500_000)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=100_000)
    async with limited(tmp_path, upstream, Limits(head_seconds=0.05)) as mirror:
        reading = asyncio.create_task(mirror.get(blob_path(pushed.digest)))
        await gate.reached.wait()
        async with await RawClient.connect(mirror.host, mirror.port) as late:
            await late.send(b"GET")
            assert (await late.answer()).ended in {Ended.FIN, Ended.RST}
        gate.release()
        assert (await reading).body == pushed.content


async def test_s13_a_connection_without_a_request_is_closed(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    async with (
        limited(tmp_path, upstream, Limits(idle_seconds=0.1)) as mirror,
        AsyncExitStack() as stack,
    ):
        silent, idle = await connect(mirror, stack), await connect(mirror, stack)
        await idle.send(PING)
        assert (await idle.answer()).status == 200
        assert (await silent.answer()).ended is Ended.FIN
        assert (await idle.answer()).ended is Ended.FIN


async def test_s11_a_head_has_a_size(tmp_path: Path, upstream: FakeRegistry) -> None:
    many = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 8000) for number in range(20))
    async with limited(tmp_path, upstream, Limits()) as mirror, AsyncExitStack() as stack:
        client = await connect(mirror, stack)
        await client.send(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + many)
        answer = await client.answer()
        assert (answer.status, answer.header("Connection")) == (431, "close")
        assert await dropped(mirror, "head_size") == 1
        client = await connect(mirror, stack)
        await client.send(b"GET /v2/ HTTP/1.1\r\nX: " + b"y" * 40_000 + b"\r\n\r\n")
        assert (await client.answer()).status == 400
        client = await connect(mirror, stack)
        await client.send(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n")
        assert (await client.answer()).status == 400


async def test_s16_one_client_has_a_number_of_connections(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    limits = Limits(per_client=2, head_seconds=0.2)
    async with limited(tmp_path, upstream, limits) as mirror, AsyncExitStack() as stack:
        first, second = await connect(mirror, stack), await connect(mirror, stack)
        for client in (first, second):
            await client.send(PING)
            assert (await client.answer()).status == 200
        third = await connect(mirror, stack)
        assert (await third.answer()).ended is Ended.FIN
        assert await dropped(mirror, "per_client") == 1
        first.close()
        await mirror.becomes("mirror_connections", 1, listener="registry")
        fourth = await connect(mirror, stack)
        await fourth.send(PING)
        assert (await fourth.answer()).status == 200
        async with mirror.session.get(mirror.admin_url + "/livez") as probe:
            assert probe.status == 200  # the other listener counts for itself


async def test_s13_all_clients_have_a_number_of_connections(
    tmp_path: Path, upstream: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(connections=1, head_seconds=0.1)
    async with limited(tmp_path, upstream, limits) as mirror, AsyncExitStack() as stack:
        first = await connect(mirror, stack)
        await first.send(PING)
        assert (await first.answer()).status == 200
        assert (await (await connect(mirror, stack)).answer()).ended is Ended.FIN
        assert await dropped(mirror, "connections") == 1
        async with asyncio.timeout(5):
            while "connections dropped" not in caplog.text:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.01)


async def test_s13_pipelined_requests_are_answered_one_by_one(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    """So that connections bound requests, too."""
    pushed = blob(1000)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=100)
    other = blob(1000, seed=2)
    upstream.push_blob(REPOSITORY, other)
    async with limited(tmp_path, upstream, Limits()) as mirror, AsyncExitStack() as stack:
        client = await connect(mirror, stack)
        await client.send(b"".join(compose(blob_path(each.digest)) for each in (pushed, other)))
        await gate.reached.wait()
        assert len([each for each in upstream.requests if each.kind == "blob"]) == 1
        gate.release()
        assert (await client.answer()).body == pushed.content
        assert (await client.answer()).body == other.content


async def test_s13_who_takes_nothing_of_small_answers_is_disconnected(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    """They are written at once, so nothing that sends them has a limit of its own."""
    pushed = blob(60_000)
    upstream.push_blob(REPOSITORY, pushed)
    limits = Limits(send_stall_seconds=0.2)
    async with limited(tmp_path, upstream, limits) as mirror, AsyncExitStack() as stack:
        assert (await mirror.get(blob_path(pushed.digest))).body == pushed.content
        await mirror.settled()
        client = await connect(mirror, stack)
        asking = asyncio.create_task(client.send(compose(blob_path(pushed.digest)) * 400))
        name = "mirror_connections_dropped_total"
        await mirror.becomes(name, 1, listener="registry", reason="stalled")
        assert (await mirror.get(blob_path(pushed.digest))).body == pushed.content
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_s13_who_goes_on_taking_is_not_disconnected(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    """Between two looks the same may wait again, after much has gone out: over TLS it often is."""

    class Line(asyncio.Transport):
        size_bytes = 100_000

        def get_write_buffer_size(self) -> int:
            return self.size_bytes

        def is_closing(self) -> bool:
            return False

    async with limited(tmp_path, upstream, Limits()) as mirror:
        gate = Gate("registry", Limits(), mirror.up.metrics)
        server = web.Server(lambda _: None)  # type: ignore[arg-type, return-value] # never asked
        connection = Connection(gate, "192.0.2.1", server, {})
        line = connection._line = Line()
        connection.pause_writing()
        assert not connection.is_stalled(0, 60)
        assert not connection.is_stalled(59, 60)
        connection.resume_writing()
        connection.pause_writing()
        assert not connection.is_stalled(61, 60)
        assert not connection.is_stalled(120, 60)
        assert connection.is_stalled(121, 60)
        for line.size_bytes in (90_000, 80_000, 0, 80_000):
            assert not connection.is_stalled(200 - line.size_bytes / 1000, 60)
        assert not connection.is_stalled(179, 60)
        assert connection.is_stalled(180, 60)


def _write_what_is_not_taken(transport: asyncio.Transport) -> None:
    """Write more than two small kernel buffers hold, and less than what pauses an answer."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    transport.write(b"x" * 60_000)


@pytest.mark.parametrize(
    ("then", "is_secure"),
    [
        *product(("kept open", "closed", "half-closed"), (False, True)),
        ("late with the next", False),  # asyncio's TLS ends by itself
    ],
)
async def test_s13_who_takes_nothing_of_the_last_answer_is_disconnected(
    mirror: Mirror, then: str, *, is_secure: bool
) -> None:
    """Nothing waits in its name any more, and the connection may be closing."""
    answered = asyncio.Event()

    async def write(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        _write_what_is_not_taken(request.transport)
        answered.set()
        response = web.Response()
        if then == "closed":
            response.force_close()
        return response

    tls, trusting, _ = loopback_tls()
    limits = Limits(send_stall_seconds=0.1, head_seconds=0.05)
    gate = Gate("other", limits, mirror.up.metrics, (lambda: tls) if is_secure else None)
    runner = web.ServerRunner(web.Server(write), shutdown_timeout=0.1)
    await runner.setup()
    watching = asyncio.create_task(gate.watch())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        await gate.open(runner, listening)
        with socket.socket() as client:
            await _ask_and_take_nothing(client, listening, trusting if is_secure else None)
            await answered.wait()
            if then == "late with the next":
                await asyncio.get_running_loop().sock_sendall(client, b"G")
            if then == "half-closed":
                client.shutdown(socket.SHUT_WR)
            name = "mirror_connections_dropped_total"
            await mirror.becomes(name, 1, listener="other", reason="stalled")
            await mirror.becomes("mirror_connections", 0, listener="other")
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await runner.cleanup()


async def _ask_and_take_nothing(
    client: socket.socket, listening: socket.socket, trusting: ssl.SSLContext | None
) -> None:
    """Connect with next to no room for what has not been read, over TLS if need be."""
    loop = asyncio.get_running_loop()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)  # noqa: FBT003 -- the socket's own signature
    await loop.sock_connect(client, listening.getsockname())
    if trusting is None:
        await loop.sock_sendall(client, PING)
        return
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    is_shaking = True
    while is_shaking:
        try:
            tls.do_handshake()
            is_shaking = False
        except ssl.SSLWantReadError:
            await loop.sock_sendall(client, outgoing.read())
            incoming.write(await loop.sock_recv(client, 4096))
    tls.write(PING)
    await loop.sock_sendall(client, outgoing.read())


async def test_connections_that_are_closed_have_time_to_send_what_they_hold(
    mirror: Mirror, log_lines: io.StringIO
) -> None:
    """The clean-up of a listener waits for answers, and not for what waits behind them."""
    held = b"x" * (16 << 20)

    async def write(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(held)  # more than the kernel takes
        return web.Response()

    gate = Gate("registry", Limits(), mirror.up.metrics)
    runner = web.ServerRunner(web.Server(write), shutdown_timeout=0.1)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        await gate.open(runner, listening)
        async with await RawClient.connect("127.0.0.1", port) as client:
            await client.send(PING)
            assert await client.read(1) == b"x"
            await runner.cleanup()
            await gate.emptied(0.01)
            assert "connections are left behind" in log_lines.getvalue()
            emptied = asyncio.create_task(gate.emptied(10))
            assert await client.read(len(held) - 1) == held[1:]
            with suppress(EOFError):
                while True:
                    await client.read(1)
            await emptied
    assert log_lines.getvalue().count("connections are left behind") == 1


@pytest.mark.parametrize(
    "broken",
    [
        b"GET /v2/\xff?secret-canary HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Registry-Auth: secret-canary\x01\r\n\r\n",
    ],
    ids=["path", "field"],
)
async def test_s19_of_a_request_that_cannot_be_read_one_short_line_is_logged(
    tmp_path: Path, upstream: FakeRegistry, log_lines: io.StringIO, broken: bytes
) -> None:
    """Not the bytes that aiohttp stumbled over, which may be a credential, and no traceback."""
    async with limited(tmp_path, upstream, Limits()) as mirror, AsyncExitStack() as stack:
        client = await connect(mirror, stack)
        await client.send(PING)
        assert (await client.answer()).status == 200
        await client.send(broken)
        assert (await client.answer()).status == 400
    logged = log_lines.getvalue()
    assert "a request cannot be read" in logged
    assert "secret-canary" not in logged
    assert "Traceback" not in logged


def test_many_connections_may_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = min(1024, soft)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
        allow_open_files(10)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(2068, hard), hard)
        allow_open_files(1)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(2068, hard), hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
    ],
)
def test_whose_connections_are_counted_together(address: str, client: str) -> None:
    assert client_of(address) == client
