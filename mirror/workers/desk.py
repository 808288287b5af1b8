"""Where one worker's questions are answered, in the main process, by the service floor.

A body stays open here until the worker leaves it or dies, unless the worker was given the
whole of it as a file.
"""

import asyncio
import os
import socket
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import BinaryIO, Final, TypeVar

from mirror.domain.names import parse_reference
from mirror.domain.ranges import Span
from mirror.observe import tracing
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics, Result
from mirror.observe.requests import Recorder
from mirror.observe.traffic import Meter
from mirror.runtime import trail, via
from mirror.runtime.acting import act_as
from mirror.service.ports import BlobSource, Listing, ListSource, ManifestSource, Verifier
from mirror.service.served import Served
from mirror.transfer.bodies import StoredBody
from mirror.transfer.parts import Body, FilePart, ReadyBody
from mirror.workers import messages
from mirror.workers.channel import LOST, Channel
from mirror.workers.messages import Led

KEEP_MAX_SECONDS: Final = 2.0
"""How long a worker hands out what it was told without asking again.

What makes an answer wrong is told to the workers at once; this is how often last uses are
noted, refreshes ahead are begun, and how long a worker that hears nothing may be behind.
"""
_log = get_logger("workers")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Floor:
    """The service floor, and what takes note of what workers tell."""

    manifests: ManifestSource
    blobs: BlobSource
    lists: ListSource
    verifier: Verifier
    recorder: Recorder
    metrics: Metrics
    meter: Meter


@dataclass(slots=True)
class _Open:
    """A body that a worker reads."""

    body: Body
    asker: messages.Asker
    parts: AsyncGenerator[FilePart | bytes, None] | None = None
    file: BinaryIO | None = None
    """The one that the worker has."""


