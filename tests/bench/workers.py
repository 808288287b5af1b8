"""What a second process on the port brings: ``server.workers`` 1 beside 2."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from tests.bench import servers
from tests.bench.report import Outcome, Sample
from tests.bench.requests import CONNECTIONS, requests, tool
from tests.bench.servers import MIRROR, Server
from tests.bench.stage import GB, Stage
from tests.e2e import oci

_COUNTS: Final = (1, 2)
_CLIENTS: Final = 6
_SECONDS: Final = 5
_START_SECONDS: Final = 60


def workers(stage: Stage) -> Outcome:
    """Return how fast what is cached is served by one process, and by two workers and a main."""
    with ExitStack() as stack:
        found = {count: stack.enter_context(_started(stage, count)) for count in _COUNTS}

        def measure() -> Sample:
            figures: dict[str, float] = {}
            for count, server in found.items():
                of_one = _measured(stage, server)
                figures |= {f"{count}: {name}": value for name, value in of_one.items()}
            return figures

        what = (
            f"the mirror alone, with 1 and 2 workers; {tool()} with {CONNECTIONS} connections, and "
            f"{_CLIENTS} clients of a blob of {stage.blob.size_bytes / 1e6:.0f} MB"
        )
        return stage.take_turns("workers", what, {MIRROR: measure})


@contextmanager
def _started(stage: Stage, count: int) -> Iterator[Server]:
    """Start a mirror with so many workers, and everything in its cache."""
    more = {"workers": count}
    with servers.mirror(stage.directory(), upstream=stage.origin.url, more=more) as server:
        for blob in (stage.blob, stage.small):
            stage.check(server, blob)
        if count > 1:
            _wait_for_workers(server, count)
        yield server


def _measured(stage: Stage, server: Server) -> Sample:
    found: dict[str, float] = {}
    urls = {"manifest": stage.manifest_url(server), "2 KiB": stage.small.url(server)}
    for what, url in urls.items():
        before = server.cpu_seconds()
        rate, asked = requests(url, oci.MANIFEST, _SECONDS)
        found[f"{what}, requests/s"] = rate
        found[f"{what}, CPU, ms/request"] = 1000 * (server.cpu_seconds() - before) / asked
    before = server.cpu_seconds()
    done = stage.download(stage.blob.url(server), _CLIENTS)
    size = _CLIENTS * stage.blob.size_bytes / GB
    found["blob, GB/s"] = size / done.wall_seconds
    found["blob, CPU, s/GB"] = (server.cpu_seconds() - before) / size
    found["memory, MiB"] = server.rss_bytes() / 2**20
    return found


def _wait_for_workers(server: Server, count: int) -> None:
    """Wait until all workers serve: before, the main process does it in their place."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"{server.admin_url}/metrics") as answer:  # noqa: S310 -- ours
            if f"\nmirror_workers {count:.1f}\n" in answer.read().decode():
                return
        time.sleep(0.1)
    raise TimeoutError(f"no {count} workers after {_START_SECONDS} s")
