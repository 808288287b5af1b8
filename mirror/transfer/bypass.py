"""Past the cache: where the disk has no room, each client gets an upstream GET of its own.

Such a client waits for nobody and nobody waits for it; it takes a slot like any download.
The whole of an object is hashed on its way, and its last bytes are held back until it is
known to be right.
"""

import hashlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Final

from mirror.domain.errors import (
    ContentMismatchError,
    OverloadedError,
    TroubleError,
    UpstreamTroubleError,
)
from mirror.domain.names import Digest, Repository
from mirror.domain.ranges import Span
from mirror.observe.metrics import Metrics
from mirror.runtime.pools import Pool
from mirror.transfer.fill import HOLD_BACK_BYTES
from mirror.transfer.patience import Retries
from mirror.transfer.slots import Slots
from mirror.transfer.sources import Sources
from mirror.upstream.streaming import BlobStream

READ_AHEAD_BYTES: Final = 1024 * 1024
"""What is received for a client before it takes it."""


@dataclass(frozen=True, slots=True)
class Direct:
    """What a client needs to go past the cache."""

    sources: Sources
    pool: Pool
    slots: Slots
    metrics: Metrics


class Bypass:
    """One client's own download of one object, resumed where it breaks."""

    readers = 1

    def __init__(self, direct: Direct, source: Repository, digest: Digest) -> None:
        self.has_slot = False
        self._direct = direct
        self._source = source
        self._digest = digest
        self._closing = AsyncExitStack()
        self._stream: BlobStream | None = None
        self._endpoint = ""

    async def open(self) -> int | None:
        """Ask upstream for the whole; returns its length if upstream tells.

        Raises:
            MirrorError: upstream's own word, or trouble.
        """
        self._stream = await self._opened((0, None))
        return self._stream.size_bytes

    async def whole(
        self, hasher: "hashlib._Hash", offset: int, size_bytes: int | None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the rest of an object of which *hasher* knows the first *offset* bytes.

        The last bytes come after the digest is checked.

        Raises:
            ContentMismatchError: it is wrong; the last bytes were not yielded.
        """
        held, length_bytes = bytearray(), offset
        async with aclosing(self.span(offset, size_bytes)) as pieces:
            async for piece in pieces:
                await self._direct.pool.run(hasher.update, piece)
                length_bytes += len(piece)
                held += piece
                if len(held) > HOLD_BACK_BYTES:
                    ready = bytes(held[:-HOLD_BACK_BYTES])
                    del held[:-HOLD_BACK_BYTES]
                    yield ready
        self.check(hasher, length_bytes, size_bytes)
        yield bytes(held)

    async def span(self, offset: int, stop: int | None) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from *offset* up to *stop*, or to the end, as they come.

        Raises:
            MirrorError: upstream does not deliver, after several tries.
        """
        patience = Retries(self._direct.metrics)
        while stop is None or offset < stop:
            before = offset
            try:
                async with aclosing(self._pieces(offset, stop)) as pieces:
                    async with patience.attempt():
                        piece = await anext(pieces, None)
                    patience.heard()
                    while piece is not None:
                        offset += len(piece)
                        yield piece
                        piece = await anext(pieces, None)
                if stop is None:
                    return
                if offset < stop:
                    raise UpstreamTroubleError(f"{self._endpoint}: the body ended early")
            except ContentMismatchError:
                raise
            except TroubleError as error:
                await patience.after(error, offset - before)

    def check(self, hasher: "hashlib._Hash", length_bytes: int, size_bytes: int | None) -> None:
        """Raise ContentMismatchError unless this is the object."""
        is_right = hasher.hexdigest() == self._digest.hex
        if not is_right or size_bytes not in {None, length_bytes}:
            error = ContentMismatchError(f"{self._endpoint}: not {self._digest}")
            self._direct.sources.suspect(self._endpoint, self._source, self._digest, error)
            raise error

    async def close(self) -> None:
        """Close the connection and give the slot back."""
        self._direct.slots.free(self)
        await self._closing.aclose()

    async def _pieces(self, offset: int, stop: int | None) -> AsyncGenerator[bytes, None]:
        stream, self._stream = self._stream, None
        if stream is None or stream.offset > offset:
            await self._closing.aclose()
            stream = await self._opened((offset, stop))
        skip_bytes = offset - stream.offset
        async for chunk in stream.chunks():
            piece = (
                chunk[skip_bytes:]
                if stop is None
                else chunk[skip_bytes : skip_bytes + stop - offset]
            )
            skip_bytes = max(0, skip_bytes - len(chunk))
            offset += len(piece)
            if piece:
                yield piece
            if offset == stop:
                return

    async def _opened(self, span: tuple[int, int | None]) -> BlobStream:
        await self._direct.slots.take(self)
        sources = self._direct.sources
        opening = sources.open(
            self._source, self._digest, span, sources.suspects(self._digest), READ_AHEAD_BYTES
        )
        stream = await self._closing.enter_async_context(opening)
        self._endpoint = stream.endpoint
        return stream


class PassthroughBody:
    """An object that there is no room for."""

    def __init__(self, direct: Direct, source: Repository, digest: Digest) -> None:
        self.size_bytes: int | None = None
        self._digest = digest
        self._bypass = Bypass(direct, source, digest)

    async def head(self, size_bytes: int | None) -> None:
        """Open the blob; *size_bytes* is used where upstream does not tell its length.

        Raises:
            MirrorError: upstream's own word, or trouble.
        """
        told = await self._bypass.open()
        self.size_bytes = told if told is not None else size_bytes
        if self.size_bytes == 0:
            self._bypass.check(self._digest.new_hash(), 0, 0)  # nothing of it can be held back

    def parts(self, span: Span | None) -> AsyncGenerator[bytes, None]:
        """Yield bytes as they come; of the whole, the last ones after the digest is checked."""
        if span is not None and span.length_bytes != self.size_bytes:
            return self._bypass.span(span.start, span.stop)
        return self._bypass.whole(self._digest.new_hash(), 0, self.size_bytes)

    async def arrivals(self) -> AsyncGenerator[int, None]:
        """Raise OverloadedError: it is not going to be stored."""
        yield 0
        raise OverloadedError(f"there is no room in the cache for {self._digest}")

    async def close(self) -> None:
        """Close the connection."""
        await self._bypass.close()
