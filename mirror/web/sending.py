"""The bytes of a body to one client: the only place that writes content.

After the head is out, every failure has one answer: the connection is closed before the
announced length is reached, by FIN, never RST (invariant 1). Where nothing but the end of the
connection ends a body, it is RST: to HTTP/1.0, a FIN there is a clean end.
"""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from aiohttp import HttpVersion11, web

from mirror.domain.errors import MirrorError
from mirror.observe.logs import get_logger
from mirror.observe.traffic import Meter
from mirror.runtime.pools import Pools
from mirror.transfer.parts import FilePart
from mirror.web.encrypting import EncryptingSender, LendableTransport
from mirror.web.exchange import Facts
from mirror.web.presence import has_left, while_there
from mirror.web.sendfile import keep_in_step, sendfile

_COPY_BYTES: Final = 256 * 1024
"""What goes through our memory at once. Measured over TLS: 1 MiB is no quicker, 64 KiB costs
twice the CPU."""
_COPY_MIN_BYTES: Final = 64 * 1024
_MANY_COPIES: Final = 64
_SLOW_SECONDS: Final = 1.0
_LARGE_BYTES: Final = 1024 * 1024
_RESET, _LINGER = (struct.pack("ii", is_on, 0) for is_on in (1, 0))
"""What closing a socket does (``struct linger``): drop all and say so, or send what there is."""
_log = get_logger("web")


class Sender:
    """Sends files by ``sendfile``, or by threads that encrypt; what neither can, by copying."""

    def __init__(self, pools: Pools, stall_seconds: float, meter: Meter | None = None) -> None:
        self._pool = pools.read
        self._encrypting = EncryptingSender(pools.send, stall_seconds)
        self._meter = meter or Meter()
        self._stall_seconds = stall_seconds
        self._copying = 0

    async def send(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        parts: AsyncGenerator[FilePart | bytes, None],
        facts: Facts,
    ) -> None:
        """Send *parts* as the body of *response*, whose head goes out first.

        Raises nothing once the head is out: an answer to that would go into the body.
        """
        is_open_ended = response.content_length is None and request.version < HttpVersion11
        async with aclosing(parts):
            if is_open_ended:
                response.force_close()  # aiohttp tells a client so that wants to go on, and waits
            await response.prepare(request)
            facts.head_is_out()
            try:
                if is_open_ended:
                    _when_closed(request, _RESET)  # whoever closes it before the end
                with self._meter.watching(facts):
                    if _is_large(response) and request.transport is not None:
                        keep_in_step(request.transport)
                    while (part := await while_there(request, anext(parts, None))) is not None:
                        await self._send_part(request, response, part, facts)
                    await response.write_eof()
            except Exception as error:  # noqa: BLE001 -- whatever it is, the body ends here
                _end_early(request, facts, error, is_open_ended=is_open_ended)
            else:
                if is_open_ended:
                    _when_closed(request, _LINGER)

    async def _send_part(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        part: FilePart | bytes,
        facts: Facts,
    ) -> None:
        done_bytes, size_bytes = 0, len(part) if isinstance(part, bytes) else part.length_bytes
        if isinstance(part, FilePart):
            done_bytes = await self._send_directly(request, response, part, facts)
        loop, slow = asyncio.get_running_loop(), False
        while done_bytes < size_bytes:
            started = loop.time()
            count = min(size_bytes - done_bytes, _COPY_MIN_BYTES if slow else _COPY_BYTES)
            async with asyncio.timeout(self._stall_seconds):
                copied_bytes = await self._copy(response, part, done_bytes, count)
            # With large pieces a slow client would look like one that takes nothing.
            slow = loop.time() - started > _SLOW_SECONDS
            done_bytes += copied_bytes
            facts.sent_bytes += copied_bytes

    async def _send_directly(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        part: FilePart,
        facts: Facts,
    ) -> int:
        """Send what the kernel or threads can send of a part; returns how many bytes it were."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError
        # Not by response.chunked: aiohttp chunks what has no length without saying so there.
        if response.content_length is None:
            return 0

        def took(count: int) -> None:
            facts.sent_bytes += count

        place = part.file, part.start, part.length_bytes
        if isinstance(transport, LendableTransport):
            return await self._encrypting.send(transport, *place, took)
        if transport.get_extra_info("sslcontext") is not None:
            return 0
        return await sendfile(transport, *place, stall_seconds=self._stall_seconds, took=took)

    async def _copy(
        self, response: web.StreamResponse, part: FilePart | bytes, offset: int, count: int
    ) -> int:
        """Send up to *count* bytes from *offset* of a part; returns how many it were."""
        if isinstance(part, bytes):
            await response.write(memoryview(part)[offset : offset + count])
            return count
        # A thousand slow clients must not hold a thousand large copies.
        many = self._copying >= _MANY_COPIES
        size_bytes = min(count, _COPY_MIN_BYTES if many else _COPY_BYTES)
        self._copying += 1
        try:
            data = await self._pool.run(
                os.pread, part.file.fileno(), size_bytes, part.start + offset
            )
            await response.write(data)
        finally:
            self._copying -= 1
        if not data:
            raise OSError(None, "the file is shorter than it was")
        return len(data)


def _is_large(response: web.StreamResponse) -> bool:
    return response.content_length is not None and response.content_length >= _LARGE_BYTES


def _when_closed(request: web.BaseRequest, what: bytes) -> None:
    connection = request.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, what)


def _end_early(
    request: web.BaseRequest, facts: Facts, error: Exception, *, is_open_ended: bool
) -> None:
    """Close the connection of a body that cannot go on, and note why."""
    transport = request.transport
    if isinstance(error, ConnectionError) or (
        isinstance(error, RuntimeError) and has_left(request)
    ):
        facts.left = True  # asyncio says so in one of these, depending on the moment
    else:
        facts.cut = True
        facts.error = _reason(error, facts)
    if transport is None:
        return
    if isinstance(error, TimeoutError) or is_open_ended:
        transport.abort()  # a mere close would wait for the client to take what is buffered
    else:
        transport.close()


def _reason(error: Exception, facts: Facts) -> str:
    match error:
        case MirrorError():
            return str(error)
        case TimeoutError():
            return "the client took nothing for too long"
        case OSError():
            return f"the cache disk: {error.strerror}"
        case _:
            _log.error("a body failed unexpectedly", request_id=facts.request_id, exc_info=error)
            return "internal error"
