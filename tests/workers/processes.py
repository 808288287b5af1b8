"""A mirror with workers as it is run: a configuration file, a process, and its workers."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from yarl import URL

from mirror.web.admin_access import CSRF_HEADER
from tests.e2e.daemon import free_port
from tests.fakes.clients import RawClient, compose
from tests.harness import PATIENCE, Got

PROJECT = Path(__file__).parents[2]


class MirrorProcess:
    """A running mirror; each request of ``get`` has a connection of its own."""

    def __init__(
        self, work: Path, settings: Mapping[str, Any], session: aiohttp.ClientSession
    ) -> None:
        self._work = work
        self._session = session
        self._process: asyncio.subprocess.Process | None = None
        self.settings = dict(settings)
        self.config = work / "mirror.yaml"
        self.port = int(settings["server"]["listen"].rpartition(":")[2])
        self.url = f"http://{settings['server']['listen']}"
        self.admin_url = f"http://{settings['server']['admin_listen']}"
        self.directory = Path(settings["cache"]["directory"])

    async def start(self) -> None:
        """Start, and wait until all workers serve."""
        self.write()
        with (self._work / "mirror.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "mirror", "serve", "--config", str(self.config)),
                cwd=PROJECT,
                stdout=log,
                stderr=log,
            )
        await self.until(self._is_up)

    def write(self) -> None:
        """Write the configuration."""
        self.config.write_text(yaml.safe_dump(self.settings), encoding="utf-8")

    async def _is_up(self) -> bool:
        if self._process is not None and self._process.returncode is not None:
            raise AssertionError(self.log_text())
        try:
            return await self.metric("mirror_workers") == int(self.settings["server"]["workers"])
        except aiohttp.ClientError:
            return False

    @property
    def pid(self) -> int:
        """The main process."""
        assert self._process is not None
        return self._process.pid

    def workers(self) -> list[int]:
        """Return the processes that the main process has started."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(each) for each in children.read_text(encoding="ascii").split()]

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Got:
        """GET a path; raises aiohttp.ClientPayloadError if the body is cut short."""
        return await self.request("GET", path, headers)

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None
    ) -> Got:
        url = URL(self.url + path, encoded=True)
        async with self._session.request(method, url, headers=headers) as response:
            return Got(response.status, response.headers, await response.read())

    async def admin(self, method: str, path: str, body: object = None) -> bytes:
        """Ask the admin API; what it refuses fails the test."""
        headers, url = {CSRF_HEADER: "1"}, self.admin_url + path
        async with self._session.request(method, url, headers=headers, json=body) as response:
            body = await response.read()
            assert response.status == 200, body
            return body

    async def past(self) -> list[dict[str, Any]]:
        """Return the last requests, as ``mirror explain`` shows them."""
        text = await self.admin("GET", "/api/v1/requests")
        return list(json.loads(text)["requests"])

    async def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric over all series that have these labels."""
        text = (await self.admin("GET", "/metrics")).decode()
        sample = re.compile(rf"^{name}(?:{{(.*)}})? ([0-9.e+]+)$", re.MULTILINE)
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        return sum(
            float(value)
            for series, value in sample.findall(text)
            if wanted <= set((series or "").split(","))
        )

    async def until(self, happened: Callable[[], Any], seconds: float = 90) -> None:
        """Wait until a condition holds, which may be awaited."""
        async with asyncio.timeout(seconds):
            while True:
                answer = happened()
                if await answer if asyncio.iscoroutine(answer) else answer:
                    return
                await asyncio.sleep(0.02)

    async def stop(self) -> int:
        """Stop by SIGTERM; returns the exit code."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            return await self._process.wait()

    def kill(self) -> None:
        """End the main process, and only it, without a warning."""
        os.kill(self.pid, signal.SIGKILL)

    def log_text(self) -> str:
        return (self._work / "mirror.log").read_text(encoding="utf-8")

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_text().splitlines() if line.startswith("{")]

    async def discard(self) -> None:
        """End whatever is still there."""
        if self._process is not None and self._process.returncode is None:
            await self.stop()


@asynccontextmanager
async def mirror_process(
    work: Path,
    upstream: Mapping[str, Any],
    *,
    workers: int = 4,
    server: Mapping[str, Any] | None = None,
    **more: Any,  # noqa: ANN401 -- YAML is anything
) -> AsyncIterator[MirrorProcess]:
    """Run a mirror of docker.io with workers."""
    port, admin_port = (free_port() for _ in range(2))
    settings = {
        "server": {
            "listen": f"127.0.0.1:{port}",
            "admin_listen": f"127.0.0.1:{admin_port}",
            "shutdown_grace": "5s",
            "workers": workers,
            **(server or {}),
        },
        "cache": {"directory": str(work / "cache"), "max_size": "1GiB", "min_free": "0B"},
        "builtin_upstreams": False,
        "default_upstream": "docker.io",
        "upstreams": {"docker.io": upstream},
        "policy": {"timeouts": {"response": "5s", "revalidate": "500ms", "idle": "5s"}},
        "log": {"format": "json", "level": "info"},
        **more,
    }
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=PATIENCE, auto_decompress=False
    ) as session:
        mirror = MirrorProcess(work, settings, session)
        try:
            await mirror.start()
            yield mirror
        finally:
            await mirror.discard()


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def clients_of_each(mirror: MirrorProcess) -> dict[int, RawClient]:
    """Return a connection to each worker, which the caller closes."""
    found: dict[int, RawClient] = {}
    workers = mirror.workers()
    async with asyncio.timeout(60):
        while len(found) < len(workers):
            client = await RawClient.connect("127.0.0.1", mirror.port)
            await client.send(compose("/v2/", host="localhost"))
            assert (await client.answer()).status == 200
            pid = _who_has(client.local_port, mirror.port, workers)
            if pid is None or pid in found:
                client.close()
            else:
                found[pid] = client
    return found


def _who_has(client_port: int, port: int, workers: list[int]) -> int | None:
    """Return the worker that has the other end of a connection."""
    ours, theirs = f"0100007F:{port:04X}", f"0100007F:{client_port:04X}"
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if fields[1] == ours and fields[2] == theirs:
            wanted = f"socket:[{fields[9]}]"
            return next((pid for pid in workers if wanted in _open_files(pid)), None)
    return None


def _open_files(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(entry.readlink()))
    return found
