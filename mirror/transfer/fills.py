"""All fills in progress: at most one for each digest and scope."""

import asyncio
from functools import partial
from typing import Final

from mirror.domain.errors import (
    ContentMismatchError,
    MirrorError,
    UpstreamTroubleError,
)
from mirror.domain.events import EventKind
from mirror.domain.names import Digest, Repository
from mirror.observe import tracing
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics
from mirror.runtime.pools import Pool
from mirror.settings import Fill as FillSettings
from mirror.store.space import NoSpaceError
from mirror.store.store import Store
from mirror.transfer.bypass import Direct
from mirror.transfer.download import DiskFailedError, Download, Source
from mirror.transfer.fill import Fill
from mirror.transfer.parallel import ParallelSource
from mirror.transfer.patience import Retries
from mirror.transfer.slots import Slots
from mirror.transfer.sources import Sources

_OUTGROWN_MAX: Final = 1000
_log = get_logger("transfer")

Key = tuple[str, Digest]


class Fills:
    """The table of downloads.

    A fill is keyed by scope and digest, so repositories share it; each joins by a link of
    its own, and one's 404 never reaches another's clients (invariant 2).
    """

    def __init__(
        self,
        store: Store,
        sources: Sources,
        pool: Pool,
        metrics: Metrics,
        settings: FillSettings,
    ) -> None:
        self._store = store
        self._source: Source = sources
        if settings.parallel_ranges > 1:
            self._source = ParallelSource(sources, settings.parallel_ranges)
        self._pool = pool
        self._metrics = metrics
        self.abandon = settings.abandon
        self._fills: dict[Key, Fill] = {}
        self._tasks: dict[asyncio.Task[None], Fill] = {}
        self._last: dict[Key, asyncio.Task[None]] = {}
        self._outgrown: dict[Key, None] = {}
        self.slots = Slots(settings.max_concurrent)
        self.direct = Direct(sources, pool, self.slots, metrics)

    def running(self, scope: str, digest: Digest) -> Fill | None:
        """Return the fill of an object, if there is one."""
        return self._fills.get((scope, digest))

    def all(self) -> list[Fill]:
        """Return all fills in progress, the oldest first."""
        return list(self._tasks.values())

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
            tracing.current().link(fill.span)
            return fill, False
        fill = self._fills[key] = Fill(digest, scope, source, expected_bytes)
        fill.is_too_large = key in self._outgrown
        fill.span = tracing.begin("fill", tracing.Kind.INTERNAL)
        running = self._run(fill, self._last.get(key))
        task = self._last[key] = asyncio.create_task(running, name=f"fill {digest}")
        self._tasks[task] = fill
        task.add_done_callback(self._ended)
        fill.on_readers_changed = partial(self._readers_changed, fill, task)
        return fill, True

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
                upstream=self._source,
                patience=Retries(self._metrics),
            )
            with fill.span.current():
                await download.run()
        except MirrorError as error:
            outcome = _outcome(error)
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
            _end_span(fill, outcome)
            if outcome == "committed" and fill.has_come:
                self._tell(fill)

    def _tell(self, fill: Fill) -> None:
        self._metrics.events.tell(
            EventKind.CACHED,
            str(fill.digest),
            kind="blob",
            size_bytes=fill.size_bytes,
            upstream=fill.active_source.upstream,
            repository=fill.active_source.name,
        )

    def _readers_changed(self, fill: Fill, task: "asyncio.Task[None]") -> None:
        if self.abandon == "stop" and not fill.readers and not fill.is_verified:
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
        fill.span.end()
        self._forget(fill)
        key = fill.scope, fill.digest
        if self._last.get(key) is task:
            del self._last[key]

    def _report(self, fill: Fill, error: MirrorError) -> None:
        _log.warning(
            "a fill failed",
            upstream=fill.active_source.upstream,
            repository=fill.active_source.name,
            digest=str(fill.digest),
            received_bytes=fill.received_bytes,
            reason=str(error),
        )


def _end_span(fill: Fill, outcome: str) -> None:
    fill.span.set(
        {
            "mirror.upstream": fill.active_source.upstream,
            "mirror.repository": fill.active_source.name,
            "mirror.digest": str(fill.digest),
            "mirror.outcome": outcome,
            "mirror.received_bytes": fill.received_bytes,
        }
    )
    if outcome != "committed":
        fill.span.fail(outcome)
    fill.span.end()


def _outcome(error: MirrorError) -> str:
    match error:
        case ContentMismatchError():
            return "mismatch"
        case DiskFailedError():
            return "disk"
        case _:
            return "failed"
