"""One connection of a fake server, and what is remembered of each request."""

import array
import asyncio
import fcntl
import itertools
import socket
import struct
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, cast
from urllib.parse import parse_qsl, urlsplit

Headers = list[tuple[str, str]]

_HEAD_LIMIT_BYTES: Final = 1 << 20
_POLL_SECONDS: Final = 0.001
_NUMBERS = itertools.count(1)


class Kind(StrEnum):
    """What a request asks for."""

    PING = "ping"
    MANIFEST = "manifest"
    BLOB = "blob"
    TAGS = "tags"
    REFERRERS = "referrers"
    CATALOG = "catalog"
    TOKEN = "token"
    CDN = "cdn"
    OTHER = "other"


class Ended(StrEnum):
    """How the answer to a request ended."""

    OPEN = "open"
    COMPLETE = "complete"
    CUT = "cut"
    GONE = "gone"  # the client left before the end


class GoneError(Exception):
    """The client has closed its side of the connection."""


@dataclass(slots=True, kw_only=True)
class Recorded:
    """A request as it was sent, and what became of it.

    ``number`` grows over all fakes of a test, so it orders requests to different ones.
    """

    connection: int
    method: str
    target: str
    version: str
    headers: Headers
    body: bytes = b""
    number: int = field(default_factory=lambda: next(_NUMBERS))
    at_seconds: float = field(default_factory=time.monotonic)
    kind: Kind = Kind.OTHER
    repository: str | None = None
    reference: str | None = None
    status: int | None = None
    sent_bytes: int = 0
    ended: Ended = Ended.OPEN

    def header(self, name: str) -> str | None:
        """Return the first line of that name."""
        return next(iter(self.header_lines(name)), None)

    def header_lines(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def host(self) -> str | None:
        return self.header("Host")

    @property
    def authorization(self) -> str | None:
        return self.header("Authorization")

    @property
    def authorization_kind(self) -> str | None:
        """``bearer``, ``basic``, … or None if there was no Authorization."""
        value = self.authorization
        return None if value is None else value.partition(" ")[0].lower()

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> str:
        return urlsplit(self.target).query

    @property
    def parameters(self) -> list[tuple[str, str]]:
        return parse_qsl(self.query, keep_blank_values=True)

    def parameter(self, name: str) -> str | None:
        return next((value for key, value in self.parameters if key == name), None)

    @property
    def keeps_connection(self) -> bool:
        tokens = ",".join(self.header_lines("Connection")).lower()
        return self.version == "HTTP/1.1" and "close" not in tokens


def parse_head(head: bytes, connection: int) -> Recorded:
    """Read a request head leniently: what a client sends is what is recorded."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, _, rest = first.partition(" ")
    target, _, version = rest.rpartition(" ")
    headers: Headers = []
    for line in lines:
        name, _, value = line.partition(":")
        headers.append((name, value.strip()))
    return Recorded(
        connection=connection, method=method, target=target, version=version, headers=headers
    )


class Connection(asyncio.Protocol):
    """A socket with what aiohttp would not do: FIN or RST at any byte, raw heads."""

    def __init__(self, number: int, on_made: Callable[["Connection"], None]) -> None:
        self.number = number
        self._on_made = on_made
        self.gone = asyncio.Event()
        self.lost = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._input = bytearray()
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def transport(self) -> asyncio.Transport:
        if self._transport is None:
            raise GoneError
        return self._transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # write() then returns once the kernel has all of it: sent_bytes is the truth.
        # Not high=0, with which a TLS transport pauses for ever.
        self._transport.set_write_buffer_limits(high=1, low=0)
        self._on_made(self)

    def data_received(self, data: bytes) -> None:
        self._input += data
        self._news.set()

    def eof_received(self) -> bool:
        self.gone.set()
        self._news.set()
        self._writable.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.eof_received()
        self.lost.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def _receive(self) -> None:
        if self.gone.is_set():
            raise GoneError
        self._news.clear()
        await self._news.wait()

    async def read_request(self) -> Recorded:
        """Wait for a request; raise GoneError when there will be none."""
        while (end := self._input.find(b"\r\n\r\n")) < 0:
            if len(self._input) > _HEAD_LIMIT_BYTES:
                raise GoneError
            await self._receive()
        request = parse_head(bytes(self._input[:end]), self.number)
        del self._input[: end + 4]
        length = int(request.header("Content-Length") or 0)
        while len(self._input) < length:
            await self._receive()
        request.body = bytes(self._input[:length])
        del self._input[:length]
        return request

    async def write(self, data: bytes | memoryview) -> None:
        """Hand *data* to the kernel; raise GoneError if nobody is there to read it."""
        if self.gone.is_set():
            raise GoneError
        self.transport.write(data)
        await self._writable.wait()
        # A transport that was reset swallows what is written until it says so.
        if self.gone.is_set() or self.transport.is_closing():
            raise GoneError

    async def until(self, event: asyncio.Event) -> None:
        """Wait for *event*; raise GoneError if the client leaves first."""
        waiting = [asyncio.ensure_future(each.wait()) for each in (event, self.gone)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        if not event.is_set():
            raise GoneError

    async def finish(self) -> None:
        """Send FIN, and wait until the client has closed its side too.

        A close with unread input would be an RST instead.
        """
        if self.gone.is_set():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()  # TLS has no half-closed state
        await self.gone.wait()

    async def reset(self) -> None:
        """Send RST, once the client's kernel has all that was written before."""
        sock: socket.socket = self.transport.get_extra_info("socket")
        unsent = array.array("i", [0])
        while not self.gone.is_set():
            fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, unsent)
            if not unsent[0]:
                break
            await asyncio.sleep(_POLL_SECONDS)  # nothing tells when the last ACK comes
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.gone.set()
        self.transport.abort()

    async def drop(self) -> None:
        """Close the socket now, and return once it is closed."""
        self.transport.abort()
        await self.lost.wait()
