"""One blob over several connections, for upstreams that are slow on each (``parallel_ranges``).

The bytes come out in their order, so nothing behind this room knows of it: the download hashes
and writes as ever. What is ahead waits in memory, a few segments of it. Where an upstream does
not do ranges, or refuses one, the first connection simply goes on to the end.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from itertools import islice
from typing import Final

from mirror.domain.errors import MirrorError, UpstreamTroubleError
from mirror.domain.names import Digest, Repository
from mirror.transfer.download import Source, Span
from mirror.upstream.receiving import Batch
from mirror.upstream.streaming import BlobStream

SEGMENT_BYTES: Final = 8 * 1024 * 1024

Opening = AbstractAsyncContextManager[BlobStream]


class _Segment:
    """A part of the blob that comes over a connection of its own."""

    def __init__(self, open_span: Callable[[Span], Opening], start: int, stop: int) -> None:
        self.start = start
        self._stop = stop
        self._open_span = open_span
        self._pieces: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._has_head = False
        self._is_over = False
        self._error: MirrorError | None = None
        self._task = asyncio.create_task(self._receive())

    async def is_coming(self) -> bool:
        """Wait for the head; returns whether the right bytes will come."""
        while not (self._has_head or self._is_over):
            await self._hear()
        return self._error is None

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield what comes; raises what broke it off, after all that had come."""
        while True:
            while self._pieces:
                yield self._pieces.popleft()
            if self._error is not None:
                raise self._error
            if self._is_over:
                return
            await self._hear()

    async def close(self) -> None:
        """Let go of the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _receive(self) -> None:
        try:
            await self._receive_all()
        except MirrorError as error:
            self._error = error
        except BaseException as error:
            self._error = UpstreamTroubleError(f"a segment broke off: {type(error).__name__}")
            raise
        finally:
            self._is_over = True
            self._tell()

    async def _receive_all(self) -> None:
        offset = self.start
        async with self._open_span((self.start, self._stop)) as stream:
            if stream.offset != self.start:
                raise UpstreamTroubleError(f"{stream.endpoint}: it does not do ranges")
            self._has_head = True
            self._tell()
            async with aclosing(stream.chunks()) as chunks:
                async for chunk in chunks:
                    self._pieces.append(chunk[: self._stop - offset])
                    offset += len(chunk)
                    self._tell()
                    if offset >= self._stop:
                        return
            raise UpstreamTroubleError(f"{stream.endpoint}: the body ended early")

    async def _hear(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _tell(self) -> None:
        self._news.set()


class ParallelStream:
    """A BlobStream over several connections, of which the first is open already."""

    def __init__(
        self,
        first: BlobStream,
        open_span: Callable[[Span], Opening],
        connections: int,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self.offset = first.offset
        self.size_bytes = first.size_bytes
        self.endpoint = first.endpoint
        self._first = first
        self._open_span = open_span
        self._connections = connections
        self._segment_bytes = segment_bytes
        self._ahead: deque[_Segment] = deque()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes in their order; raises as ``BlobStream.chunks`` does."""
        async with aclosing(self.batches()) as batches:
            async for batch in batches:
                for piece in batch.pieces:
                    yield bytes(piece)
                batch.release()

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Yield the bytes in their order, each batch to be released."""
        starts = self._starts()
        self._start_more(starts, self._connections - 1)
        async with aclosing(self._of_first()) as batches:
            async for batch in batches:
                yield batch
        while self._ahead:
            segment = self._ahead[0]
            async with aclosing(segment.pieces()) as pieces:
                async for piece in pieces:
                    yield Batch.of(piece)
            self._ahead.popleft()
            self._start_more(starts, 1)

    def close(self) -> None:
        """Close the first connection; ``end`` closes the others."""
        self._first.close()

    async def end(self) -> None:
        """Let go of everything that is under way."""
        await self._drop_ahead()

    def _starts(self) -> deque[int]:
        stop = self.size_bytes or 0
        return deque(range(self.offset + self._segment_bytes, stop, self._segment_bytes))

    def _start_more(self, starts: "deque[int]", count: int) -> None:
        for start in [starts.popleft() for _ in islice(range(len(starts)), count)]:
            stop = min(start + self._segment_bytes, self.size_bytes or 0)
            self._ahead.append(_Segment(self._open_span, start, stop))

    async def _of_first(self) -> AsyncGenerator[Batch, None]:
        """Yield what the first connection brings, up to where the second one has begun."""
        offset = self.offset
        async with aclosing(self._first.batches()) as batches:
            async for batch in batches:
                if self._ahead and offset + batch.size_bytes >= self._ahead[0].start:
                    if await self._ahead[0].is_coming():
                        head, _ = batch.split(self._ahead[0].start - offset)
                        yield Batch(head.pieces, head.size_bytes, batch.release)
                        self._first.close()
                        return
                    await self._drop_ahead()
                offset += batch.size_bytes
                yield batch
        if self._ahead:  # a 206 may bring less than was asked for; what is ahead does not follow
            raise UpstreamTroubleError(f"{self.endpoint}: the body ended early")

    async def _drop_ahead(self) -> None:
        segments, self._ahead = self._ahead, deque()
        for segment in segments:
            await segment.close()


class ParallelSource:
    """Opens large blobs over several connections, and all others as *source* does."""

    def __init__(
        self, source: Source, connections: int, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self._source = source
        self._connections = connections
        self._segment_bytes = segment_bytes
        self.endpoints = source.endpoints
        self.suspects = source.suspects
        self.suspect = source.suspect

    @asynccontextmanager
    async def open(
        self, repository: Repository, digest: Digest, span: Span, avoid: Collection[str]
    ) -> AsyncIterator[BlobStream]:
        """Open a blob from a byte on; raises MirrorError on entering."""

        def open_span(part: Span) -> Opening:
            return self._source.open(repository, digest, part, avoid)

        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(open_span(span))
            if first.size_bytes is None or not self._is_worth_it(first):
                yield first
                return
            stream = ParallelStream(first, open_span, self._connections, self._segment_bytes)
            stack.push_async_callback(stream.end)
            yield stream

    def _is_worth_it(self, first: BlobStream) -> bool:
        return (first.size_bytes or 0) - first.offset >= 2 * self._segment_bytes
