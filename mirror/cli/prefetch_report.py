"""How a prefetch looks: bars on a terminal, lines elsewhere."""

import sys
import time
from collections import deque
from typing import Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from mirror.cli.options import write
from mirror.cli.tables import counted, human_size, human_span
from mirror.service import prefetch_job
from mirror.service.prefetch_job import ImageProgress, ImageState, JobFacts

_OVER: Final = frozenset(ImageState) - {ImageState.WAITING, ImageState.FETCHING}
_LINE_SECONDS: Final = 10.0
_LOOK_BACK_SECONDS: Final = 10.0
_BARS_MAX: Final = 12
_DIGITS: Final = 8
_WIDE_COLUMNS: Final = 100
_NAME_MIN_CHARS: Final = 18


class Report(Protocol):
    """Shows a prefetch while it runs."""

    def show(self, progress: prefetch_job.Progress) -> None:
        """Show how far it is."""

    def close(self) -> None:
        """Clean up."""


class Speed:
    """How fast bytes come, over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, fetched_bytes: int) -> None:
        """Take in a reading of the number that grows."""
        self._seen.append((now, fetched_bytes))
        while now - self._seen[0][0] > _LOOK_BACK_SECONDS and len(self._seen) > 2:
            self._seen.popleft()

    @property
    def bytes_per_second(self) -> float:
        """The average; 0 at first."""
        (began, first), (now, last) = self._seen[0], self._seen[-1]
        return (last - first) / (now - began) if now > began else 0.0

    def left(self, job: JobFacts) -> str:
        """Return how long it will take at this speed, as far as its size is known."""
        if not self.bytes_per_second:
            return ""
        return f"{human_span((job.total_bytes - job.done_bytes) / self.bytes_per_second)} left"


def job_text(job: JobFacts, speed: Speed) -> str:
    """Return how far a prefetch is, on one line."""
    over = job.done + job.failed + job.skipped
    parts = [
        f"{over} of {counted(job.images, 'image')}",
        f"{human_size(job.done_bytes)} of {human_size(job.total_bytes)}",
        f"{human_size(speed.bytes_per_second)}/s",
        speed.left(job),
    ]
    return ", ".join(part for part in parts if part)


def image_text(image: ImageProgress) -> str:
    """Return what became of an image."""
    size = human_size(image.total_bytes)
    match image.state:
        case ImageState.DONE if image.fetched_objects:
            what = f"fetched {human_size(image.fetched_bytes)} of {size}"
        case ImageState.DONE:
            what = f"was here, {size}"
        case ImageState.CANCELLED:
            what = f"cancelled, {human_size(image.done_bytes)} of {size} is here"
        case state:
            what = f"{state}: {image.error or 'the log of the mirror says why'}"
    return f"{image.image}  {what}"


def summary_text(job: JobFacts, seconds: float) -> str:
    """Return what a prefetch has done."""
    parts = [
        f"{job.done} of {counted(job.images, 'image')} here",
        *([f"{job.failed} failed"] if job.failed else []),
        *([f"{job.skipped} skipped"] if job.skipped else []),
    ]
    return (
        f"{', '.join(parts)}: {human_size(job.fetched_bytes)} fetched, "
        f"{counted(job.fetched_objects, 'object')}, {', '.join(job.platforms)}, {seconds:.1f} s"
    )


class LineReport:
    """A line for each image, and now and then one for the whole."""

    def __init__(self) -> None:
        self._speed = Speed()
        self._next_at = time.monotonic() + _LINE_SECONDS

    def show(self, progress: prefetch_job.Progress) -> None:
        """Write what is new."""
        now = time.monotonic()
        self._speed.note(now, progress.job.fetched_bytes)
        for image in progress.images:
            if image.state in _OVER:
                write(image_text(image))
        if now >= self._next_at:
            write(job_text(progress.job, self._speed))
            self._next_at = now + _LINE_SECONDS

    def close(self) -> None:
        """Do nothing: what is written is written."""


class SilentReport:
    """Nothing before the end: for programs."""

    def show(self, progress: prefetch_job.Progress) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class _Sizes(ProgressColumn):
    """``12.1 MiB of 30.4 MiB``."""

    def render(self, task: Task) -> Text:
        total = human_size(task.total or 0)
        return Text(f"{human_size(task.completed):>9} of {total:>9}", no_wrap=True)


class BarReport:
    """A bar for each layer that comes in, one for the whole, and a line for each image."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        is_wide = self._console.width >= _WIDE_COLUMNS
        self._name_chars = max(_NAME_MIN_CHARS, self._console.width - (74 if is_wide else 58))
        self._bars = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=24 if is_wide else 8),
            _Sizes(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
            console=self._console,
            transient=True,
        )
        self._speed = Speed()
        self._layers: dict[str, TaskID] = {}
        self._speeds: dict[str, Speed] = {}
        self._whole = self._bars.add_task("waiting for manifests", total=None, note="")
        self._bars.start()

    def show(self, progress: prefetch_job.Progress) -> None:
        """Draw it."""
        job, now = progress.job, time.monotonic()
        self._speed.note(now, job.fetched_bytes)
        for image in progress.images:
            if image.state in _OVER:
                style = "" if image.state is ImageState.DONE else "red"
                self._console.print(image_text(image), style=style, markup=False, soft_wrap=True)
        self._show_layers(progress.images, now)
        over = job.done + job.failed + job.skipped
        self._bars.update(
            self._whole,
            description=f"{over} of {counted(job.images, 'image')}",
            completed=job.done_bytes,
            total=job.total_bytes or None,
            note=self._note(self._speed, self._speed.left(job)),
        )

    def _show_layers(self, images: tuple[ImageProgress, ...], now: float) -> None:
        coming = {layer.digest: (image, layer) for image in images for layer in image.layers}
        for digest in self._layers.keys() - coming.keys():
            self._bars.remove_task(self._layers.pop(digest))
            del self._speeds[digest]
        for digest, (image, layer) in coming.items():
            if digest not in self._layers:
                if len(self._layers) >= _BARS_MAX:
                    continue
                task = self._bars.add_task(
                    self._name(image.image, digest), total=layer.size_bytes, note=""
                )
                self._layers[digest], self._speeds[digest] = task, Speed()
            speed = self._speeds[digest]
            speed.note(now, layer.received_bytes)
            resumed = f"from {human_size(layer.resumed_bytes)} on" if layer.resumed_bytes else ""
            self._bars.update(
                self._layers[digest],
                completed=layer.received_bytes,
                note=self._note(speed, resumed),
            )

    def _name(self, image: str, digest: str) -> str:
        """Return the last part of the name of an image and the first digits of a layer."""
        name = image.rpartition("/")[2].partition("@")[0]
        digits = digest.partition(":")[2][:_DIGITS]
        room = self._name_chars - _DIGITS - 1
        return f"{name if len(name) <= room else name[: room - 1] + '…'} {digits}"

    @staticmethod
    def _note(speed: Speed, more: str) -> str:
        fast = f"{human_size(speed.bytes_per_second)}/s" if speed.bytes_per_second else ""
        return "  ".join(each for each in (fast, more) if each)

    def close(self) -> None:
        """Take the bars away."""
        self._bars.stop()


def report_for(*, is_for_programs: bool) -> Report:
    """Return what suits who looks on."""
    if is_for_programs:
        return SilentReport()
    return BarReport() if sys.stdout.isatty() else LineReport()
