"""A small answer, head and body in one write.

aiohttp puts the head of an answer into a multidict, completes it, serialises it and hands it over
together with the body: a third of what a cached manifest costs. Here it is one string. Used for
what most answers are, HTTP/1.1 on a connection that stays open; all others are aiohttp's.
"""

import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


class Ready(web.StreamResponse):
    """An answer that is known as a whole."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Prepare an answer; *headers* has all but the date, and a length if there is one.

        Raises:
            ValueError: a header holds what would end its line.
        """
        super().__init__(status=status)
        head = f"{lines(status, headers)}Date: {date()}\r\n\r\n"
        self._bytes = head.encode("latin-1", "replace") + body
        self._keep_alive = True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Take the connection; nothing is sent yet."""
        self._payload_writer = request._payload_writer  # noqa: SLF001 -- what aiohttp's own does
        return self._payload_writer

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 -- aiohttp's signature
        """Send all of it, and wait if the client takes nothing."""
        writer, self._payload_writer = self._payload_writer, None
        if writer is None or self._eof_sent:
            return
        self._eof_sent = True
        transport = writer.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        transport.write(self._bytes)
        await writer.drain()


def lines(status: int, headers: Mapping[str, str]) -> str:
    """Return the head of an answer but for its end.

    Raises:
        ValueError: a header holds what would end its line.
    """
    if not "".join(headers.values()).isprintable():
        raise ValueError("a header with control characters")
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return f"HTTP/1.1 {status} {_REASONS[status]}\r\n{fields}"


def fits(request: web.BaseRequest) -> bool:
    """Return whether an answer to this request may be a ``Ready`` one."""
    return request.version == HttpVersion11 and request.keep_alive


class _Date:
    """The date as a header has it, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def __call__(self) -> str:
        now = int(time.time())
        if now != self._second:
            self._second, self._text = now, formatdate(now, usegmt=True)
        return self._text


date: Final = _Date()
