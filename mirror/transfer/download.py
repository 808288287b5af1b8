"""The writer of a fill: from upstream, with resumption, through the hash, into the store."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from mirror.domain.errors import (
    ContentMismatchError,
    MirrorError,
    OverloadedError,
    TroubleError,
    UpstreamTroubleError,
)
from mirror.domain.names import Digest, Repository
from mirror.runtime.pools import Pool
from mirror.store.partial import Partial
from mirror.store.space import NoSpaceError
from mirror.store.store import Store
from mirror.transfer.appender import Appender
from mirror.transfer.fill import Fill
from mirror.transfer.slots import Slots
from mirror.upstream.registry import BlobStream

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


class Download:
    """Fetches one object once; run it in a task of its own."""

    def __init__(
        self,
        fill: Fill,
        *,
        store: Store,
        pool: Pool,
        slots: Slots,
        open_blob: Open,
        patience: Patience,
    ) -> None:
        self._fill = fill
        self._store = store
        self._pool = pool
        self._slots = slots
        self._open = open_blob
        self._patience = patience
        self._partial: Partial | None = None
        self._reservation = store.reservation()

    async def run(self) -> None:
        """Download; the outcome is for the readers.

        Raises:
            MirrorError: the download failed; the readers know already.
        """
        failure: MirrorError | None = UpstreamTroubleError("the download was interrupted")
        with self._fill.aboard():
            try:
                await self._run()
                failure = None
            except MirrorError as error:
                failure = error
                raise
            except OSError as error:
                failure = NoSpaceError(f"the cache disk: {error.strerror}")
                raise failure from None
            finally:
                self._slots.free(self._fill)
                self._reservation.release()
                if self._partial is not None:
                    self._partial.discard()
                self._fill.end(failure)

    async def _run(self) -> None:
        fill = self._fill
        stored = await self._store.open(fill.digest, fill.scope)
        if stored is not None:
            fill.adopt(stored)
            return
        self._store.space.check(fill.expected_bytes or 0)
        if fill.is_too_large:
            raise NoSpaceError("the object has outgrown the cache before")
        await self._slots.take(fill)
        partial, source = await self._fetch()
        self._slots.free(fill)
        await self._store.commit_blob(partial, source, fill.scope, self._reservation)

    async def _fetch(self) -> tuple[Partial, Repository]:
        """Return the verified file, and the repository that the last of it came from."""
        fill = self._fill
        while True:
            source = fill.source()
            before_bytes = fill.received_bytes
            try:
                async with self._open(source, fill.digest, (before_bytes, None)) as stream:
                    return await self._receive(stream), source
            except (ContentMismatchError, OverloadedError):
                raise
            except TroubleError as error:
                if self._partial is None:
                    # All its endpoints have been asked, and nobody was promised anything yet.
                    fill.refuse(source, error)
                else:
                    fill.postpone(source)
                    await self._patience.after(error, fill.received_bytes - before_bytes)
            except MirrorError as error:
                fill.refuse(source, error)

    async def _receive(self, stream: BlobStream) -> Partial:
        partial = await self._take_head(stream)
        appender = Appender(self._pool, partial, self._show)
        chunks = stream.chunks()
        try:
            if stream.offset != partial.length_bytes:
                await self._append(await self._skipped(chunks, partial, stream), appender)
            async for chunk in chunks:
                await self._append(chunk, appender)
        except UpstreamTroubleError:
            await appender.finish()
            if not partial.is_right():
                raise  # else only what came behind the last byte was broken
        finally:
            await appender.finish()
            self._fill.received_bytes = partial.length_bytes
        self._verify(partial, stream.endpoint)
        return partial

    async def _append(self, chunk: bytes, appender: Appender) -> None:
        fill = self._fill
        await self._slots.take(fill)  # it may have had to give way
        whole_bytes = fill.received_bytes + len(chunk)
        if fill.size_bytes is not None and whole_bytes > fill.size_bytes:
            await appender.put(chunk[: fill.size_bytes - fill.received_bytes])
            raise ContentMismatchError(f"{fill.digest} is longer than was announced")
        more_bytes = whole_bytes - self._reservation.size_bytes
        if more_bytes > 0:  # nobody knows how many will come
            await self._reserve_step(more_bytes)
        fill.received_bytes = whole_bytes
        await appender.put(chunk)

    async def _take_head(self, stream: BlobStream) -> Partial:
        fill = self._fill
        if self._partial is None:
            told = stream.size_bytes
            size_bytes = told if told is not None else fill.expected_bytes
            if size_bytes is None:
                await self._reserve_step(1)
            else:
                await self._reservation.grow(size_bytes)
            self._partial = self._store.partial(fill.digest, fill.scope)
            fill.begin(self._partial, size_bytes)
        elif fill.size_bytes is None:
            fill.size_bytes = stream.size_bytes
        elif stream.size_bytes not in {None, fill.size_bytes}:
            raise ContentMismatchError(f"{stream.endpoint}: {fill.digest} has another length now")
        return self._partial

    async def _reserve_step(self, more_bytes: int) -> None:
        """Set *more_bytes* aside, and a good deal on top of them if that fits."""
        try:
            await self._reservation.grow(max(more_bytes, _RESERVE_STEP_BYTES))
        except NoSpaceError:
            await self._reservation.grow(more_bytes)

    async def _skipped(
        self, chunks: AsyncIterator[bytes], partial: Partial, stream: BlobStream
    ) -> bytes:
        """Read over what is on disk already; returns what comes behind it.

        For an upstream that ignores ranges. The bytes must be the same as before: readers
        have them, so others would make a whole that never was.
        """
        prefix_hash: hashlib._Hash = self._fill.digest.new_hash()
        missing_bytes = partial.length_bytes
        async for chunk in chunks:
            await self._pool.run(prefix_hash.update, chunk[:missing_bytes])
            rest = chunk[missing_bytes:]
            missing_bytes -= min(missing_bytes, len(chunk))
            if not missing_bytes:
                if not partial.begins_with(prefix_hash):
                    raise ContentMismatchError(f"{stream.endpoint}: the content has changed")
                return rest
        raise UpstreamTroubleError(f"{stream.endpoint}: it ended before the point reached earlier")

    def _show(self) -> None:
        if self._partial is not None:
            self._reservation.written(self._partial.length_bytes)
            self._fill.show(self._partial.length_bytes)

    def _verify(self, partial: Partial, endpoint: str) -> None:
        length_bytes, size_bytes = partial.length_bytes, self._fill.size_bytes
        if size_bytes is not None and length_bytes < size_bytes:
            raise UpstreamTroubleError(f"{endpoint}: the body ended early")
        if not partial.is_right():
            raise ContentMismatchError(f"{endpoint}: not the content of {self._fill.digest}")
        self._fill.verified(length_bytes)
