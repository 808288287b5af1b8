"""A whole mirror in the test's own event loop, on real loopback sockets."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
from multidict import CIMultiDictProxy
from yarl import URL

from mirror.app import Running, running
from mirror.app.worker import Worker
from mirror.domain.names import Digest, Repository
from mirror.runtime.clock import Clock
from mirror.settings import Cache, Fill, ListenAddress, Policy, Server, Settings, Timeouts, Upstream
from mirror.settings.units import SizeOrShare
from tests.fakes.clients import RawAnswer
from tests.fakes.clients import get as raw_get
from tests.fakes.clock import FakeClock
from tests.fakes.content import Image
from tests.fakes.origin import Origin

ANY_PORT = ListenAddress("127.0.0.1", 0)
LOOPBACK = ("127.0.0.0/8",)
"""Where the CDNs of the tests are: a private network, which an operator must name."""
QUICK = Timeouts(connect_seconds=2, response_seconds=3, revalidate_seconds=0.3, idle_seconds=1)
PATIENCE = aiohttp.ClientTimeout(total=20)
MIB = 1 << 20
WORKERS = int(os.environ.get("MIRROR_TEST_WORKERS", "1"))
"""All mirrors of the tests have so many: ``make test-workers`` runs them with four."""
in_one_process = pytest.mark.skipif(
    WORKERS > 1, reason="looks into what answers clients, which is elsewhere with workers"
)
T = TypeVar("T")


class ForbiddenExecutor(ThreadPoolExecutor):
    """asyncio's default executor in all tests: whoever uses it fails (invariant 14)."""

    def submit(self, *args: object, **kwargs: object) -> Future[Any]:
        raise AssertionError(f"the default executor is used: {args}")


