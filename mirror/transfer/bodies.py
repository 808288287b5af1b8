"""What a client gets of a blob, in the order it gets it: parts of files, or bytes.

A body is entered before its head is sent and closed in every case. It guarantees its length:
it yields exactly the bytes of the span it was asked for, or raises.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol

from mirror.domain.errors import ContentMismatchError, MirrorError, UpstreamTroubleError
from mirror.domain.names import Digest, Repository
from mirror.domain.ranges import Span
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics
from mirror.runtime.pools import Pool
from mirror.store.store import StoredObject
from mirror.transfer.fill import HOLD_BACK_BYTES, Fill
from mirror.transfer.slots import Slots
from mirror.upstream.registry import Registry

FORWARDED_RANGES_MAX: Final = 2
"""For one fill; each costs upstream at most what its client reads and the read-ahead."""

_READ_AHEAD_BYTES: Final = 1024 * 1024
_MEASURE_MAX_SECONDS: Final = 1.0
_log = get_logger("transfer")


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes of an open file, to be sent without passing through Python where possible."""

    file: BinaryIO
    start: int
    length_bytes: int


class Body(Protocol):
    """The content of a blob for one client; ``size_bytes`` is of the whole, if known."""

    size_bytes: int | None

    def parts(self, span: Span | None) -> AsyncGenerator[FilePart | bytes, None]:
        """Yield the bytes of *span*, or all.

        Raises:
            MirrorError: they cannot all be delivered; what was yielded is right.
        """
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...


class StoredBody:
    """An object of the store."""

    def __init__(self, stored: StoredObject) -> None:
        self._stored = stored
        self.size_bytes: int | None = stored.size_bytes

    async def parts(self, span: Span | None) -> AsyncGenerator[FilePart | bytes, None]:
        """Yield one part of the file."""
        chosen = span or Span(0, self._stored.size_bytes)
        yield FilePart(self._stored.file, chosen.start, chosen.length_bytes)

    async def close(self) -> None:
        """Close the file."""
        self._stored.close()


