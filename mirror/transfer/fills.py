"""All fills in progress: at most one for each digest and scope."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final, Literal

from mirror.domain.backoff import delay_seconds
from mirror.domain.errors import (
    ContentMismatchError,
    MirrorError,
    TroubleError,
    UpstreamTroubleError,
)
from mirror.domain.names import Digest, Repository
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics
from mirror.runtime.pools import Pool
from mirror.store.space import NoSpaceError
from mirror.store.store import Store
from mirror.transfer.download import Download, Span
from mirror.transfer.fill import Fill
from mirror.transfer.slots import Slots
from mirror.upstream.registry import BlobStream
from mirror.upstream.upstreams import Upstreams

_TRIES_WITHOUT_PROGRESS: Final = 5
_BACKOFF_BASE_SECONDS: Final = 0.2
_BACKOFF_CAP_SECONDS: Final = 5.0
_OUTGROWN_MAX: Final = 1000
_log = get_logger("transfer")

Key = tuple[str, Digest]


class Retries:
    """Makes progress the measure: a download that gains bytes goes on without end."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._fruitless = 0

    async def after(self, error: TroubleError, gained_bytes: int) -> None:
        """Wait before the next try, or raise *error* if it was the last."""
        self._fruitless = 0 if gained_bytes else self._fruitless + 1
        if self._fruitless >= _TRIES_WITHOUT_PROGRESS:
            raise error
        self._metrics.fill_resumes.labels(type(error).__name__.removesuffix("Error")).inc()
        await asyncio.sleep(
            delay_seconds(
                self._fruitless + 1,
                base=_BACKOFF_BASE_SECONDS,
                cap=_BACKOFF_CAP_SECONDS,
                jitter=random.random,
            )
        )


class Fills:
    """The table of downloads.

    A fill is keyed by scope and digest, so repositories share it; each joins by a link of
    its own, and one's 404 never reaches another's clients (DESIGN, invariant 2).
    """

    def __init__(
        self,
        store: Store,
        upstreams: Upstreams,
        pool: Pool,
        metrics: Metrics,
        *,
        max_concurrent: int,
        abandon: Literal["finish", "stop"],
    ) -> None:
        self._store = store
        self._upstreams = upstreams
        self._pool = pool
        self._metrics = metrics
        self._abandon = abandon
        self._fills: dict[Key, Fill] = {}
        self._tasks: dict[asyncio.Task[None], Fill] = {}
        self._last: dict[Key, asyncio.Task[None]] = {}
        self._outgrown: dict[Key, None] = {}
        self.slots = Slots(max_concurrent)

    def running(self, scope: str, digest: Digest) -> Fill | None:
        """Return the fill of an object, if there is one."""
        return self._fills.get((scope, digest))

    def board(
        self, scope: str, digest: Digest, source: Repository, expected_bytes: int | None
    ) -> tuple[Fill, bool]:
        """Return the fill of an object, and whether this call started it.

        There is no ``await`` between looking and starting, so two callers cannot both
        start. Enter the fill at once: it closes when it is empty.

        Args:
            scope: With whose credentials it is fetched.
            digest: The object.
            source: The repository that the caller may ask for it.
            expected_bytes: Its size by a manifest, for upstreams that do not tell.
        """
        key = scope, digest
        fill = self._fills.get(key)
        if fill is not None:
            fill.add_source(source)
            return fill, False
        fill = self._fills[key] = Fill(digest, scope, source, expected_bytes)
        fill.is_too_large = key in self._outgrown
        running = self._run(fill, self._last.get(key))
        task = self._last[key] = asyncio.create_task(running, name=f"fill {digest}")
        self._tasks[task] = fill
        task.add_done_callback(self._ended)
        fill.on_readers_changed = partial(self._readers_changed, fill, task)
        return fill, True

    @asynccontextmanager
    async def open_blob(
        self, repository: Repository, digest: Digest, span: Span
    ) -> AsyncIterator[BlobStream]:
        """Open a blob at its upstream within the time for an answer."""
        registry = self._upstreams.of(repository)
        async with AsyncExitStack() as stack:
            async with registry.deadline():
                opening = registry.open_blob(repository, digest, span)
                stream = await stack.enter_async_context(opening)
            yield stream

    async def idle(self) -> None:
        """Wait until no download is running."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Stop all downloads and wait until their files are closed; what is whole is kept."""
        for task, fill in self._tasks.items():
            if not fill.is_verified:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, fill: Fill, before: "asyncio.Task[None] | None") -> None:
        self._metrics.fills_in_progress.inc()
        outcome = "committed"
        try:
            if before is not None:
                await asyncio.wait([before])  # it was given up, but its file is still open
            download = Download(
                fill,
                store=self._store,
                pool=self._pool,
                slots=self.slots,
                open_blob=self.open_blob,
                patience=Retries(self._metrics),
            )
            await download.run()
        except MirrorError as error:
            outcome = "mismatch" if isinstance(error, ContentMismatchError) else "failed"
            if isinstance(error, NoSpaceError) and fill.has_head and fill.size_bytes is None:
                self._note_outgrown(fill)
            self._report(fill, error)
        except asyncio.CancelledError:
            outcome = "abandoned"
        except Exception:  # noqa: BLE001 -- the readers know; here it is only reported
            outcome = "failed"
            _log.exception("a fill failed unexpectedly", digest=str(fill.digest))
        finally:
            self._forget(fill)
            self._metrics.fills_in_progress.dec()
            self._metrics.fills.labels(outcome).inc()

    def _readers_changed(self, fill: Fill, task: "asyncio.Task[None]") -> None:
        if self._abandon == "stop" and not fill.readers and not fill.is_verified:
            self._forget(fill)
            task.cancel()
        self.slots.assign()

    def _forget(self, fill: Fill) -> None:
        """Let the next one who asks start anew."""
        key = fill.scope, fill.digest
        if self._fills.get(key) is fill:
            del self._fills[key]

    def _note_outgrown(self, fill: Fill) -> None:
        """Have an object of untold length pass the cache the next time: it does not fit."""
        while len(self._outgrown) >= _OUTGROWN_MAX:
            del self._outgrown[next(iter(self._outgrown))]
        self._outgrown[fill.scope, fill.digest] = None

    def _ended(self, task: "asyncio.Task[None]") -> None:
        fill = self._tasks.pop(task)
        # One that was cancelled before its first step has told nobody so far.
        fill.end(UpstreamTroubleError("the download was interrupted"))
        self._forget(fill)
        key = fill.scope, fill.digest
        if self._last.get(key) is task:
            del self._last[key]

    def _report(self, fill: Fill, error: MirrorError) -> None:
        upstream = fill.active_source.upstream
        if isinstance(error, ContentMismatchError):
            self._metrics.digest_mismatches.labels(upstream).inc()
        _log.warning(
            "a fill failed",
            upstream=upstream,
            repository=fill.active_source.name,
            digest=str(fill.digest),
            received_bytes=fill.received_bytes,
            reason=str(error),
        )
