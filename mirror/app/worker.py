"""A worker: the registry listener in a process of its own, over the main process's services.

``python -m mirror.app.worker CHANNEL LISTENING``, two descriptors: the main process starts it
so. It holds no state that is worth anything: whatever it loses with its end is asked for again.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from mirror.app.access_control import AccessControl
from mirror.app.listeners import Listener
from mirror.app.tools import Tools
from mirror.domain.manifests import Manifest
from mirror.domain.names import Tag
from mirror.domain.routing import Table
from mirror.observe import logs, tracing
from mirror.observe.health import watch_event_loop
from mirror.observe.metrics import Metrics
from mirror.observe.requests import PastRequest
from mirror.observe.traffic import Meter, Traffic
from mirror.runtime import via
from mirror.runtime.clock import Clock
from mirror.runtime.fingerprints import Fingerprints
from mirror.runtime.pools import Pools
from mirror.runtime.recent import MemoryTier
from mirror.settings.server import Server
from mirror.web.listener import registry_options, registry_runner
from mirror.web.registry import RegistryApi
from mirror.web.sending import Sender
from mirror.workers import messages
from mirror.workers.line import Line, MainGoneError, Told
from mirror.workers.memory import Memory
from mirror.workers.remote import RemoteBlobs, RemoteLists, RemoteManifests, RemoteVerifier
from mirror.workers.waiting import first

_REPORT_EVERY_SECONDS: Final = 0.25
_REPORT_AT_ONCE: Final = 256
_log = logs.get_logger("workers")


class Reporter:
    """Collects what the main process has to know of requests, and tells it in batches."""

    def __init__(self, line: Line, meter: Meter, metrics: Metrics, at_once: int) -> None:
        self._line = line
        self._metrics = metrics
        self._meter = meter
        self._at_once = at_once
        self._requests: list[PastRequest] = []
        self._lags_seconds: list[float] = []

    def record(self, request: PastRequest) -> None:
        """Note a request."""
        self._requests.append(request)
        if len(self._requests) >= self._at_once:
            self.flush()

    def lag(self, seconds: float) -> None:
        """Note how late the event loop was."""
        self._lags_seconds.append(seconds)

    def flush(self) -> None:
        """Tell what there is."""
        if self._requests or self._lags_seconds:
            bodies, sent_bytes = self._meter.bodies, self._meter.sent_bytes
            counts = {name: _series(getattr(self._metrics, name)) for name in messages.COUNTED}
            report = messages.Report(self._requests, self._lags_seconds, bodies, sent_bytes, counts)
            self._line.tell(report)
            self._requests, self._lags_seconds = [], []

    async def run(self) -> None:
        """Tell it every moment, for ever."""
        while True:
            await asyncio.sleep(_REPORT_EVERY_SECONDS)
            self.flush()


def _series(metric: Collector) -> list[tuple[tuple[str, ...], float]]:
    return [
        (tuple(sample.labels.values()), sample.value)
        for family in metric.collect()
        for sample in family.samples
    ]


class View:
    """What a worker knows of the configuration."""

    def __init__(self, told: messages.Configure) -> None:
        self.told = told
        self.table = Table(told.names, told.hosts, told.default)
        self.server = Server.model_validate(told.server)

    def waits(self, upstream: str) -> bool:
        """Return whether clients are told to wait when an upstream limits our rate."""
        return upstream in self.told.waits


class Worker:
    """Serves clients until it is told to stop."""

    def __init__(
        self,
        end: socket.socket,
        listening: socket.socket,
        clock: Clock,
        *,
        owns_process: bool,
        report_at_once: int = _REPORT_AT_ONCE,
        gone: Callable[[], None] = lambda: None,
    ) -> None:
        """Set up.

        Args:
            end: One end of the pair that leads to the main process.
            listening: Where clients come.
            clock: The time.
            owns_process: The log and the name in ``Via`` are this worker's to set.
            report_at_once: So many requests are told of without waiting for more.
            gone: Called at once when the main process has ended.
        """
        self._listening = listening
        self._owns_process = owns_process
        self._gone = gone
        self._clock = clock
        self._configured = asyncio.Event()
        self._drain = asyncio.Event()
        self._line = Line(end, self._told)
        self._pools = Pools()
        self._metrics = Metrics(CollectorRegistry())
        self._meter = Meter()
        self._reporter = Reporter(self._line, self._meter, self._metrics, report_at_once)
        self._access: AccessControl | None = None
        self._view: View | None = None
        self._api: RegistryApi | None = None
        self._manifests: Memory[Manifest] = Memory(0, clock.monotonic)
        self._blobs: Memory[bytes] = Memory(0, clock.monotonic)

    async def run(self) -> None:
        """Serve; returns when it was told to stop and the last client has its answer.

        Raises:
            MainGoneError: the main process has ended, so nothing can be answered any more.
        """
        try:
            await self._until(self._configured)
            async with asyncio.TaskGroup() as background:
                works = (self._reporter.run(), watch_event_loop(self._reporter.lag))
                tasks = [background.create_task(work) for work in works]
                try:
                    await self._serve()
                finally:
                    for task in tasks:
                        task.cancel()
        except* MainGoneError as gone:
            raise MainGoneError from gone
        finally:
            if self._access is not None:
                await self._access.close()
            self._reporter.flush()
            self._line.close()
            self._pools.close()

    async def _serve(self) -> None:
        view = self._known
        self._api = self._built(view)
        async with AsyncExitStack() as stack:
            listener = Listener("registry", view.server.limits, self._metrics)
            listener.secure(view.server.tls, "server.tls", self._pools.admin)
            runner = registry_runner(self._api, view.server)
            options = registry_options(self._api, self._reporter)
            await listener.serve(stack, runner, self._listening, **options)
            self._line.tell(messages.Ready())
            await self._until(self._drain)

    def _built(self, view: View) -> RegistryApi:
        limit_bytes, monotonic = view.told.memory_bytes // 2, self._clock.monotonic
        self._manifests = Memory(limit_bytes, monotonic)
        self._blobs = Memory(limit_bytes, monotonic)
        tier = MemoryTier(view.told.memory_bytes)
        traffic = Traffic(self._metrics, self._clock, self._meter)
        tools = Tools(self._pools, tier, self._metrics, traffic, self._clock)
        verifier = RemoteVerifier(self._line, lambda: self._known.told.verifying)
        self._access = AccessControl(view, tools, verifier, Fingerprints(view.told.key))
        return RegistryApi(
            table=lambda: self._known.table,
            manifests=RemoteManifests(self._line, self._manifests),
            blobs=RemoteBlobs(self._line, self._blobs),
            lists=RemoteLists(self._line),
            sender=Sender(self._pools, view.server.limits.send_stall_seconds, self._meter),
            policies=self,
            guard=self._access.guard,
            catalog=view.server.catalog,
            body_seconds=view.server.limits.head_seconds,
        )

    @property
    def _known(self) -> View:
        if self._view is None:
            raise RuntimeError("a worker is asked before it is configured")
        return self._view

    def waits(self, upstream: str) -> bool:
        """Return whether clients are told to wait when an upstream limits our rate."""
        return self._known.waits(upstream)

    async def _until(self, event: asyncio.Event) -> None:
        await first(event, self._line.ended)
        if not event.is_set():
            self._gone()
            raise MainGoneError

    # --- hearing -----------------------------------------------------------------------------

    def _told(self, message: Told) -> None:
        match message:
            case messages.Configure():
                self._configure(message)
            case messages.Forget(number, repository, tag):
                if repository is None:
                    self._manifests.forget()
                    self._blobs.forget()
                elif repository.upstream in self._known.told.verifying:
                    self._manifests.forget()  # each caller has an entry of its own
                else:
                    self._manifests.forget((repository, Tag(tag), None))
                if number:
                    self._line.tell(messages.Forgotten(number))
            case messages.Drain():
                self._drain.set()

    def _configure(self, told: messages.Configure) -> None:
        try:
            view = View(told)
        except ValueError as error:  # a file that was there a moment ago is not
            _log.error("a worker cannot use the configuration", problems=str(error))
            if self._view is None:
                self._line.close()  # it is started again
            return
        self._follow(view)

    def _follow(self, view: View) -> None:
        """Go over to a configuration."""
        self._view = view
        self._manifests.forget()
        self._blobs.forget()
        if self._api is not None:
            self._api.catalog_is_open = view.server.catalog
        if self._access is not None:
            self._access.reload(view)
        if self._owns_process:
            via.join(view.told.instance)
            logs.configure(view.told.log_format, view.told.log_level)
        self._configured.set()


def main(arguments: list[str]) -> int:
    """Serve until the main process says that it is enough, or has gone.

    Signals to stop are the main process's to answer: it drains its workers. If it dies, the
    channel ends, and so does this process.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end, listening = (socket.socket(fileno=int(each)) for each in arguments)
    tracing.configure(reports=False)
    try:
        asyncio.run(_run(end, listening))
    finally:
        tracing.close()
    return 0


async def _run(end: socket.socket, listening: socket.socket) -> None:
    # Without the main process nothing can be finished: whoever still reads has to come again.
    await Worker(end, listening, Clock(), owns_process=True, gone=lambda: os._exit(1)).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
