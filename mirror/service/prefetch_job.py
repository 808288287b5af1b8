"""One prefetch as it is told: what is over is summed up, what runs is looked at."""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from mirror.domain.names import Reference, Repository
from mirror.service.fetching import Fetched, Layer, LayerState


class JobState(StrEnum):
    """How a prefetch stands."""

    RUNNING = "running"
    DONE = "done"
    INCOMPLETE = "incomplete"
    """It is over, and an image failed or was skipped."""
    CANCELLED = "cancelled"


class ImageState(StrEnum):
    """How an image stands."""

    WAITING = "waiting"
    FETCHING = "fetching"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    """To leave pulls to clients, or because upstream limits us."""
    CANCELLED = "cancelled"


class LayerProgress(msgspec.Struct, frozen=True):
    """A blob that comes in now; ``resumed_bytes`` were here from an earlier download."""

    digest: str
    size_bytes: int
    received_bytes: int
    resumed_bytes: int


class ImageProgress(msgspec.Struct, frozen=True):
    """An image: its blobs' bytes, how many of them are here, and how many were fetched."""

    image: str
    state: ImageState
    digest: str | None
    total_bytes: int
    done_bytes: int
    fetched_bytes: int
    fetched_objects: int
    error: str | None = None
    layers: tuple[LayerProgress, ...] = ()


class JobFacts(msgspec.Struct, frozen=True):
    """A prefetch as a whole; blobs that images share count once.

    ``total_bytes`` grows while manifests become known. Times are seconds since 1970.
    """

    id: str
    state: JobState
    origin: str
    started_at: float
    ended_at: float | None
    platforms: tuple[str, ...]
    referrers: bool
    images: int
    done: int
    failed: int
    skipped: int
    total_bytes: int
    done_bytes: int
    fetched_bytes: int
    fetched_objects: int


class Progress(msgspec.Struct, frozen=True):
    """How far a prefetch is, and its images: all, or those that have changed."""

    job: JobFacts
    images: tuple[ImageProgress, ...]


@dataclass(slots=True)
class Row:
    """An image of a prefetch; without a repository its name was wrong, and ``error`` says how."""

    name: str
    repository: Repository | None = None
    reference: Reference | None = None
    error: str | None = None
    state: ImageState = ImageState.WAITING
    may_come: bool = False
    """It failed because of trouble that may pass."""
    is_summed: bool = False
    version: int = 0
    fetched: Fetched = field(default_factory=Fetched)

    def progress(self) -> ImageProgress:
        """Return how far it is."""
        layers = self.fetched.layers.values()
        return ImageProgress(
            self.name,
            self.state,
            None if self.fetched.digest is None else str(self.fetched.digest),
            sum(each.size_bytes for each in layers),
            sum(_received_bytes(each) for each in layers),
            self.fetched.size_bytes,
            self.fetched.objects,
            self.error,
            tuple(
                LayerProgress(
                    str(each.digest), each.size_bytes, each.received_bytes, each.resumed_bytes
                )
                for each in layers
                if each.state is LayerState.COMING
            ),
        )


@dataclass(slots=True)
class _Sums:
    total_bytes: int = 0
    done_bytes: int = 0
    fetched_bytes: int = 0
    objects: int = 0

    def add(self, fetched: Fetched, sign: int = 1) -> None:
        counted = [each for each in fetched.layers.values() if not each.is_shared]
        self.total_bytes += sign * sum(each.size_bytes for each in counted)
        self.done_bytes += sign * sum(_received_bytes(each) for each in counted)
        self.fetched_bytes += sign * fetched.size_bytes
        self.objects += sign * fetched.objects


class Job:
    """A prefetch: what it is to fetch and how far it is.

    Everything is a plain call on the event loop, cheap even with thousands of images:
    only what runs is counted anew.
    """

    def __init__(
        self, job_id: str, origin: str, rows: list[Row], now: float, *, with_referrers: bool
    ) -> None:
        self.id = job_id
        self.origin = origin
        self.rows = rows
        self.platforms: tuple[str, ...] = ()
        self.ended = asyncio.Event()
        self.version = 1
        self._with_referrers = with_referrers
        self._started_at = now
        self._ended_at: float | None = None
        self._state = JobState.RUNNING
        self._running: list[Row] = []
        self._over = _Sums()
        self._counts = dict.fromkeys(ImageState, 0)
        self._counts[ImageState.WAITING] = len(rows)
        for row in rows:
            row.version = 1

    def note(self, row: Row, state: ImageState) -> None:
        """Take in that an image has come to another state."""
        if row.state is ImageState.FETCHING:
            self._running.remove(row)
            self._over.add(row.fetched)
            row.is_summed = True
        if state is ImageState.FETCHING:
            if row.is_summed:
                self._over.add(row.fetched, -1)  # a second try: it is counted while it runs
                row.is_summed = False
            self._running.append(row)
        self._counts[row.state] -= 1
        self._counts[state] += 1
        row.state = state
        self.version += 1
        row.version = self.version

    def end(self, now: float, *, is_cancelled: bool) -> None:
        """Take in that it is over."""
        for row in self.rows:
            if row.state in {ImageState.WAITING, ImageState.FETCHING}:
                self.note(row, ImageState.CANCELLED)
        is_whole = self._counts[ImageState.DONE] == len(self.rows)
        self._state = JobState.DONE if is_whole else JobState.INCOMPLETE
        if is_cancelled:
            self._state = JobState.CANCELLED
        self._ended_at = now
        self.ended.set()

    def facts(self) -> JobFacts:
        """Return it as a whole."""
        over = self._over
        sums = _Sums(over.total_bytes, over.done_bytes, over.fetched_bytes, over.objects)
        for row in self._running:
            sums.add(row.fetched)
        return JobFacts(
            self.id,
            self._state,
            self.origin,
            self._started_at,
            self._ended_at,
            self.platforms,
            self._with_referrers,
            len(self.rows),
            self._counts[ImageState.DONE],
            self._counts[ImageState.FAILED],
            self._counts[ImageState.SKIPPED],
            sums.total_bytes,
            sums.done_bytes,
            sums.fetched_bytes,
            sums.objects,
        )

    def progress(self, seen: int) -> Progress:
        """Return it with the images that run, or have changed since version *seen*."""
        rows = [row for row in self.rows if row.version > seen or row.state is ImageState.FETCHING]
        return Progress(self.facts(), tuple(row.progress() for row in rows))


def _received_bytes(layer: Layer) -> int:
    return min(layer.received_bytes, layer.size_bytes)
