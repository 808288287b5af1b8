"""The body of a large blob, received into a few buffers that are used again.

aiohttp hands out a new ``bytes`` for each read, cut and copied by its parser: for layers of
hundreds of MB that costs more than everything else. So when the head of the answer is read, the
connection is taken over: from there on the body is nothing but ``Content-Length`` bytes.
"""

import asyncio
import mmap
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final

import aiohttp

from mirror.domain.errors import UpstreamTimeoutError, UpstreamTroubleError
from mirror.domain.redirects import redact

SLAB_BYTES: Final = 4 * 1024 * 1024
SLABS_MAX: Final = 1
"""More than this is not received ahead of the disk, unless there is memory to spare."""
_SLABS_LIMIT: Final = 4
"""Measured: with 8 MiB, a core waits now and then. The larger the slabs, the more is received at
once, and the fewer steps there are for the event loop."""
_SPARE_SLABS: Final = 8
WORTH_BYTES: Final = 4 * 1024 * 1024
"""Less than this is left to aiohttp, which can use the connection again afterwards."""

_TRICKLE_BYTES: Final = 256 * 1024
_REST_SECONDS: Final = 0.004
_REST_MIN_SECONDS: Final = 0.001
"""When less than that came at once, we are quicker than the line: by not looking for as long as it
takes for twice as much, several packets are had for one wake-up. Measured where 10 Gbit/s come: to
rest for 4 ms each time makes a download a fifth slower. Over TLS asyncio never hands on much more
than 256 KiB: were that a trickle, each of them would be followed by a rest (60 MB/s)."""

Piece = bytes | memoryview


@dataclass(slots=True)
class Batch:
    """What has come since the last one; ``release`` gives the memory of the pieces back."""

    pieces: list[Piece]
    size_bytes: int
    release: Callable[[], None] = lambda: None

    @classmethod
    def of(cls, content: bytes) -> "Batch":
        """Return a batch of memory that is used once."""
        return cls([content], len(content))

    def split(self, at_bytes: int) -> "tuple[Batch, Batch]":
        """Return the first *at_bytes* bytes, and the rest, which keeps the memory."""
        first: list[Piece] = []
        rest: list[Piece] = []
        for piece in self.pieces:
            if at_bytes > 0:
                first.append(piece[:at_bytes])
            if at_bytes < len(piece):
                rest.append(piece[max(0, at_bytes) :])
            at_bytes -= len(piece)
        return Batch(first, sum(map(len, first))), Batch(rest, sum(map(len, rest)), self.release)


class _Slab:
    """A buffer that is filled once, read in pieces, and then filled again."""

    __slots__ = ("filled_bytes", "lent", "taken_bytes", "view")

    def __init__(self, size_bytes: int) -> None:
        # Not a bytearray, which writes zeros: what nothing is received into takes no memory.
        room = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.view = memoryview(room)
        self.filled_bytes = self.taken_bytes = self.lent = 0

    @property
    def is_full(self) -> bool:
        return self.filled_bytes == len(self.view)

    def take(self) -> memoryview:
        """Lend what has come since the last time."""
        piece = self.view[self.taken_bytes : self.filled_bytes]
        self.taken_bytes = self.filled_bytes
        self.lent += 1
        return piece

    def is_idle(self) -> bool:
        """Tell whether nobody needs anything of it any more."""
        return not self.lent and self.taken_bytes == self.filled_bytes


class Spare:
    """Slabs that the downloads of a process may have together, beside those of each."""

    def __init__(self, count: int) -> None:
        self.count = count


_spare: Final = Spare(_SPARE_SLABS)


