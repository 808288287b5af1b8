"""The bytes of a body to one client: the only place that writes content.

After the head is out, every failure has one answer: the connection is closed before the
announced length is reached, by FIN, never RST (invariant 1).
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import BinaryIO, Final

from aiohttp import web

from mirror.domain.errors import MirrorError
from mirror.observe.logs import get_logger
from mirror.observe.traffic import Meter
from mirror.runtime.pools import Pools
from mirror.transfer.parts import FilePart
from mirror.web.encrypting import EncryptingSender, LendableTransport
from mirror.web.exchange import Facts

_SLICE_MIN_BYTES: Final = 64 * 1024
_SLICE_START_BYTES: Final = 512 * 1024
_SLICE_MAX_BYTES: Final = 4 * 1024 * 1024
_COPY_BYTES: Final = 256 * 1024
"""What goes through our memory at once. Measured over TLS: 1 MiB is no quicker, 64 KiB costs
twice the CPU."""
_COPY_MIN_BYTES: Final = 64 * 1024
_MANY_COPIES: Final = 64
_QUICK_SECONDS: Final = 0.25
_SLOW_SECONDS: Final = 1.0
_log = get_logger("web")


@dataclass(slots=True)
class Pace:
    """How much is handed to the kernel at once.

    A slice must be taken within ``limits.send_stall``: with large ones a slow client would
    look like one that takes nothing, with small ones a quick client costs CPU.
    """

    slice_bytes: int = _SLICE_START_BYTES

    def took(self, seconds: float) -> None:
        """Learn how long the client took for a slice."""
        if seconds < _QUICK_SECONDS:
            self.slice_bytes = min(2 * self.slice_bytes, _SLICE_MAX_BYTES)
        elif seconds > _SLOW_SECONDS:
            self.slice_bytes = max(self.slice_bytes // 4, _SLICE_MIN_BYTES)


class Sender:
    """Sends files by ``sendfile`` in bounded slices, or by threads that encrypt."""

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
        async with aclosing(parts):
            await response.prepare(request)
            facts.head_is_out()
            pace = Pace()
            try:
                with self._meter.watching(facts):
                    async for part in parts:
                        await self._send_part(request, response, part, pace, facts)
                    await response.write_eof()
            except Exception as error:  # noqa: BLE001 -- whatever it is, the body ends here
                _end_early(request, facts, error)

    async def _send_part(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        part: FilePart | bytes,
        pace: Pace,
        facts: Facts,
    ) -> None:
        loop = asyncio.get_running_loop()
        size_bytes = len(part) if isinstance(part, bytes) else part.length_bytes
        done_bytes = await self._send_encrypted(request, response, part, facts)
        while done_bytes < size_bytes:
            started = loop.time()
            count = min(size_bytes - done_bytes, pace.slice_bytes)
            async with asyncio.timeout(self._stall_seconds):
                sent_bytes = await self._send_slice(request, response, part, done_bytes, count)
            pace.took(loop.time() - started)
            done_bytes += sent_bytes
            facts.sent_bytes += sent_bytes

    async def _send_encrypted(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        part: FilePart | bytes,
        facts: Facts,
    ) -> int:
        """Send what threads can send of a part over TLS; returns how many bytes it were."""
        transport = request.transport
        if isinstance(part, bytes) or not isinstance(transport, LendableTransport):
            return 0
        if response.content_length is None:
            return 0

        def took(count: int) -> None:
            facts.sent_bytes += count

        return await self._encrypting.send(
            transport, part.file, part.start, part.length_bytes, took
        )

    async def _send_slice(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        part: FilePart | bytes,
        offset: int,
        count: int,
    ) -> int:
        """Send up to *count* bytes from *offset* of a part; returns how many it were."""
        if isinstance(part, bytes):
            await response.write(memoryview(part)[offset : offset + min(count, _COPY_BYTES)])
            return min(count, _COPY_BYTES)
        transport = request.transport
        if transport is None:
            raise ConnectionResetError
        offset += part.start
        sent_bytes = None
        # Not by response.chunked: aiohttp chunks what has no length without saying so there.
        is_bare = response.content_length is not None
        if is_bare and transport.get_extra_info("sslcontext") is None:
            sent_bytes = await _sendfile(transport, part.file, offset, count)
        if sent_bytes is None:
            sent_bytes = await self._write(response, part.file, offset, count)
        if not sent_bytes:
            raise OSError(None, "the file is shorter than it was")
        return sent_bytes

    async def _write(
        self, response: web.StreamResponse, file: BinaryIO, offset: int, count: int
    ) -> int:
        # A thousand slow clients must not hold a thousand large copies.
        many = self._copying >= _MANY_COPIES
        size_bytes = min(count, _COPY_MIN_BYTES if many else _COPY_BYTES)
        self._copying += 1
        try:
            data = await self._pool.run(os.pread, file.fileno(), size_bytes, offset)
            await response.write(data)
        finally:
            self._copying -= 1
        return len(data)


async def _sendfile(
    transport: asyncio.Transport, file: BinaryIO, offset: int, count: int
) -> int | None:
    """Return how many bytes were sent; ``None``: none, for a reason that reading will tell.

    asyncio says the same of a lost client, a broken disk and a kernel without sendfile.
    """
    loop = asyncio.get_running_loop()
    try:
        return await loop.sendfile(transport, file, offset, count, fallback=False)
    except asyncio.SendfileNotAvailableError:
        return None


def _end_early(request: web.BaseRequest, facts: Facts, error: Exception) -> None:
    """Close the connection of a body that cannot go on, and note why."""
    transport = request.transport
    gone = transport is None or transport.is_closing()
    if isinstance(error, ConnectionError) or (isinstance(error, RuntimeError) and gone):
        facts.left = True  # asyncio says so in one of these, depending on the moment
    else:
        facts.cut = True
        facts.error = _reason(error, facts)
    if transport is None:
        return
    if isinstance(error, TimeoutError):
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
