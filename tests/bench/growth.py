"""How cost grows: with readers, with requests, with objects. It must be a line, not a curve."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Final

from tests.bench import servers
from tests.bench.objects import look_up_seconds
from tests.bench.report import Outcome, Sample
from tests.bench.requests import ask_times
from tests.bench.servers import MIRROR, Server
from tests.bench.stage import Stage
from tests.e2e import oci

_READERS: Final = (1, 4, 16, 64, 256)
_REQUESTS: Final = (1_000, 10_000, 100_000)
_OBJECTS: Final = (1_000, 10_000, 100_000)
"""A million has a benchmark of its own (``tests.bench.objects``)."""


def growth(stage: Stage) -> Outcome:
    """Return costs at several sizes, and the exponent of each: 1 is a line."""
    figures: dict[str, float] = {}
    with servers.mirror(stage.directory(), upstream=stage.origin.url) as server:
        figures |= _by_readers(stage, server)
        figures |= _by_requests(stage, server)
    figures |= _by_objects()
    return Outcome("growth", "the mirror alone; an exponent of 1 is a line", {MIRROR: [figures]})


def _by_readers(stage: Stage, server: Server) -> Sample:
    """Return time and memory for so many readers of one blob, each of its own connection."""
    blob = stage.many[0]
    stage.check(server, blob)
    found: dict[str, float] = {}
    times: list[float] = []
    for readers in _READERS:
        before = server.cpu_seconds()
        rounds = max(1, 1024 // readers)
        for _ in range(rounds):
            stage.download(blob.url(server), readers)
        cpu_seconds = (server.cpu_seconds() - before) / rounds
        times.append(cpu_seconds)
        found[f"{readers} readers: CPU, ms"] = 1000 * cpu_seconds
        found[f"{readers} readers: memory, MiB"] = server.rss_bytes() / 2**20
    found["readers: CPU, exponent"] = exponent(_READERS, times)
    return found


def _by_requests(stage: Stage, server: Server) -> Sample:
    found: dict[str, float] = {}
    times: list[float] = []
    for number in _REQUESTS:
        before = server.cpu_seconds()
        ask_times(stage.manifest_url(server), oci.MANIFEST, number)
        times.append(server.cpu_seconds() - before)
        found[f"{number:,} requests: CPU, s"] = times[-1]
        found[f"{number:,} requests: memory, MiB"] = server.rss_bytes() / 2**20
    found["requests: CPU, exponent"] = exponent(_REQUESTS, times)
    return found


def _by_objects() -> Sample:
    found: dict[str, float] = {}
    times: list[float] = []
    for number in _OBJECTS:
        times.append(look_up_seconds(number))
        found[f"{number:,} objects: look-up, median, µs"] = 1e6 * times[-1]
    found["objects: look-up, exponent"] = exponent(_OBJECTS, times)
    return found


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """Return the slope of the best line through the logarithms: cost grows as size to this."""
    points = [(log(size), log(max(cost, 1e-9))) for size, cost in zip(sizes, costs, strict=True)]
    mean_x, mean_y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    above = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return float(above / sum((x - mean_x) ** 2 for x, _ in points))
