"""One download of one digest, and everybody who reads it while it grows.

The download is a task of its own and belongs to nobody: who asked first may leave, who comes
late reads what is there and goes on with the rest. Readers never get the last bytes before
the digest is checked, so nobody has the whole of a wrong object.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import BinaryIO, Final, Protocol, Self

from mirror.domain.errors import (
    ContentMismatchError,
    DeniedError,
    MirrorError,
    NotFoundError,
    OverloadedError,
    TroubleError,
    UpstreamTroubleError,
)
from mirror.domain.names import Digest, Repository
from mirror.runtime.pools import Pool
from mirror.store.partial import Partial
from mirror.store.store import Store, StoredObject
from mirror.transfer.appender import Appender
from mirror.transfer.slots import Slots
from mirror.upstream.registry import BlobStream

HOLD_BACK_BYTES: Final = 64 * 1024
"""What readers do not get before the digest is checked."""

_RESERVE_STEP_BYTES: Final = 64 * 1024 * 1024

Span = tuple[int, int | None]


class Open(Protocol):
    """Opens a blob of a repository at its upstream, from a byte on."""

    def __call__(
        self, repository: Repository, digest: Digest, span: Span
    ) -> AbstractAsyncContextManager[BlobStream]:
        """Return the stream; raises MirrorError on entering."""
        ...


class Patience(Protocol):
    """Decides whether a broken download goes on, and after how long."""

    async def after(self, error: TroubleError, gained_bytes: int) -> None:
        """Wait before the next try, or raise *error* if it was the last."""
        ...


class Fill:
    """A blob on its way in, readable while it grows.

    ``size_bytes`` is the length of the whole, once known; ``visible_bytes`` is how much may
    be read. Enter it to be a reader; the last one to leave closes the file.
    """

    def __init__(
        self, digest: Digest, scope: str, source: Repository, expected: int | None
    ) -> None:
        self.digest = digest
        self.scope = scope
        self.sources = [source]
        self.active_source = source
        self.size_bytes: int | None = None
        self.visible_bytes = 0
        self.received_bytes = 0
        self.has_head = False
        self.finished = False
        self.has_slot = False
        self.readers = 0
        self.forwarded_ranges = 0
        self.first_byte_at: float | None = None
        self.on_abandoned: Callable[[], None] = lambda: None
        self._aboard = 0
        self._expected_bytes = expected
        self._refused: dict[Repository, MirrorError] = {}
        self._failure: MirrorError | None = None
        self._news = asyncio.Event()
        self._partial: Partial | None = None
        self._stored: StoredObject | None = None
        self._reserved_bytes = 0

    # --- for readers -----------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._aboard += 1
        self.readers += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.readers -= 1
        if not self.readers and not self.finished:
            self.on_abandoned()
        self._leave()

    def _leave(self) -> None:
        self._aboard -= 1
        if self._aboard:
            return
        if self._partial is not None:
            self._partial.close()
        if self._stored is not None:
            self._stored.close()

    @property
    def file(self) -> BinaryIO:
        """The file to read from, up to ``visible_bytes``."""
        if self._stored is not None:
            return self._stored.file
        if self._partial is None:
            raise RuntimeError("a fill has no file before its head")
        return self._partial.file

    def add_source(self, source: Repository) -> None:
        """Name another repository that may be asked, should the first ones not have it."""
        if source not in self.sources:
            self.sources.append(source)

    async def head(self, source: Repository) -> int | None:
        """Wait for upstream's answer; returns the size of the whole if it is known.

        An object that is wholly held back is waited for to its end, so that a wrong one
        is answered with a clean error instead of a broken body.

        Raises:
            MirrorError: why *source* cannot be served.
        """
        while not self.has_head or self._is_held_back_whole():
            await self._hear(source)
        if self._failure is not None and self.visible_bytes != self.size_bytes:
            raise self._failure.with_traceback(None)
        return self.size_bytes

    async def beyond(self, offset: int, source: Repository, limit_seconds: float | None) -> int:
        """Wait until more than *offset* bytes may be read; returns how many.

        Returns early when *limit_seconds* are over, and at the end of an object whose
        length nobody knew.

        Raises:
            MirrorError: the fill failed.
        """
        try:
            async with asyncio.timeout(limit_seconds):
                while self.visible_bytes <= offset and not self.finished:
                    await self._hear(source)
        except TimeoutError:
            pass
        if self.visible_bytes <= offset and self._failure is not None:
            raise self._failure.with_traceback(None)
        return self.visible_bytes

    def _is_held_back_whole(self) -> bool:
        small = self.size_bytes is not None and self.size_bytes <= HOLD_BACK_BYTES
        return small and not self.visible_bytes and not self.finished and self.size_bytes != 0

    async def _hear(self, source: Repository) -> None:
        error = self._failure or self._refused.get(source)
        if error is not None:
            raise error.with_traceback(None)  # one error, many readers
        await self._news.wait()

    # --- the writer ------------------------------------------------------------------------

    async def run(
        self, store: Store, pool: Pool, slots: Slots, open_blob: Open, patience: Patience
    ) -> None:
        """Download; the outcome is for the readers.

        Raises:
            MirrorError: the download failed; the readers know already.
        """
        self._aboard += 1
        try:
            self._stored = await store.open(self.digest, self.scope)
            if self._stored is not None:
                self._adopt(self._stored)
                return
            await self._take(slots)
            await self._download(store, pool, slots, open_blob, patience)
        except MirrorError as error:
            self._failure = error
            raise
        except OSError as error:
            self._failure = OverloadedError(f"the cache disk: {error.strerror}")
            raise self._failure from None
        except BaseException:
            self._failure = UpstreamTroubleError("the download was interrupted")
            raise
        finally:
            self.finished = True
            self._free(slots)
            self._release(store)
            self._tell()
            self._leave()

    def _adopt(self, stored: StoredObject) -> None:
        """Serve what another fill has committed since the caller looked."""
        self.size_bytes = self.visible_bytes = stored.size_bytes
        self.has_head = True

    async def _download(
        self, store: Store, pool: Pool, slots: Slots, open_blob: Open, patience: Patience
    ) -> None:
        while True:
            source = self.active_source = self._source()
            before_bytes = self.received_bytes
            try:
                async with open_blob(source, self.digest, (before_bytes, None)) as stream:
                    await self._receive(stream, store, pool, slots)
                break
            except (NotFoundError, DeniedError) as error:
                self._refused[source] = error
                self._tell()
                if all(other in self._refused for other in self.sources):
                    raise
            except ContentMismatchError:
                raise
            except UpstreamTroubleError as error:
                if self._partial is None:
                    raise  # every endpoint has been asked: nobody was promised anything yet
                await patience.after(error, self.received_bytes - before_bytes)
        await self._commit(store, source)

    def _source(self) -> Repository:
        return next(source for source in self.sources if source not in self._refused)

    async def _receive(self, stream: BlobStream, store: Store, pool: Pool, slots: Slots) -> None:
        partial = await self._take_head(stream, store)
        appender = Appender(pool, partial, self._show)
        chunks = stream.chunks()
        if stream.offset != partial.length_bytes:
            first = await _skip(chunks, partial, self.digest.new_hash(), stream.endpoint)
            await appender.put(first)
        try:
            async for chunk in chunks:
                if not self.readers and slots.contended:
                    self._free(slots)
                    await self._take(slots)
                await self._reserve(store, self.received_bytes + len(chunk))
                self.received_bytes += len(chunk)
                await appender.put(chunk)
        finally:
            await appender.finish()
            self.received_bytes = partial.length_bytes
        self._verify(partial, stream.endpoint)

    async def _take(self, slots: Slots) -> None:
        await slots.take()
        self.has_slot = True

    def _free(self, slots: Slots) -> None:
        if self.has_slot:
            self.has_slot = False
            slots.free()

    async def _take_head(self, stream: BlobStream, store: Store) -> Partial:
        size_bytes = stream.size_bytes if stream.size_bytes is not None else self._expected_bytes
        if self._partial is None:
            await self._reserve(store, size_bytes or 0)
            self.size_bytes = size_bytes
            self._partial = store.partial(self.digest, self.scope)
            self.first_byte_at = asyncio.get_running_loop().time()
            self.has_head = True
            self._tell()
        elif size_bytes != self.size_bytes:
            raise ContentMismatchError(f"{stream.endpoint}: {self.digest} has another length now")
        return self._partial

    async def _reserve(self, store: Store, size_bytes: int) -> None:
        """Make sure that so many bytes are set aside; beyond the known size, in steps."""
        if size_bytes <= self._reserved_bytes:
            return
        more_bytes = size_bytes - self._reserved_bytes
        if self._partial is not None:
            more_bytes = max(more_bytes, _RESERVE_STEP_BYTES)
        await store.reserve(more_bytes)
        self._reserved_bytes += more_bytes

    def _release(self, store: Store) -> None:
        store.release(self._reserved_bytes)
        self._reserved_bytes = 0
        if self._partial is not None:
            self._partial.discard()

    def _verify(self, partial: Partial, endpoint: str) -> None:
        length_bytes = partial.length_bytes
        if self.size_bytes is not None and length_bytes < self.size_bytes:
            raise UpstreamTroubleError(f"{endpoint}: the body ended early")
        if length_bytes != (self.size_bytes or length_bytes) or not partial.is_right():
            raise ContentMismatchError(f"{endpoint}: not the content of {self.digest}")
        self.size_bytes = self.visible_bytes = length_bytes
        self._tell()

    async def _commit(self, store: Store, source: Repository) -> None:
        if self._partial is None or self.size_bytes is None:
            raise RuntimeError("a fill cannot be committed before it is verified")
        await store.answered_blob(source, self.digest, self.scope, self.size_bytes, fetched=True)
        await store.commit_blob(self._partial, self.digest, self.scope)

    def _show(self) -> None:
        """Let readers have what is on disk, but for the last bytes."""
        if self._partial is None:
            return
        length_bytes = self._partial.length_bytes
        end_bytes = length_bytes if self.size_bytes is None else self.size_bytes
        visible_bytes = min(length_bytes, end_bytes - HOLD_BACK_BYTES)
        if visible_bytes > self.visible_bytes:
            self.visible_bytes = visible_bytes
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


async def _skip(
    chunks: AsyncIterator[bytes], partial: Partial, prefix_hash: "hashlib._Hash", endpoint: str
) -> bytes:
    """Read over what is on disk already; returns what comes behind it.

    For an upstream that ignores ranges. The bytes must be the same as before: readers have
    them, so others would make a whole that never was.
    """
    missing_bytes = partial.length_bytes
    async for chunk in chunks:
        prefix_hash.update(chunk[:missing_bytes])
        rest = chunk[missing_bytes:]
        missing_bytes -= min(missing_bytes, len(chunk))
        if not missing_bytes:
            if not partial.begins_with(prefix_hash):
                raise ContentMismatchError(f"{endpoint}: the content has changed meanwhile")
            return rest
    raise UpstreamTroubleError(f"{endpoint}: the body ended before the point reached earlier")
