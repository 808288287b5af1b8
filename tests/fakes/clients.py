"""A raw client, for what can only be seen on the wire: FIN or RST, short bodies, bare paths."""

import asyncio
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from tests.fakes.wire import Headers

_PIECE_BYTES = 1 << 16


class Ended(StrEnum):
    """How the server ended its answer."""

    COMPLETE = "complete"
    FIN = "fin"
    RST = "rst"
    TIMEOUT = "timeout"


@dataclass(slots=True)
class RawAnswer:
    """What came back, the body without the framing of chunks.

    ``ended`` is ``complete`` once the length or the last chunk says so; a body that
    has neither can only end by ``fin``.
    """

    status: int = 0
    headers: Headers = field(default_factory=list)
    body: bytes = field(default=b"", repr=False)
    ended: Ended = Ended.FIN

    def header(self, name: str) -> str | None:
        return next(iter(self.header_lines(name)), None)

    def header_lines(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


def compose(
    target: str,
    headers: Iterable[tuple[str, str]] = (),
    *,
    method: str = "GET",
    host: str = "localhost",
    body: bytes = b"",
) -> bytes:
    """Write a request; nothing is escaped, and *headers* may repeat a name."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


async def get(
    host: str,
    port: int,
    target: str,
    headers: Iterable[tuple[str, str]] = (),
    *,
    method: str = "GET",
    timeout_seconds: float = 5.0,
) -> RawAnswer:
    """Send one request and read its answer."""
    raw = compose(target, headers, method=method, host=f"{host}:{port}")
    return await fetch(host, port, raw, timeout_seconds=timeout_seconds)


async def fetch(
    host: str, port: int, raw_request: bytes, *, timeout_seconds: float = 5.0
) -> RawAnswer:
    """Send *raw_request* as it is and read one answer, until its end or the time is up."""
    async with await RawClient.connect(host, port) as client:
        await client.send(raw_request)
        is_head = raw_request.startswith(b"HEAD ")
        return await client.answer(is_head=is_head, timeout_seconds=timeout_seconds)


class RawClient:
    """A connection for several requests, or for one that is left half-way.

    A bare socket, because a StreamReader forgets what it has once an RST arrives.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._input = bytearray()
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, host: str, port: int) -> "RawClient":
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)  # noqa: FBT003 -- the socket's own signature
        try:
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def local_port(self) -> int:
        return int(self._socket.getsockname()[1])

    async def send(self, raw: bytes) -> None:
        await self._loop.sock_sendall(self._socket, raw)

    def close(self) -> None:
        """Leave at once, whatever is still on its way."""
        self._socket.close()

    async def read(self, count: int) -> bytes:
        """Read exactly *count* bytes of whatever comes, such as the start of a body."""
        while len(self._input) < count:
            await self._receive()
        return self._take(count)

    async def head(self) -> RawAnswer:
        """Read status and headers, and leave the body where it is."""
        answer = RawAnswer()
        await self._read_head(answer)
        return answer

    async def answer(self, *, is_head: bool = False, timeout_seconds: float = 5.0) -> RawAnswer:
        """Read one answer to its end, however that comes."""
        answer = RawAnswer()
        body = bytearray()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._read_head(answer)
                await self._read_body(answer, body, is_head=is_head)
                answer.ended = Ended.COMPLETE
        except TimeoutError:
            answer.ended = Ended.TIMEOUT
        except EOFError:
            answer.ended = Ended.FIN
        except ConnectionError:
            answer.ended = Ended.RST
        answer.body = bytes(body)
        return answer

    async def _receive(self) -> None:
        piece = await self._loop.sock_recv(self._socket, _PIECE_BYTES)
        if not piece:
            raise EOFError
        self._input += piece

    def _take(self, count: int) -> bytes:
        taken = bytes(self._input[:count])
        del self._input[:count]
        return taken

    async def _read_head(self, answer: RawAnswer) -> None:
        first = await self._line()
        while line := await self._line():
            name, _, value = line.partition(":")
            answer.headers.append((name, value.strip()))
        answer.status = int(first.split(" ")[1])

    async def _line(self) -> str:
        while (end := self._input.find(b"\r\n")) < 0:
            await self._receive()
        return self._take(end + 2)[:-2].decode("latin-1")

    async def _read_body(self, answer: RawAnswer, body: bytearray, *, is_head: bool) -> None:
        length = answer.header("Content-Length")
        if is_head or answer.status in {204, 304}:
            return
        if (answer.header("Transfer-Encoding") or "").lower() == "chunked":
            await self._read_chunks(body)
        else:
            await self._read_pieces(body, None if length is None else int(length))

    async def _read_pieces(self, body: bytearray, length: int | None) -> None:
        left = length
        while left is None or left > 0:
            if not self._input:
                await self._receive()
            piece = self._take(len(self._input) if left is None else left)
            body += piece
            left = None if left is None else left - len(piece)

    async def _read_chunks(self, body: bytearray) -> None:
        while size := int((await self._line()).partition(";")[0], 16):
            await self._read_pieces(body, size)
            await self._line()
        await self._line()
