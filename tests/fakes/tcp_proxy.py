"""A TCP proxy that misbehaves: between a mirror and its upstream, below HTTP.

Offsets are of the stream from upstream to the mirror, heads included, of each connection
anew. What HTTP knows of (bodies, statuses) has its faults in ``faults.py``.
"""

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from typing import Final, Literal, Self

_BURST_SECONDS: Final = 0.02
_PIECE_BYTES: Final = 64 * 1024

Ending = Literal["fin", "rst"]


@dataclass(slots=True)
class Misbehaviour:
    """What the proxy does to every connection; changed while it runs."""

    latency_seconds: float = 0.0
    bytes_per_second: float | None = None
    cut_after_bytes: int | None = None
    ending: Ending = "fin"
    stall_after_bytes: int | None = None
    flip_at_byte: int | None = None
    insert_at_byte: int | None = None
    insert: bytes = b"X"
    is_black_hole: bool = False


@dataclass(slots=True)
class Passed:
    """What has gone through."""

    connections: int = 0
    from_upstream_bytes: int = 0
    cuts: int = 0


@dataclass(slots=True)
class TcpProxy:
    """Listens on a port of its own and passes everything on to *target_port*."""

    target_port: int
    does: Misbehaviour = field(default_factory=Misbehaviour)
    passed: Passed = field(default_factory=Passed)
    port: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def listen(self) -> None:
        """Accept connections, after ``refuse`` on the same port again."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Refuse new connections; those that are open go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def close(self) -> None:
        """Close everything."""
        self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.passed.connections += 1
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.does.is_black_hole:
            await asyncio.Event().wait()
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        asking = asyncio.create_task(_copy(reader, there_writer))
        try:
            ending = await self._answer(there_reader, writer)
        finally:
            asking.cancel()
            there_writer.close()
            await asyncio.gather(asking, return_exceptions=True)
        if ending == "rst":
            _reset(writer)
        else:
            writer.close()
            await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Ending:
        """Pass on what upstream says until it ends or has to be ended; returns how."""
        offset, due = 0, 0.0
        while data := await reader.read(_PIECE_BYTES):
            does = self.does
            if does.latency_seconds:
                await asyncio.sleep(does.latency_seconds)
            if does.bytes_per_second:
                due = await _in_time(due, len(data) / does.bytes_per_second)
            end = _first(does.cut_after_bytes, does.stall_after_bytes)
            piece = data if end is None else data[: max(0, end - offset)]
            self.passed.from_upstream_bytes += len(piece)
            writer.write(_spoilt(piece, offset, does))
            await writer.drain()
            offset += len(data)
            if end is not None and offset >= end:
                if end == does.stall_after_bytes:
                    await asyncio.Event().wait()
                self.passed.cuts += 1
                return does.ending
        return "fin"


async def _in_time(due: float, seconds: float) -> float:
    """Wait until a line of that rate is through with what takes *seconds*; returns when that is.

    Timers are late by a millisecond and more, so what was lost by that is made up for.
    """
    now = asyncio.get_running_loop().time()
    due = max(due, now - _BURST_SECONDS) + seconds
    if due > now:
        await asyncio.sleep(due - now)
    return due


def _first(*offsets: int | None) -> int | None:
    return min((offset for offset in offsets if offset is not None), default=None)


def _spoilt(piece: bytes, offset: int, does: Misbehaviour) -> bytes:
    changed = bytearray(piece)
    if does.flip_at_byte is not None and offset <= does.flip_at_byte < offset + len(piece):
        changed[does.flip_at_byte - offset] ^= 1
    if does.insert_at_byte is not None and offset <= does.insert_at_byte < offset + len(piece):
        at = does.insert_at_byte - offset
        changed[at:at] = does.insert
    return bytes(changed)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_PIECE_BYTES):
        writer.write(data)
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the other side sees a reset (RFC 1122, 4.2.2.13)."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