class Receiver(asyncio.BufferedProtocol):
    """Receives ``missing_bytes`` more bytes of a body.

    The transport writes into the slabs and the reader takes what has come, so a byte waits for
    nothing; while the reader is busy, more comes, and it takes all of that at once.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        former: asyncio.BaseProtocol,
        missing_bytes: int,
        *,
        slab_bytes: int = SLAB_BYTES,
        spare: Spare = _spare,
        rest_seconds: float = _REST_SECONDS,
    ) -> None:
        self._slab_bytes = slab_bytes
        self._spare = spare
        self._borrowed = 0
        self._rest_seconds = rest_seconds
        self._resting: asyncio.TimerHandle | None = None
        self._transport = transport
        self._former = former
        self._missing_bytes = missing_bytes
        self._received_bytes = 0
        self._began_at: float | None = None
        self._filling: _Slab | None = None
        self._waiting: deque[_Slab] = deque()
        self._free: list[_Slab] = []
        self._slabs = 0
        self._is_paused = False
        self._is_over = False
        self._error: BaseException | None = None
        self._news: asyncio.Future[None] | None = None

    # --- what the transport calls ------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 -- asyncio's signature
        """Return where the next bytes go."""
        slab = self._filling
        if slab is None:
            slab = self._filling = self._free.pop() if self._free else self._new_slab()
            self._waiting.append(slab)
        return slab.view[slab.filled_bytes : slab.filled_bytes + max(1, self._missing_bytes)]

    def buffer_updated(self, nbytes: int) -> None:
        """Note that so many bytes have come."""
        slab = self._filling
        if slab is None or self._is_over:
            return
        slab.filled_bytes += nbytes
        self._missing_bytes -= nbytes
        self._received_bytes += nbytes
        if slab.is_full:
            self._filling = None
        if self._missing_bytes == 0:
            self._is_over = True
        if self._is_over or (self._filling is None and self._is_exhausted()):
            self._is_paused = True
            self._transport.pause_reading()
        elif nbytes < _TRICKLE_BYTES and self._rest_seconds:
            self._rest()
        self._tell()

    def eof_received(self) -> bool | None:
        """Note that no more will come."""
        self._is_over = True
        self._tell()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is gone."""
        self._is_over, self._error = True, exc
        self._spare.count += self._borrowed
        self._borrowed = 0
        self._tell()
        self._former.connection_lost(exc)

    def pause_writing(self) -> None:
        """Nothing is written."""

    def resume_writing(self) -> None:
        """Nothing is written."""

    # --- what the reader calls ---------------------------------------------------------------

    async def batches(self, idle_seconds: float, place: str) -> AsyncGenerator[Batch, None]:
        """Yield what comes, until all of it has come.

        Args:
            idle_seconds: How long nothing may come.
            place: The name of the other end, for errors.

        Raises:
            UpstreamTroubleError: it broke off, after all that had come.
        """
        while True:
            batch = self._take()
            if batch is not None:
                yield batch
            elif self._missing_bytes == 0:
                return
            elif self._is_over:
                raise _broken(self._error, place)
            else:
                await self._more(idle_seconds, place)

    def close(self) -> None:
        """End the connection, which is of no other use any more.

        At once: over TLS, asyncio does not close one for good whose other end has said good-bye
        while we did not read, nor return what it has of ours.
        """
        self._transport.abort()

    def _take(self) -> Batch | None:
        slabs = [slab for slab in self._waiting if slab.taken_bytes < slab.filled_bytes]
        if not slabs:
            return None
        while self._waiting and self._waiting[0].is_full:
            self._waiting.popleft()
        pieces: list[Piece] = [slab.take() for slab in slabs]

        def release() -> None:
            for slab in slabs:
                slab.lent -= 1
                self._used(slab)

        return Batch(pieces, sum(map(len, pieces)), release)

    def _used(self, slab: _Slab) -> None:
        """Use a slab again, of which nobody needs anything any more."""
        if not slab.is_idle():
            return
        if slab is self._filling:
            slab.filled_bytes = slab.taken_bytes = 0
            return
        slab.filled_bytes = slab.taken_bytes = 0
        self._free.append(slab)
        if self._is_paused and not self._is_over:
            self._is_paused = False
            self._transport.resume_reading()
            self._tell()  # from now on the other end is waited for, and no longer our disk

    def _rest(self) -> None:
        """Leave the line alone until more is worth a look, at the pace it has had so far."""
        loop = asyncio.get_running_loop()
        if self._began_at is None:
            self._began_at = loop.time()
        per_byte_seconds = (loop.time() - self._began_at) / self._received_bytes
        needed_seconds = max(2 * _TRICKLE_BYTES * per_byte_seconds, _REST_MIN_SECONDS)
        self._transport.pause_reading()
        self._resting = loop.call_later(min(needed_seconds, self._rest_seconds), self._look_again)

    def _look_again(self) -> None:
        self._resting = None
        if not self._is_paused and not self._is_over:
            self._transport.resume_reading()

    async def _more(self, idle_seconds: float, place: str) -> None:
        self._news = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(None if self._is_paused else idle_seconds):
                await self._news
        except TimeoutError:
            raise UpstreamTimeoutError(place) from None
        finally:
            self._news = None

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _new_slab(self) -> _Slab:
        if self._slabs >= SLABS_MAX:
            self._spare.count -= 1
            self._borrowed += 1
        self._slabs += 1
        return _Slab(self._slab_bytes)

    def _is_exhausted(self) -> bool:
        if self._free or self._slabs < SLABS_MAX:
            return False
        return self._slabs >= _SLABS_LIMIT or self._spare.count <= 0


def take_over(response: aiohttp.ClientResponse) -> tuple[list[bytes], Receiver] | None:
    """Take a response's connection over; returns what had come of the body, and the rest.

    ``None``: it is not worth it, or not possible. Nothing is awaited here, so no byte can come
    in between. Afterwards the connection can only be closed.
    """
    connection, content = response.connection, response.content
    if connection is None or response.content_length is None or content.is_eof():
        return None
    transport, former = connection.transport, connection.protocol
    missing_bytes = response.content_length - content.total_bytes
    if missing_bytes < WORTH_BYTES or not isinstance(transport, asyncio.Transport):
        return None
    if former is None or former._reading_paused or transport.is_closing():  # noqa: SLF001 -- aiohttp's parser may then hold bytes that it shows nobody
        return None
    if "chunked" in response.headers.get("Transfer-Encoding", "").lower():
        return None
    first = list(content._buffer)  # noqa: SLF001 -- reading it the public way needs awaits
    content._buffer.clear()  # noqa: SLF001 -- as above
    former.read_timeout = None
    former.start_timeout()  # which ends it: the protocol will not hear of bytes any more
    receiver = Receiver(transport, former, missing_bytes)
    transport.set_protocol(receiver)
    return first, receiver


def _broken(error: BaseException | None, place: str) -> UpstreamTroubleError:
    words = error.strerror if isinstance(error, OSError) else None
    return UpstreamTroubleError(f"{redact(place)}: {words or 'the body ended early'}")
