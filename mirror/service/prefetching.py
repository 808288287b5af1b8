"""Prefetches: images that are fetched before anybody pulls them, as jobs that can be watched.

A job shares its downloads with clients, leaves them the pulls that are to be kept, and does
not stop at what cannot be had. What is here is skipped, so a second one goes on where the
first was interrupted.
"""

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Annotated, Final

import msgspec

from mirror.domain.errors import MirrorError, RateLimitedError, TroubleError
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics
from mirror.runtime.clock import Clock
from mirror.service.fetching import Fetching, Wish
from mirror.service.prefetch_job import ImageState, Job, JobFacts, Progress, Row
from mirror.service.quota import Quota
from mirror.service.refusals import RefusalCode, RefusedError, check_platforms

DEFAULT_PLATFORM: Final = "linux/amd64"
BY_COMMAND: Final = "command"
BY_SCHEDULE: Final = "schedule"
PARALLEL: Final = 4
_PARALLEL_MAX: Final = 32
_IMAGES_MAX: Final = 2000
_RUNNING_MAX: Final = 8
_REMEMBERED_MAX: Final = 20
_TICK_SECONDS: Final = 0.25
_RETRY_SECONDS: Final = 5.0
_log = get_logger("prefetch")


class PrefetchWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Images to fetch.

    Without ``platforms``: those that the cache has images of, else linux/amd64. ``referrers``
    also fetches signatures, SBOMs and attestations. ``keep_quota`` is the share of an
    upstream's pulls that is left to clients, from 0 to 1; null: as the policy says.
    ``parallel`` is how many blobs come at a time.
    """

    images: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=_IMAGES_MAX)]
    platforms: tuple[str, ...] = ()
    referrers: bool = False
    keep_quota: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    parallel: Annotated[int, msgspec.Meta(ge=1, le=_PARALLEL_MAX)] = PARALLEL


class Prefetcher:
    """Runs prefetches and remembers the last ones."""

    def __init__(
        self,
        *,
        fetching: Fetching,
        quota: Quota,
        row: Callable[[str], Row],
        platforms: Callable[[], Awaitable[tuple[str, ...]]],
        metrics: Metrics,
        clock: Clock,
        retry_seconds: float = _RETRY_SECONDS,
    ) -> None:
        """Set up.

        Args:
            fetching: Fetches one image.
            quota: Says how many pulls are kept for clients.
            row: Reads the name of an image.
            platforms: Returns those that the cache has images of.
            metrics: Where runs are counted.
            clock: Tells the time.
            retry_seconds: How long what failed is left alone before the second and last try.
        """
        self._fetching = fetching
        self._quota = quota
        self._row = row
        self._platforms = platforms
        self._metrics = metrics
        self._clock = clock
        self._retry_seconds = retry_seconds
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    # --- what may be asked -----------------------------------------------------------------

    def start(self, wish: PrefetchWish, origin: str = BY_COMMAND) -> JobFacts:
        """Begin to fetch images; raises RefusedError."""
        check_platforms(wish.platforms)
        if len(self._tasks) >= _RUNNING_MAX:
            raise RefusedError(
                RefusalCode.BUSY,
                f"{_RUNNING_MAX} prefetches are running already",
                "wait until one has ended, or cancel one",
            )
        rows = {row.name: row for row in map(self._row, wish.images)}
        job = Job(
            secrets.token_hex(4),
            origin,
            list(rows.values()),
            self._clock.wall(),
            with_referrers=wish.referrers,
        )
        self._remember(job)
        task = asyncio.create_task(self._run(job, wish), name=f"prefetch {job.id}")
        self._tasks[job.id] = task
        task.add_done_callback(lambda _: self._ended(job))
        return job.facts()

    def jobs(self) -> list[JobFacts]:
        """Return what runs and what ran last, the latest first."""
        return [job.facts() for job in reversed(self._jobs.values())]

    def progress(self, job_id: str) -> Progress:
        """Return how far a prefetch is, with all of its images; raises RefusedError."""
        return self._job(job_id).progress(0)

    async def watch(self, job_id: str) -> AsyncGenerator[Progress, None]:
        """Yield how far a prefetch is until it ends; images only when they have changed.

        Raises:
            RefusedError: there is no such prefetch.
        """
        job, seen = self._job(job_id), 0
        while True:
            is_over, seen_now = job.ended.is_set(), job.version
            yield job.progress(seen)
            seen = seen_now
            if is_over:
                return
            try:
                async with asyncio.timeout(_TICK_SECONDS):
                    await job.ended.wait()
            except TimeoutError:
                continue

    async def cancel(self, job_id: str) -> JobFacts:
        """Stop a prefetch; what has begun to come is finished by itself. Raises RefusedError."""
        job = self._job(job_id)
        task = self._tasks.get(job_id)
        if task is not None:
            task.cancel()
            await job.ended.wait()
        return job.facts()

    async def ended(self, job_id: str) -> JobFacts:
        """Wait for the end of a prefetch; raises RefusedError."""
        job = self._job(job_id)
        await job.ended.wait()
        return job.facts()

    async def close(self) -> None:
        """Stop all prefetches."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _job(self, job_id: str) -> Job:
        job = self._jobs.get(job_id)
        if job is None:
            raise RefusedError(
                RefusalCode.NOT_FOUND,
                f"there is no prefetch {job_id[:64]!r}",
                "the mirror remembers those that run and the last ones",
            )
        return job

    def _remember(self, job: Job) -> None:
        self._jobs[job.id] = job
        over = [each for each in self._jobs.values() if each.ended.is_set()]
        for old in over[: max(0, len(self._jobs) - _REMEMBERED_MAX)]:
            del self._jobs[old.id]

    # --- running ---------------------------------------------------------------------------

    async def _run(self, job: Job, wish: PrefetchWish) -> None:
        _log.info("a prefetch begins", job=job.id, origin=job.origin, images=len(job.rows))
        job.platforms = wish.platforms or await self._platforms() or (DEFAULT_PLATFORM,)
        base = Wish(
            platforms=job.platforms,
            with_referrers=wish.referrers,
            kept_share=wish.keep_quota,
            slots=asyncio.Semaphore(wish.parallel),
        )
        await self._round(job, job.rows, base, wish.parallel)
        again = [row for row in job.rows if row.may_come]
        if again:
            await asyncio.sleep(self._retry_seconds)
            await self._round(job, again, base, wish.parallel, is_last=True)

    async def _round(
        self, job: Job, rows: Iterable[Row], base: Wish, parallel: int, *, is_last: bool = False
    ) -> None:
        """Fetch images, a few side by side."""
        left = iter(rows)

        async def work() -> None:
            for row in left:
                await self._fetch(job, row, base, is_last=is_last)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(parallel):
                tasks.create_task(work())

    async def _fetch(self, job: Job, row: Row, base: Wish, *, is_last: bool) -> None:
        if row.repository is None or row.reference is None:
            job.note(row, ImageState.FAILED)
            return
        row.error, row.may_come = None, False
        job.note(row, ImageState.FETCHING)
        kept_share = self._quota.kept_share(row.repository, base.kept_share)
        wish = dataclasses.replace(base, kept_share=kept_share)
        try:
            await self._fetching.image(row.repository, row.reference, wish, row.fetched)
        except RateLimitedError as error:
            row.error = str(error)
            job.note(row, ImageState.SKIPPED)
        except (MirrorError, OSError) as error:
            row.error = str(error)
            row.may_come = isinstance(error, TroubleError) and not is_last
            job.note(row, ImageState.WAITING if row.may_come else ImageState.FAILED)
        else:
            job.note(row, ImageState.DONE)

    def _ended(self, job: Job) -> None:
        task = self._tasks.pop(job.id)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("a prefetch failed unexpectedly", job=job.id, exc_info=error)
        job.end(self._clock.wall(), is_cancelled=task.cancelled())
        facts = job.facts()
        self._metrics.prefetch_runs.labels(job.origin, facts.state).inc()
        self._metrics.prefetch_bytes.inc(facts.fetched_bytes)
        for row in job.rows:
            self._metrics.prefetch_images.labels(row.state).inc()
            if row.error is not None:
                _log.warning("an image was not fetched", image=row.name, reason=row.error)
        _log.info(
            "a prefetch ended",
            job=job.id,
            origin=job.origin,
            outcome=facts.state,
            images=facts.images,
            failed=facts.failed,
            skipped=facts.skipped,
            fetched_objects=facts.fetched_objects,
            fetched_bytes=facts.fetched_bytes,
            seconds=round((facts.ended_at or 0) - facts.started_at, 3),
        )
