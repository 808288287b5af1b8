"""Large bodies over a connection that is taken over from aiohttp."""

import asyncio
import os
import socket
from asyncio import sslproto
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.domain.errors import UpstreamTimeoutError, UpstreamTroubleError
from mirror.settings import Policy, Timeouts, Upstream, UpstreamTls
from mirror.transfer.appender import Appender
from mirror.upstream import receiving, streaming
from mirror.upstream.receiving import SLAB_BYTES, SLABS_MAX, Batch, Receiver, Spare
from tests.fakes import faults
from tests.fakes.clients import Ended
from tests.fakes.content import blob as blob_of
from tests.fakes.registry import FakeRegistry
from tests.fakes.tls import loopback_tls
from tests.harness import MIB, mirror_of
from tests.unit.upstream.pulling import REPOSITORY, blob

SMALL = 64
PUSHED = blob_of(9 * MIB + 17, 7)
QUICK = Policy(timeouts=Timeouts(connect_seconds=1, response_seconds=2, idle_seconds=0.3))


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return whether each body was taken over, in their order."""
    seen: list[bool] = []

    def watched(response: object) -> object:
        result = receiving.take_over(response)  # type: ignore[arg-type] # it is what it watches
        seen.append(result is not None)
        return result

    monkeypatch.setattr(streaming, "take_over", watched)
    return seen


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_large_body_is_received_without_aiohttp(
    tmp_path: Path, taken: list[bool], scheme: str
) -> None:
    server, _, pem = loopback_tls()
    (tmp_path / "ca.pem").write_bytes(pem)
    tls = UpstreamTls(ca=tmp_path / "ca.pem") if scheme == "https" else UpstreamTls()
    async with FakeRegistry(tls=server if scheme == "https" else None) as registry:
        registry.push_blob(REPOSITORY, PUSHED)
        upstream = Upstream(endpoints=(registry.url,), tls=tls)
        async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
            got = await mirror.get(blob(PUSHED.digest))
            await mirror.settled()
            assert await mirror.total("mirror_upstream_bytes_total") == PUSHED.size_bytes
            assert mirror.stored(PUSHED.digest).read_bytes() == PUSHED.content
    assert got.body == PUSHED.content
    assert taken == [True]


async def test_a_body_that_is_cut_goes_on_where_it_was(
    tmp_path: Path, upstream: FakeRegistry, taken: list[bool]
) -> None:
    upstream.push_blob(REPOSITORY, PUSHED)
    upstream.fail(faults.cut(3 * MIB), times=1)
    upstream.fail(faults.cut(MIB, rst=True), times=1, skip=1)
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, policy=QUICK) as mirror:
        got = await mirror.get(blob(PUSHED.digest))
        assert await mirror.total("mirror_upstream_bytes_total") <= PUSHED.size_bytes
    assert got.body == PUSHED.content
    assert taken[:2] == [True, True]


async def test_a_body_that_stalls_is_given_up_in_time(
    tmp_path: Path, upstream: FakeRegistry, taken: list[bool]
) -> None:
    upstream.push_blob(REPOSITORY, PUSHED)
    upstream.fail(faults.hang_in_body(4 * MIB))
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, policy=QUICK) as mirror:
        got = await mirror.get(blob(PUSHED.digest))
    assert got.body == PUSHED.content
    assert taken[0]


async def test_what_comes_behind_the_last_byte_is_not_taken(
    tmp_path: Path, upstream: FakeRegistry, taken: list[bool]
) -> None:
    upstream.push_blob(REPOSITORY, PUSHED)
    upstream.fail(faults.surplus(b"x" * 100_000))
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, policy=QUICK) as mirror:
        got = await mirror.raw(blob(PUSHED.digest))
        await mirror.settled()
        assert mirror.stored(PUSHED.digest).read_bytes() == PUSHED.content
    assert (got.ended, got.body) == (Ended.COMPLETE, PUSHED.content)
    assert taken[0]


async def test_a_connection_that_the_other_end_has_closed_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over TLS, asyncio keeps one that said good-bye while it was not read."""
    server, _, pem = loopback_tls()
    (tmp_path / "ca.pem").write_bytes(pem)
    taken, finish, said, lost = list[Receiver](), Appender.finish, asyncio.Event(), asyncio.Event()

    def watched(response: aiohttp.ClientResponse) -> object:
        result = receiving.take_over(response)
        assert result is not None
        taken.append(result[1])
        return result

    async def late(appender: Appender) -> None:
        await said.wait()
        await asyncio.sleep(0.05)  # for the good-bye to come
        await finish(appender)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Length: {PUSHED.size_bytes}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + PUSHED.content)
        while not taken or taken[0]._missing_bytes:  # noqa: ASYNC110 -- nothing tells of it
            await asyncio.sleep(0.001)
        writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
        said.set()

    monkeypatch.setattr(streaming, "take_over", watched)
    monkeypatch.setattr(Appender, "finish", late)
    monkeypatch.setattr(Receiver, "connection_lost", lambda *_: lost.set())
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        tls = UpstreamTls(ca=tmp_path / "ca.pem")
        upstream = Upstream(endpoints=(f"https://127.0.0.1:{port}",), tls=tls)
        async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
            assert (await mirror.get(blob(PUSHED.digest))).body == PUSHED.content
            await mirror.settled()
            async with asyncio.timeout(5):
                await lost.wait()