class FillBody:
    """An object on its way in; enter it without awaiting after the fill was boarded."""

    def __init__(
        self,
        fill: Fill,
        source: Repository,
        registry: Registry,
        metrics: Metrics,
        range_wait_seconds: float,
    ) -> None:
        self.size_bytes: int | None = None
        self._fill = fill.__enter__()
        self._source = source
        self._registry = registry
        self._metrics = metrics
        self._range_wait_seconds = range_wait_seconds
        self._measure_seconds = min(range_wait_seconds, _MEASURE_MAX_SECONDS)
        metrics.fill_readers.inc()

    async def head(self) -> None:
        """Wait for upstream's answer; raises MirrorError."""
        self.size_bytes = await self._fill.head(self._source)

    async def parts(self, span: Span | None) -> AsyncGenerator[FilePart | bytes, None]:
        """Yield parts of the file as it grows."""
        offset = span.start if span else 0
        stop = span.stop if span else self.size_bytes
        while stop is None or offset < stop:
            if stop is not None and self._is_far(offset):
                async with aclosing(self._forwarded(offset, stop)) as pieces:
                    async for piece in pieces:
                        yield piece
                        offset += len(piece)
                continue
            limit_seconds = self._measure_seconds if self._may_forward(offset) else None
            visible_bytes = await self._fill.beyond(offset, limit_seconds)
            end = visible_bytes if stop is None else min(visible_bytes, stop)
            if end > offset:
                yield FilePart(self._fill.file, offset, end - offset)
                offset = end
            elif self._fill.is_verified:
                break  # the end of a body whose length nobody knew

    def _may_forward(self, offset: int) -> bool:
        ahead = offset > self._fill.visible_bytes
        return ahead and self._fill.forwarded_ranges < FORWARDED_RANGES_MAX

    def _is_far(self, offset: int) -> bool:
        """Tell whether the fill will take too long to get to *offset* (invariant 6)."""
        if not self._may_forward(offset) or self._fill.first_byte_at is None:
            return False
        elapsed_seconds = asyncio.get_running_loop().time() - self._fill.first_byte_at
        if elapsed_seconds < self._measure_seconds:
            return False
        distance_bytes = offset - self._fill.received_bytes
        wait_seconds = distance_bytes * elapsed_seconds / max(1, self._fill.received_bytes)
        return wait_seconds > self._range_wait_seconds

    async def _forwarded(self, offset: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield bytes straight from upstream until the fill has caught up, or as far as it goes.

        Where upstream does not deliver, nothing is lost: the fill will come by.
        """
        self._fill.forwarded_ranges += 1
        self._metrics.forwarded_ranges.labels(self._source.upstream).inc()
        opening = self._registry.open_blob(
            self._source, self._fill.digest, (offset, stop), _READ_AHEAD_BYTES
        )
        try:
            async with AsyncExitStack() as closing:
                async with self._registry.deadline():
                    stream = await closing.enter_async_context(opening)
                if stream.offset != offset:
                    raise UpstreamTroubleError(f"{stream.endpoint}: it does not do ranges")
                async for chunk in stream.chunks():
                    piece = chunk[: stop - offset]
                    offset += len(piece)
                    yield piece
                    if offset >= stop or self._fill.visible_bytes > offset:
                        return
        except MirrorError as error:
            _log.info(
                "a forwarded range broke off", digest=str(self._fill.digest), reason=str(error)
            )

    async def close(self) -> None:
        """Stop reading; the fill goes on."""
        self._metrics.fill_readers.dec()
        self._fill.__exit__(None, None, None)


class PassthroughBody:
    """An object that there is no room for: one upstream GET for one client, hashed inline."""

    def __init__(
        self,
        registry: Registry,
        source: Repository,
        digest: Digest,
        *,
        pool: Pool,
        slots: Slots,
        metrics: Metrics,
    ) -> None:
        self.size_bytes: int | None = None
        self.readers = 1
        self.has_slot = False
        self._registry = registry
        self._source = source
        self._digest = digest
        self._pool = pool
        self._slots = slots
        self._metrics = metrics
        self._closing = AsyncExitStack()

    async def head(self, size_bytes: int | None) -> None:
        """Open the blob; *size_bytes* is used where upstream does not tell its length.

        Raises:
            MirrorError: upstream's own word, or trouble.
        """
        await self._slots.take(self)
        opening = self._registry.open_blob(self._source, self._digest)
        self._stream = await self._closing.enter_async_context(opening)
        told = self._stream.size_bytes
        self.size_bytes = told if told is not None else size_bytes
        if self.size_bytes == 0:
            self._verify(self._digest.new_hash(), 0)  # nothing can be held back of it

    async def parts(self, span: Span | None) -> AsyncGenerator[FilePart | bytes, None]:
        """Yield bytes as they come; of the whole, the last ones after the digest is checked."""
        if span is not None and span.length_bytes != self.size_bytes:
            async for piece in self._range(span):
                yield piece
            return
        hasher, held, whole_bytes = self._digest.new_hash(), bytearray(), 0
        async for chunk in self._stream.chunks():
            whole_bytes += len(chunk)
            if self.size_bytes is not None and whole_bytes > self.size_bytes:
                break
            await self._pool.run(hasher.update, chunk)
            held += chunk
            if len(held) > HOLD_BACK_BYTES:
                piece = bytes(held[:-HOLD_BACK_BYTES])
                del held[:-HOLD_BACK_BYTES]
                yield piece
        self._verify(hasher, whole_bytes)
        yield bytes(held)

    def _verify(self, hasher: "hashlib._Hash", whole_bytes: int) -> None:
        is_right = hasher.hexdigest() == self._digest.hex
        if not is_right or self.size_bytes not in {None, whole_bytes}:
            self._metrics.digest_mismatches.labels(self._source.upstream).inc()
            raise ContentMismatchError(f"{self._stream.endpoint}: not {self._digest}")

    async def _range(self, span: Span) -> AsyncIterator[bytes]:
        await self._closing.aclose()  # it has told the length: that is all it was good for
        opening = self._registry.open_blob(
            self._source, self._digest, (span.start, span.stop), _READ_AHEAD_BYTES
        )
        stream = await self._closing.enter_async_context(opening)
        if stream.size_bytes not in {None, self.size_bytes}:
            raise ContentMismatchError(f"{stream.endpoint}: {self._digest} has another length now")
        skip, missing = span.start - stream.offset, span.length_bytes
        async for chunk in stream.chunks():
            piece = chunk[skip : skip + missing]
            skip = max(0, skip - len(chunk))
            missing -= len(piece)
            if piece:
                yield piece
            if not missing:
                return
        raise UpstreamTroubleError(f"{stream.endpoint}: the range ended early")

    async def close(self) -> None:
        """Close the connection."""
        self._slots.free(self)
        await self._closing.aclose()
