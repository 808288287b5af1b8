"""The writer of a fill: from upstream, with resumption, through the hash, into the store."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Collection
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
from mirror.observe.logs import get_logger
from mirror.runtime.pools import Pool
from mirror.store.partial import Partial
from mirror.store.space import NoSpaceError
from mirror.store.store import Store
from mirror.transfer.appender import Appender
from mirror.transfer.fill import Fill
from mirror.transfer.patience import Patience
from mirror.transfer.rebuilding import Rebuilding
from mirror.transfer.slots import Slots
from mirror.upstream.receiving import Batch
from mirror.upstream.streaming import BlobStream

_RESERVE_STEP_BYTES: Final = 64 * 1024 * 1024
_log = get_logger("transfer")

Span = tuple[int, int | None]


class Source(Protocol):
    """Where blobs come from: upstreams, as the download sees them."""

    def open(
        self, repository: Repository, digest: Digest, span: Span, avoid: Collection[str]
    ) -> AbstractAsyncContextManager[BlobStream]:
        """Open a blob from a byte on; endpoints in *avoid* are asked last.

        Raises MirrorError on entering.
        """
        ...

    def endpoints(self, repository: Repository) -> tuple[str, ...]:
        """Return all that may be asked for a repository."""
        ...

    def suspects(self, digest: Digest) -> Collection[str]:
        """Return the endpoints that sent wrong content of this digest lately."""
        ...

    def suspect(
        self, endpoint: str, repository: Repository, digest: Digest, error: MirrorError
    ) -> None:
        """Note that an endpoint has sent wrong content."""
        ...


class DiskFailedError(NoSpaceError):
    """The disk cannot take what comes; its readers go on without it."""


class Download:
    """Fetches one object once; run it in a task of its own."""

    def __init__(
        self,
        fill: Fill,
        *,
        store: Store,
        pool: Pool,
        slots: Slots,
        upstream: Source,
        patience: Patience,
    ) -> None:
        self._fill = fill
        self._store = store
        self._pool = pool
        self._slots = slots
        self._upstream = upstream
        self._patience = patience
        self._partial: Partial | None = None
        self._rebuilding: Rebuilding | None = None
        self._reservation = store.reservation(fill.active_source.upstream)
        self._endpoint = ""
        self._contributors: set[str] = set()
        self._has_doubted_itself = False
        self._wrong: set[str] = set()
        self._fruitless: set[str] = set()

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
                failure = DiskFailedError(f"the cache disk: {error.strerror}")
                raise failure from None
            finally:
                self._slots.free(self._fill)
                self._reservation.release()
                self._leave_partial(failure)
                self._fill.end(failure)

    async def _run(self) -> None:
        fill = self._fill
        stored = await self._store.open(fill.digest, fill.scope)
        if stored is not None:
            fill.adopt(stored)
            return
        self._store.space.check(fill.expected_bytes or 0, fill.active_source.upstream)
        if fill.is_too_large:
            raise NoSpaceError("the object has outgrown the cache before")
        await self._slots.take(fill)
        await self._take_partial()
        partial, source = await self._finished() or await self._fetch()
        self._slots.free(fill)
        await self._store.commit_blob(partial, source, fill.scope, self._reservation)

    # --- what is there from before ---------------------------------------------------------

    async def _take_partial(self) -> Partial:
        """Open the file, with what an earlier download left of it."""
        fill, partials = self._fill, self._store.partials
        taking = self._pool.start(partials.take, fill.digest, fill.scope)
        try:
            partial = await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(_give_back)
            raise
        self._partial = partial
        self._reservation.adopt(partials.claim(partial))
        fill.received_bytes = fill.resumed_bytes = partial.length_bytes
        if partial.length_bytes:
            self._rebuilding = Rebuilding(self._pool, partial)
            _log.info(
                "a download goes on where it was",
                digest=str(fill.digest),
                length_bytes=partial.length_bytes,
            )
        return partial

    async def _finished(self) -> tuple[Partial, Repository] | None:
        """Return what only lacked its name when the last process ended."""
        partial = self._partial
        if partial is None or partial.sidecar is None or not partial.length_bytes:
            return None
        if partial.length_bytes != partial.sidecar.size_bytes:
            return None
        await self._reservation.grow(0)
        await self._hash_is_ready()
        if not partial.is_right():
            await self._renew()
            return None
        self._fill.complete(partial)
        upstream, _, name = partial.sidecar.repositories[0].partition("/")
        return partial, Repository(upstream, name)

    async def _hash_is_ready(self) -> None:
        if self._rebuilding is not None:
            await self._rebuilding.end()
            self._rebuilding = None

    def _stop_rebuilding(self) -> None:
        if self._rebuilding is not None:
            self._rebuilding.stop()
            self._rebuilding = None

    def _leave_partial(self, failure: MirrorError | None) -> None:
        """Keep what has come for whoever asks next, unless it is worth nothing."""
        partial = self._partial
        self._stop_rebuilding()
        if partial is None or partial.is_published:
            return
        is_full = isinstance(failure, NoSpaceError) and self._fill.has_head
        if is_full or isinstance(failure, ContentMismatchError | DiskFailedError):
            partial.discard()
        else:
            self._store.partials.rest(partial)
        if not self._fill.has_head:
            partial.close()  # no reader has it

    # --- from upstream ---------------------------------------------------------------------

    async def _fetch(self) -> tuple[Partial, Repository]:
        """Return the verified file, and the repository that the last of it came from."""
        fill = self._fill
        while True:
            source, self._endpoint = fill.source(), ""
            before_bytes = fill.received_bytes
            try:
                opening = self._upstream.open(
                    source, fill.digest, (before_bytes, None), self._avoided()
                )
                async with self._patience.attempt(), opening as stream:
                    return await self._receive(stream, source), source
            except ContentMismatchError as error:
                await self._mistrust(error, source, gained_bytes=fill.received_bytes - before_bytes)
            except OverloadedError:
                raise
            except TroubleError as error:
                await self._go_on(error, source, fill.received_bytes - before_bytes)
            except MirrorError as error:
                fill.refuse(source, error)

    async def _go_on(self, error: TroubleError, source: Repository, gained_bytes: int) -> None:
        """Prepare the next try after a broken one, or raise *error* if that was the last."""
        fill = self._fill
        if not fill.has_head:
            # All its endpoints have been asked, and nobody was promised anything yet.
            fill.refuse(source, error)
            return
        if gained_bytes:
            self._fruitless.clear()
        else:
            self._fruitless.add(self._endpoint)
        fill.postpone(source)
        await self._patience.after(error, gained_bytes)

    async def _mistrust(
        self, error: ContentMismatchError, source: Repository, gained_bytes: int
    ) -> None:
        """Ask another endpoint after wrong content, from zero unless what we have is not its.

        What was resumed from the disk, or is of several endpoints, may itself be wrong: it
        is fetched anew once before anybody is blamed (invariant 4).
        """
        fill = self._fill
        if self._is_patchwork() and not self._has_doubted_itself:
            self._has_doubted_itself = True
            _log.warning("a resumed download was wrong", digest=str(fill.digest), reason=str(error))
            await self._renew()
            return
        if not self._endpoint:
            fill.refuse(source, error)  # none of the endpoints delivers what it had
            return
        is_again = self._endpoint in self._wrong  # so the others do not deliver, either
        self._wrong.add(self._endpoint)
        self._upstream.suspect(self._endpoint, source, fill.digest, error)
        if is_again or self._wrong.issuperset(self._upstream.endpoints(source)):
            fill.refuse(source, error)
            if not fill.has_source:
                raise error
        if gained_bytes:
            await self._renew()

    def _is_patchwork(self) -> bool:
        was_resumed = self._partial is not None and self._partial.resumed_bytes > 0
        return was_resumed or len(self._contributors) > 1

    async def _renew(self) -> None:
        """Throw away what has come and begin anew; the readers keep what was right of it."""
        wrong, fill = self._partial, self._fill
        self._stop_rebuilding()
        self._contributors.clear()
        if wrong is None:
            return
        wrong.discard()
        wrong.rest()
        self._reservation.written(0)
        partial = await self._take_partial()
        if fill.has_head:
            fill.start_over(partial)
        else:
            wrong.close()

    def _avoided(self) -> frozenset[str]:
        return frozenset(
            {*self._wrong, *self._fruitless, *self._upstream.suspects(self._fill.digest)}
        )

    async def _receive(self, stream: BlobStream, source: Repository) -> Partial:
        self._endpoint = stream.endpoint
        self._contributors.add(stream.endpoint)
        partial = await self._take_head(stream)
        await self._hash_is_ready()
        partial.describe(self._fill.size_bytes, str(source), stream.endpoint)
        appender = Appender(self._pool, partial, self._show)
        batches = stream.batches()
        try:
            if stream.offset != partial.length_bytes:
                await self._append(await self._skipped(batches, partial, stream), appender)
            async for batch in batches:
                await self._append(batch, appender)
        except UpstreamTroubleError:
            await appender.finish()
            if not partial.is_right():
                raise  # else only what came behind the last byte was broken
        finally:
            await appender.finish()
            self._fill.received_bytes = partial.length_bytes
        self._verify(partial, stream.endpoint)
        return partial

    async def _append(self, batch: Batch, appender: Appender) -> None:
        fill = self._fill
        self._patience.heard()
        await self._slots.take(fill)  # it may have had to give way
        whole_bytes = fill.received_bytes + batch.size_bytes
        if fill.size_bytes is not None and whole_bytes > fill.size_bytes:
            await appender.put(batch.split(fill.size_bytes - fill.received_bytes)[0])
            raise ContentMismatchError(f"{fill.digest} is longer than was announced")
        more_bytes = whole_bytes - self._reservation.size_bytes
        if more_bytes > 0:  # nobody knows how many will come
            await self._reserve_step(more_bytes)
        fill.received_bytes = whole_bytes
        await appender.put(batch)

    async def _take_head(self, stream: BlobStream) -> Partial:
        fill, partial = self._fill, self._partial
        if partial is None:
            raise RuntimeError("a download has a file before it asks")
        if not fill.has_head:
            size_bytes = self._announced(stream, partial)
            if size_bytes is None:
                await self._reserve_step(1)
            else:
                await self._reservation.grow(size_bytes - self._reservation.size_bytes)
            fill.begin(partial, size_bytes)
            self._show()
        elif fill.size_bytes is None:
            fill.size_bytes = stream.size_bytes
        elif stream.size_bytes not in {None, fill.size_bytes}:
            raise ContentMismatchError(f"{stream.endpoint}: {fill.digest} has another length now")
        return partial

    def _announced(self, stream: BlobStream, partial: Partial) -> int | None:
        """Return the length of the whole; one that was told before must be the same now."""
        before = partial.sidecar.size_bytes if partial.resumed_bytes and partial.sidecar else None
        told = stream.size_bytes if stream.size_bytes is not None else self._fill.expected_bytes
        if before is not None and told not in {None, before}:
            raise ContentMismatchError(f"{stream.endpoint}: {self._fill.digest} has another length")
        return told if told is not None else before

    async def _reserve_step(self, more_bytes: int) -> None:
        """Set *more_bytes* aside, and a good deal on top of them if that fits."""
        try:
            await self._reservation.grow(max(more_bytes, _RESERVE_STEP_BYTES))
        except NoSpaceError:
            await self._reservation.grow(more_bytes)

    async def _skipped(
        self, batches: AsyncIterator[Batch], partial: Partial, stream: BlobStream
    ) -> Batch:
        """Read over what is on disk already; returns what comes behind it.

        For an upstream that ignores ranges. The bytes must be the same as before: readers
        have them, so others would make a whole that never was.
        """
        prefix_hash: hashlib._Hash = self._fill.digest.new_hash()
        missing_bytes = partial.length_bytes
        async for batch in batches:
            self._patience.heard()
            known, rest = batch.split(missing_bytes)
            for piece in known.pieces:
                await self._pool.run(prefix_hash.update, piece)
            missing_bytes -= known.size_bytes
            if missing_bytes:
                batch.release()
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


def _give_back(taking: "asyncio.Future[Partial]") -> None:
    """Close a file that was opened for a download which has ended meanwhile."""
    if not taking.cancelled() and taking.exception() is None:
        taking.result().close()