class Desk:
    """Answers one worker until it has gone.

    ``ready`` and ``ended`` are set when that is so.
    """

    def __init__(self, end: socket.socket, floor: Floor, generation: Callable[[], int]) -> None:
        """Begin to answer; *generation* changes whenever an answer may have become wrong."""
        self._floor = floor
        self._generation = generation
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._open: dict[int, _Open] = {}
        self._forgetting: dict[int, asyncio.Event] = {}
        self._counted: defaultdict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
        self.heard = 0
        """How many messages have come."""
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self._channel = Channel(end, self._heard, self._hung_up)

    def tell(self, message: messages.ToWorker) -> None:
        """Send a message."""
        self._channel.send(messages.encode(message))

    async def forget(self, number: int) -> None:
        """Have everything forgotten that is kept in the worker's memory, and wait for that."""
        done = self._forgetting[number] = asyncio.Event()
        try:
            self.tell(messages.Forget(number))
            if not self.ended.is_set():
                await done.wait()
        finally:
            del self._forgetting[number]

    async def close(self) -> None:
        """Hang up and let go of everything."""
        self._channel.close()
        while self._leaving:
            await asyncio.wait(self._leaving)

    # --- hearing -----------------------------------------------------------------------------

    def _heard(self, message: bytes, file: int | None) -> None:
        self.heard += 1
        if file is not None and file != LOST:
            os.close(file)  # a worker has none that we need
        match messages.read_from_worker(message):
            case messages.Report() as report:
                self._note(report)
            case messages.Leave(number):
                self._leave(number)
            case messages.Forgotten(number):
                if number in self._forgetting:
                    self._forgetting[number].set()
            case messages.Ready():
                self.ready.set()
            case question:
                task = asyncio.create_task(self._answered(question))
                self._tasks[question.number] = task
                task.add_done_callback(lambda done: self._done(question.number, done))

    def _done(self, number: int, task: "asyncio.Task[None]") -> None:
        if self._tasks.get(number) is task:
            del self._tasks[number]

    def _note(self, report: messages.Report) -> None:
        for request in report.requests:
            self._floor.recorder.record(request)
        for seconds in report.lags_seconds:
            self._floor.metrics.event_loop_lag.observe(seconds)
        self._count(report.counts)
        self._floor.meter.elsewhere[self] = report.bodies, report.sent_bytes

    def _count(self, counts: dict[str, list[tuple[tuple[str, ...], float]]]) -> None:
        """Add to our metrics what has changed in the worker's."""
        for name, series in counts.items():
            known = self._counted[name]
            for labels, value in series:
                metric = getattr(self._floor.metrics, name).labels(*labels)
                metric.inc(value - known.get(labels, 0))
                known[labels] = value

    def _hung_up(self) -> None:
        for number in {*self._tasks, *self._open}:
            self._leave(number)
        self._floor.meter.elsewhere.pop(self, None)
        self._count({"connections": [(labels, 0) for labels in self._counted["connections"]]})
        self.ended.set()
        for done in self._forgetting.values():
            done.set()

    def _leave(self, number: int) -> None:
        task, opened = self._tasks.pop(number, None), self._open.pop(number, None)
        if task is None and opened is None:
            return
        if task is not None:
            task.cancel()  # at once: what it waits for may be there already, and it would go on
        leaving = asyncio.create_task(self._left(number, task, opened))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _left(
        self, number: int, task: "asyncio.Task[None] | None", opened: _Open | None
    ) -> None:
        """Wait for the end of what was done for a reader, then let go of the body."""
        if task is not None:
            await asyncio.wait([task])
        opened = opened or self._open.pop(number, None)  # it may have been opened after all
        if opened is not None:
            if opened.parts is not None:
                await opened.parts.aclose()
            await opened.body.close()

    # --- answering ---------------------------------------------------------------------------

    async def _answered(self, question: "messages.Question | messages.AskPart") -> None:
        led = trail.begin()
        try:
            if isinstance(question, messages.AskPart):
                await self._part(question)
                return
            _act(question.asker)
            await self._found(question, led)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the worker has to hear of it
            failure = messages.failure_of(question.number, error, _told(led))
            if not failure.kind:
                _log.exception("a worker's question failed unexpectedly")
            self.tell(failure)

    async def _found(self, question: messages.Question, led: trail.Trail) -> None:
        floor = self._floor
        match question:
            case messages.AskManifest():
                await self._manifest(question, led)
            case messages.AskBlob():
                await self._blob(question, led)
            case messages.AskSize(number, _, repository, digest):
                size_bytes, served = await floor.blobs.size_bytes(repository, digest)
                self.tell(messages.FoundSize(number, size_bytes, served, _told(led)))
            case messages.AskTags(number, _, repository, query):
                self._list(number, *await floor.lists.tags(repository, query), led)
            case messages.AskReferrers(number, _, repository, digest, query):
                self._list(number, *await floor.lists.referrers(repository, digest, query), led)
            case messages.AskCatalog(number, _, query, viewer):
                listing = await floor.lists.catalog(query, viewer)
                self._list(number, listing, Served(Result.HIT), led)
            case messages.AskAdmit(number, _, repository, kind, reference, shown):
                named = None if reference is None else parse_reference(reference)
                caller = await floor.verifier.admit(repository, kind, named, shown)
                self.tell(messages.FoundCaller(number, caller, _told(led)))

    async def _manifest(self, question: messages.AskManifest, led: trail.Trail) -> None:
        before = self._generation()
        manifest, served = await self._floor.manifests.resolve(
            question.repository, parse_reference(question.reference)
        )
        found = messages.FoundManifest(
            question.number,
            manifest.digest,
            manifest.media_type,
            manifest.content,
            served,
            self._keep_seconds(served, before),
            _told(led),
        )
        self.tell(found)

    async def _blob(self, question: messages.AskBlob, led: trail.Trail) -> None:
        before = self._generation()
        body, served = await self._floor.blobs.open(question.repository, question.digest)
        content = body.content if isinstance(body, ReadyBody) else None
        file = body.whole_file() if isinstance(body, StoredBody) else None
        found = messages.FoundBlob(
            question.number,
            body.size_bytes,
            content,
            served,
            self._keep_seconds(served, before),
            _told(led),
        )
        if content is None and file is None:
            self._open[question.number] = _Open(body, question.asker)
            self.tell(found)
            return
        try:
            self._channel.send(messages.encode(found), None if file is None else file.fileno())
        finally:
            await body.close()

    def _list(self, number: int, listing: Listing, served: Served, led: trail.Trail) -> None:
        found = messages.FoundList(
            number,
            listing.content,
            listing.media_type,
            listing.next_query,
            listing.filtered,
            served,
            _told(led),
        )
        self.tell(found)

    def _keep_seconds(self, served: Served, before: int) -> float:
        """Return how long an answer is good, if nothing is told to the contrary."""
        if served.result is not Result.HIT or before != self._generation():
            return 0.0
        if served.ttl_seconds is None:
            return KEEP_MAX_SECONDS
        return max(0.0, min(served.ttl_seconds, KEEP_MAX_SECONDS))

    async def _part(self, question: messages.AskPart) -> None:
        opened = self._open[question.number]
        _act(opened.asker)  # it may have to ask upstream for more
        if opened.parts is None:
            span = None if question.span is None else Span(*question.span)
            opened.parts = opened.body.parts(span)
        part = await anext(opened.parts, None)
        if part is None:
            self.tell(messages.End(question.number))
        elif isinstance(part, bytes):
            self.tell(messages.NextBytes(question.number, part))
        else:
            self._file_part(question.number, opened, part)

    def _file_part(self, number: int, opened: _Open, part: FilePart) -> None:
        is_new, opened.file = part.file is not opened.file, part.file
        message = messages.encode(messages.NextFilePart(number, part.start, part.length_bytes))
        self._channel.send(message, part.file.fileno() if is_new else None)


def _told(led: trail.Trail) -> Led:
    return Led(led.endpoint, led.pulls)


def _act(asker: messages.Asker) -> None:
    """Be the request that is asked for, in the context of this task."""
    via.incoming.set(asker.via)
    act_as(asker.caller)
    tracing.join(asker.trace)