async def test_small_and_chunked_bodies_are_left_to_aiohttp(
    tmp_path: Path, upstream: FakeRegistry, taken: list[bool]
) -> None:
    small = blob_of(MIB, 3)
    upstream.push_blob(REPOSITORY, PUSHED)
    upstream.push_blob(REPOSITORY, small)
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        assert (await mirror.get(blob(small.digest))).body == small.content
        upstream.fail(faults.chunked())
        assert (await mirror.get(blob(PUSHED.digest))).body == PUSHED.content
    assert taken == [False, False]


# --- the bookkeeping, without a socket ------------------------------------------------------


class _Line(asyncio.Transport):
    """The other end of the protocol: gives bytes for as long as it is not paused."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.left = memoryview(content)
        self.is_paused = False
        self.resumed = asyncio.Event()

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False
        self.resumed.set()

    def give(self, receiver: Receiver, count: int) -> None:
        if self.is_paused or not self.left:
            return
        buffer = receiver.get_buffer(-1)
        count = min(count, len(buffer), len(self.left))
        buffer[:count] = self.left[:count]
        self.left = self.left[count:]
        receiver.buffer_updated(count)


def _received(batch: Batch) -> bytes:
    return b"".join(batch.pieces)


@given(
    size_bytes=st.integers(1, 9 * SMALL),
    steps=st.lists(
        st.tuples(st.integers(1, 2 * SMALL), st.booleans(), st.booleans()),
        min_size=1,
        max_size=30,
    ),
)
def test_bytes_come_in_order_and_no_more_memory_than_allowed_is_used(
    size_bytes: int, steps: list[tuple[int, bool, bool]]
) -> None:
    content = _CONTENT[:size_bytes]
    line = _Line(content)
    receiver = Receiver(
        line, asyncio.Protocol(), size_bytes, slab_bytes=SMALL, spare=Spare(0), rest_seconds=0
    )
    lent: list[tuple[Batch, bytes]] = []
    out = bytearray()

    def take() -> None:
        batch = receiver._take()
        if batch is not None:
            out.extend(_received(batch))
            lent.append((batch, _received(batch)))

    def release() -> None:
        for batch, was in lent:
            assert _received(batch) == was, "lent memory was written to"
            batch.release()
        lent.clear()

    number = 0
    while len(out) < size_bytes:
        count, takes, releases = steps[number % len(steps)]
        line.give(receiver, count)
        if takes or line.is_paused:
            take()
        if releases or line.is_paused:
            release()
        number += 1
    release()
    assert bytes(out) == content
    assert receiver._slabs <= SLABS_MAX
    assert line.is_paused, "nothing behind the last byte is read"


_CONTENT = os.urandom(9 * SMALL)


@given(
    cuts=st.lists(st.integers(0, 50), max_size=6),
    at_bytes=st.integers(0, 120),
)
def test_a_batch_is_split_at_any_byte(cuts: list[int], at_bytes: int) -> None:
    pieces = [os.urandom(count) for count in cuts]
    content = b"".join(pieces)
    first, rest = Batch([*pieces], len(content)).split(at_bytes)
    assert (_received(first), _received(rest)) == (content[:at_bytes], content[at_bytes:])
    assert (first.size_bytes, rest.size_bytes) == (len(_received(first)), len(_received(rest)))


async def test_what_has_come_is_given_before_the_error() -> None:
    receiver = Receiver(_Line(b""), asyncio.Protocol(), 2 * SLAB_BYTES)
    receiver.get_buffer(-1)[:5] = b"hello"
    receiver.buffer_updated(5)
    receiver.connection_lost(ConnectionResetError(104, "Connection reset by peer"))
    batches = receiver.batches(1, "http://upstream/blob?signature=secret")
    assert _received(await anext(batches)) == b"hello"
    with pytest.raises(UpstreamTroubleError, match="Connection reset by peer") as caught:
        await anext(batches)
    assert "secret" not in str(caught.value)


async def test_silence_is_a_timeout() -> None:
    receiver = Receiver(_Line(b""), asyncio.Protocol(), 5)
    with pytest.raises(UpstreamTimeoutError):
        await anext(receiver.batches(0.01, "http://upstream"))


async def test_while_we_take_nothing_it_is_not_upstream_that_is_silent() -> None:
    """A disk that stands still holds all memory that there is to receive into."""
    line = _Line(_CONTENT[: 6 * SMALL])
    receiver = Receiver(
        line, asyncio.Protocol(), 6 * SMALL, slab_bytes=SMALL, spare=Spare(0), rest_seconds=0
    )
    batches = receiver.batches(0.05, "http://upstream")
    lent = []
    for _ in range(SLABS_MAX):
        line.give(receiver, SMALL)
        lent.append(await anext(batches))
    assert line.is_paused
    coming = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0.15)
    assert not coming.done()
    lent[0].release()
    line.give(receiver, SMALL)
    lent.append(await coming)
    assert _received(lent[-1]) == _CONTENT[SLABS_MAX * SMALL : (SLABS_MAX + 1) * SMALL]
    for batch in lent[1:]:
        batch.release()
    with pytest.raises(UpstreamTimeoutError):
        await anext(batches)


# --- memory to spare, and slow lines ---------------------------------------------------------


def test_more_memory_is_used_while_there_is_some_to_spare_and_given_back() -> None:
    spare, line = Spare(2), _Line(os.urandom(20 * SMALL))
    receiver = Receiver(
        line, asyncio.Protocol(), 20 * SMALL, slab_bytes=SMALL, spare=spare, rest_seconds=0
    )
    while not line.is_paused:
        line.give(receiver, SMALL)
    assert receiver._slabs == SLABS_MAX + 2
    assert spare.count == 0
    receiver.connection_lost(None)
    assert spare.count == 2


def test_no_download_takes_all_memory_that_there_is() -> None:
    spare, line = Spare(100), _Line(os.urandom(20 * SMALL))
    receiver = Receiver(
        line, asyncio.Protocol(), 20 * SMALL, slab_bytes=SMALL, spare=spare, rest_seconds=0
    )
    while not line.is_paused:
        line.give(receiver, SMALL)
    assert receiver._slabs == receiving._SLABS_LIMIT


async def test_packets_of_a_slow_line_are_had_several_at_a_time() -> None:
    line = _Line(_CONTENT)
    receiver = Receiver(line, asyncio.Protocol(), len(_CONTENT), rest_seconds=0.001)
    batches = receiver.batches(5, "http://upstream")
    line.give(receiver, 100)
    assert line.is_paused, "the rest of what is on its way is waited for"
    assert _received(await anext(batches)) == _CONTENT[:100], "what has come is not"
    async with asyncio.timeout(5):
        await line.resumed.wait()
    line.give(receiver, 100)
    assert _received(await anext(batches)) == _CONTENT[100:200]


async def test_a_rest_is_no_longer_than_the_line_needs() -> None:
    size = receiving.SLAB_BYTES
    line = _Line(bytes(2 * size))
    receiver = Receiver(line, asyncio.Protocol(), 2 * size, rest_seconds=60)
    for quick_bytes in (0, size // 2):
        if quick_bytes:
            line.give(receiver, quick_bytes)
            assert not line.is_paused
        line.give(receiver, 100)
        assert line.is_paused
        async with asyncio.timeout(5):
            await line.resumed.wait()
        line.resumed.clear()


async def test_a_quick_line_is_not_kept_waiting() -> None:
    size = receiving._TRICKLE_BYTES
    line = _Line(bytes(2 * size))
    receiver = Receiver(line, asyncio.Protocol(), 2 * size)
    line.give(receiver, size)
    assert not line.is_paused


def test_what_comes_over_tls_at_once_is_no_trickle() -> None:
    """Else each of its pieces would be followed by a rest: 60 MB/s in place of 1,000."""
    assert sslproto.SSLProtocol.max_size >= receiving._TRICKLE_BYTES


async def test_a_rest_does_not_end_a_pause_for_want_of_memory() -> None:
    line = _Line(_CONTENT)
    receiver = Receiver(
        line, asyncio.Protocol(), len(_CONTENT), slab_bytes=SMALL, spare=Spare(0), rest_seconds=0.01
    )
    line.give(receiver, SMALL // 2)
    assert line.is_paused
    line.resume_reading()  # as if the rest were over
    while not receiver._is_paused:
        line.is_paused = False
        line.give(receiver, SMALL)
    await asyncio.sleep(0.03)
    assert line.is_paused