@dataclass(frozen=True, slots=True)
class Got:
    """An answer, read to its end."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def error_code(self) -> str:
        """The code of an OCI error body."""
        return str(json.loads(self.body)["errors"][0]["code"])

    @property
    def cache_status(self) -> str:
        return self.headers["Cache-Status"]


class Mirror:
    """A running mirror and a client of it."""

    def __init__(self, up: Running, directory: Path, session: aiohttp.ClientSession) -> None:
        self.up = up
        self.directory = directory
        self.session = session
        self.host = "127.0.0.1"
        self.port = up.listen.port
        self.url = f"http://{self.host}:{self.port}"
        self.admin_url = f"http://{self.host}:{up.admin_listen.port}"

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Got:
        """GET a path as it is; raises aiohttp.ClientPayloadError if the body is cut short."""
        return await self.request("GET", path, headers)

    async def head(self, path: str, headers: Mapping[str, str] | None = None) -> Got:
        return await self.request("HEAD", path, headers)

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None
    ) -> Got:
        async with self.session.request(
            method, URL(self.url + path, encoded=True), headers=headers
        ) as response:
            return Got(response.status, response.headers, await response.read())

    async def raw(self, path: str, headers: list[tuple[str, str]] | None = None) -> RawAnswer:
        """GET over a socket of one's own: tells FIN from RST, and sends any path."""
        return await raw_get(self.host, self.port, path, headers or [])

    async def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric; 0 where there is none."""
        await self._heard()
        value = self.up.metrics.registry.get_sample_value(name, labels)
        return 0.0 if value is None else value

    async def total(self, name: str, **labels: str) -> float:
        """Return the sum over all series of a metric that have these labels."""
        await self._heard()
        return sum(
            sample.value
            for family in self.up.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def _heard(self) -> None:
        """Let come what workers have told: the socket to them is read in the next turns."""
        for _ in range(4 if self.up.team else 0):
            await asyncio.sleep(0)

    async def becomes(self, name: str, value: float, **labels: str) -> None:
        """Wait until a metric has a value."""
        async with asyncio.timeout(10):
            while True:
                if await self.metric(name, **labels) == value:
                    return
                await asyncio.sleep(0.001)  # spinning would keep the GIL from the threads

    def stored(self, digest: str) -> Path:
        """Return where an object stands if it is stored."""
        algorithm, _, hex_digits = digest.partition(":")
        return self.directory / "blobs" / algorithm / hex_digits[:2] / hex_digits

    async def pull_blobs(self, repository: str, pulled: Image) -> None:
        """Bring the rest of an image, so that it is whole here (invariant 17)."""
        for each in pulled.blobs:
            await self.get(f"/v2/{repository}/blobs/{each.digest}")
        await self.settled()

    async def settled(self) -> None:
        """Wait until no fill is running."""
        await self.up.fills.idle()


def settings(
    directory: Path,
    upstreams: Mapping[str, Origin | str | Upstream],
    **more: Any,  # noqa: ANN401 -- fields of Settings, which checks them
) -> Settings:
    """Return settings for tests: quick time limits, only these upstreams.

    ``policy``, ``cache``, ``fill``, ``server`` take the settings of that name (or a mapping of
    fields of ``cache``); everything else is a field of ``Settings``.
    """
    return Settings(
        server=_server(more.pop("server", None)),
        cache=Cache(
            **{
                "directory": directory,
                "max_size": SizeOrShare(size_bytes=512 * MIB),
                "min_free": SizeOrShare(size_bytes=0),
                **more.pop("cache", {}),
            }
        ),
        fill=more.pop("fill", Fill()),
        policy=more.pop("policy", Policy(timeouts=QUICK)),
        builtin_upstreams=False,
        upstreams={name: _upstream(given) for name, given in upstreams.items()},
        default_upstream=more.pop("default_upstream", next(iter(upstreams))),
        **more,
    )


def _server(given: Server | None) -> Server:
    server = given or Server(listen=ANY_PORT, admin_listen=ANY_PORT, shutdown_grace_seconds=1)
    return server.model_copy(update={"workers": WORKERS}) if WORKERS > 1 else server


def _upstream(given: Origin | str | Upstream) -> Upstream:
    if isinstance(given, Upstream):
        return given
    url = given if isinstance(given, str) else given.url
    return Upstream(endpoints=(url,), redirects=LOOPBACK)


@asynccontextmanager
async def mirror_of(
    directory: Path,
    upstreams: Mapping[str, Origin | str | Upstream],
    *,
    clock: FakeClock | None = None,
    **more: Any,  # noqa: ANN401 -- as in settings()
) -> AsyncIterator[Mirror]:
    """Run a mirror of some upstreams."""
    clocks = None if clock is None else Clock(wall=clock, monotonic=clock)
    spawn = InLoop(clocks or Clock())
    async with (
        running(settings(directory, upstreams, **more), clocks, spawn=spawn) as up,
        aiohttp.ClientSession(timeout=PATIENCE, auto_decompress=False) as session,
    ):
        if up.team is not None:
            await up.team.all_ready()
        yield Mirror(up, directory, session)


class InLoop:
    """Runs workers as tasks of the test's own loop: all but the process is as it is."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def __call__(self, end: socket.socket, listening: socket.socket) -> "WorkerTask":
        worker = Worker(
            end.dup(), listening.dup(), self._clock, owns_process=False, report_at_once=1
        )
        return WorkerTask(worker)


class WorkerTask:
    """A worker in the test's own loop."""

    def __init__(self, worker: Worker) -> None:
        self._task = asyncio.create_task(worker.run())

    async def wait(self) -> int:
        await asyncio.wait([self._task])
        if self._task.cancelled():
            return -9
        return 0 if self._task.exception() is None else 1

    def kill(self) -> None:
        self._task.cancel()


async def gathered(count: int, one: Callable[[], Awaitable[T]]) -> list[T]:
    """Run *one* so many times at once."""
    return list(await asyncio.gather(*(one() for _ in range(count))))


def repository(name: str = "library/alpine", upstream: str = "docker.io") -> Repository:
    return Repository(upstream, name)


def parse(digest: str) -> Digest:
    return Digest.parse(digest)
