"""The bytes of a body to one client: the only place that writes content.

After the head is out, every failure has one answer: the connection is closed before the
announced length is reached, by FIN, never RST (PROTOCOL C8, DESIGN invariant 1).
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import BinaryIO, Final

from aiohttp import web

from mirror.domain.errors import MirrorError
from mirror.observe.logs import get_logger
from mirror.runtime.pools import Pool
from mirror.transfer.bodies import FilePart
from mirror.web.exchange import Facts

_SLICE_BYTES: Final = 4 * 1024 * 1024
_READ_BYTES: Final = 1024 * 1024
_log = get_logger("web")


class Sender:
    """Sends files by ``sendfile`` in bounded slices, or by thread reads over TLS."""

    def __init__(self, pool: Pool, stall_seconds: float) -> None:
        self._pool = pool
        self._stall_seconds = stall_seconds

    async def send(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        parts: AsyncGenerator[FilePart | bytes, None],
        facts: Facts,
    ) -> None:
        """Send *parts* as the body of *response*, whose head goes out first."""
        try:
            await response.prepare(request)
            facts.head_is_out()
            async with aclosing(parts):
                async for part in parts:
                    await self._send_part(request, response, part, facts)
            await response.write_eof()
        except MirrorError as error:
            facts.error = str(error)
            self._cut(request, facts)
        except TimeoutError:
            facts.error = "the client took nothing for too long"
            self._cut(request, facts)
        except (ConnectionError, RuntimeError):
            # The client left: asyncio says so in one of these, depending on the moment.
            if request.transport is not None and not request.transport.is_closing():
                self._cut(request, facts)
                raise
            facts.cut = True
        except OSError as error:
            facts.error = f"the cache disk: {error.strerror}"
            self._cut(request, facts)

    @staticmethod
    def _cut(request: web.BaseRequest, facts: Facts) -> None:
        facts.cut = True
        if request.transport is not None:
            request.transport.close()

    async def _send_part(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        part: FilePart | bytes,
        facts: Facts,
    ) -> None:
        if isinstance(part, bytes):
            async with asyncio.timeout(self._stall_seconds):
                await response.write(part)
            facts.sent_bytes += len(part)
            return
        transport = request.transport
        if transport is None:
            raise ConnectionResetError
        direct = transport.get_extra_info("sslcontext") is None and not response.chunked
        offset, end = part.start, part.start + part.length_bytes
        while offset < end:
            async with asyncio.timeout(self._stall_seconds):
                if direct:
                    sent = await _sendfile(transport, part.file, offset, end - offset)
                else:
                    sent = await self._write(response, part.file, offset, end - offset)
            offset += sent
            facts.sent_bytes += sent

    async def _write(
        self, response: web.StreamResponse, file: BinaryIO, offset: int, count: int
    ) -> int:
        size_bytes = min(count, _READ_BYTES)
        data = await self._pool.run(os.pread, file.fileno(), size_bytes, offset)
        if not data:
            raise OSError(None, "the file is shorter than it was")
        await response.write(data)
        return len(data)


async def _sendfile(transport: asyncio.Transport, file: BinaryIO, offset: int, count: int) -> int:
    loop = asyncio.get_running_loop()
    size_bytes = min(count, _SLICE_BYTES)
    sent = await loop.sendfile(transport, file, offset, size_bytes, fallback=False)
    if not sent:
        raise OSError(None, "the file is shorter than it was")
    return sent
