"""What a client gets of a blob, in the order it gets it: parts of files, or bytes.

A body is entered before its head is sent and closed in every case. It guarantees its length:
it yields exactly the bytes of the span it was asked for, or raises.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import BinaryIO, Final

from mirror.domain.errors import MirrorError, UpstreamTroubleError
from mirror.domain.names import Repository
from mirror.domain.ranges import Span
from mirror.observe.logs import get_logger
from mirror.store.space import NoSpaceError
from mirror.store.store import StoredObject
from mirror.transfer.bypass import READ_AHEAD_BYTES, Bypass, Direct
from mirror.transfer.fill import Fill
from mirror.transfer.parts import FilePart

FORWARDED_RANGES_MAX: Final = 2
"""For one fill; each costs upstream at most what its client reads and the read-ahead."""
_MEASURE_MAX_SECONDS: Final = 1.0
_log = get_logger("transfer")


class StoredBody:
    """An object of the store."""

    def __init__(self, stored: StoredObject) -> None:
        self._stored = stored
        self.size_bytes: int | None = stored.size_bytes

    def whole_file(self) -> BinaryIO:
        """Return the file that is the object and nothing else."""
        return self._stored.file

    async def parts(self, span: Span | None) -> AsyncGenerator[FilePart | bytes, None]:
        """Yield one part of the file."""
        chosen = span or Span(0, self._stored.size_bytes)
        yield FilePart(self._stored.file, chosen.start, chosen.length_bytes)

    async def arrivals(self) -> AsyncGenerator[int, None]:
        """Yield the size: all of it is here."""
        yield self._stored.size_bytes

    async def close(self) -> None:
        """Close the file."""
        self._stored.close()


class FillBody:
    """An object on its way in; enter it without awaiting after the fill was boarded."""

    def __init__(
        self, fill: Fill, source: Repository, direct: Direct, range_wait_seconds: float
    ) -> None:
        self.size_bytes: int | None = None
        self._fill = fill.__enter__()
        self._source = source
        self._direct = direct
        self._metrics = direct.metrics
        self._range_wait_seconds = range_wait_seconds
        self._measure_seconds = min(range_wait_seconds, _MEASURE_MAX_SECONDS)
        self._metrics.fill_readers.inc()

    async def head(self) -> None:
        """Wait for upstream's answer; raises MirrorError."""
        self.size_bytes = await self._fill.head(self._source)

    async def parts(self, span: Span | None) -> AsyncGenerator[FilePart | bytes, None]:
        """Yield parts of the file as it grows; after the disk has failed, upstream's bytes."""
        offset = span.start if span else 0
        stop = span.stop if span else self.size_bytes
        try:
            async with aclosing(self._followed(offset, stop)) as parts:
                async for part in parts:
                    yield part
                    offset += len(part) if isinstance(part, bytes) else part.length_bytes
        except NoSpaceError as error:
            _log.warning("a reader goes on without the disk", offset=offset, reason=str(error))
            async with aclosing(self._rest(span, offset, stop)) as pieces:
                async for piece in pieces:
                    yield piece

    async def arrivals(self) -> AsyncGenerator[int, None]:
        """Yield how far the fill is, until it is committed."""
        yield self._fill.resumed_bytes
        offset = 0
        while not self._fill.is_verified:
            offset = await self._fill.beyond(offset, None)
            yield offset
        yield self._fill.visible_bytes
        await self._fill.ended()

    async def _rest(
        self, span: Span | None, offset: int, stop: int | None
    ) -> AsyncGenerator[bytes, None]:
        """Yield what the client lacks straight from upstream, the whole of an object checked."""
        bypass = Bypass(self._direct, self._source, self._fill.digest)
        try:
            if span is not None and span.length_bytes != self.size_bytes:
                pieces = bypass.span(offset, stop)
            else:
                hasher = await self._direct.pool.run(self._fill.hash_of_first, offset)
                pieces = bypass.whole(hasher, offset, stop)
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece
        finally:
            await bypass.close()

    async def _followed(
        self, offset: int, stop: int | None
    ) -> AsyncGenerator[FilePart | bytes, None]:
        since: int | None = None
        while stop is None or offset < stop:
            if stop is not None and self._is_far(offset):
                since = self._fill.beginnings if since is None else since
                async with aclosing(self._forwarded(offset, stop)) as pieces:
                    async for piece in pieces:
                        yield piece
                        offset += len(piece)
                continue
            limit_seconds = self._measure_seconds if self._may_forward(offset) else None
            visible_bytes = await self._fill.beyond(offset, limit_seconds, since)
            end = visible_bytes if stop is None else min(visible_bytes, stop)
            if end > offset:
                since = self._fill.beginnings if since is None else since
                yield FilePart(self._fill.file, offset, end - offset)
                offset = end
            elif self._fill.is_verified:
                break  # the end of a body whose length nobody knew

    def _may_forward(self, offset: int) -> bool:
        if self._fill.beginnings:
            return False  # who is ahead may be so with bytes of what was wrong, and lack its end
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
        come_bytes = self._fill.received_bytes - self._fill.resumed_bytes
        wait_seconds = distance_bytes * elapsed_seconds / max(1, come_bytes)
        return wait_seconds > self._range_wait_seconds

    async def _forwarded(self, offset: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield bytes straight from upstream until the fill has caught up, or as far as it goes.

        Where upstream does not deliver, nothing is lost: the fill will come by.
        """
        self._fill.forwarded_ranges += 1
        self._metrics.forwarded_ranges.labels(self._source.upstream).inc()
        sources, digest = self._direct.sources, self._fill.digest
        opening = sources.open(
            self._source, digest, (offset, stop), sources.suspects(digest), READ_AHEAD_BYTES
        )
        try:
            async with opening as stream:
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
