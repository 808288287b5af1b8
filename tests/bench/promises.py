"""What was promised of speed, and whether it was kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tests.bench.servers import MIRROR, NGINX, REGISTRY

Medians = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Of scenario, server and figure."""


@dataclass(frozen=True)
class Promise:
    """One line: a figure of ours in a scenario, beside another server's or by itself."""

    what: str
    must: str
    aim: str
    scenario: str
    figure: str
    must_be: Callable[[float, Callable[[str], float]], bool]
    aim_is: Callable[[float, Callable[[str], float]], bool]


def _at_least(share: float, server: str) -> Callable[[float, Callable[[str], float]], bool]:
    return lambda ours, theirs: ours >= share * theirs(server)


def _at_most(share: float, server: str) -> Callable[[float, Callable[[str], float]], bool]:
    return lambda ours, theirs: ours <= share * theirs(server)


def _below(limit: float) -> Callable[[float, Callable[[str], float]], bool]:
    return lambda ours, _: ours <= limit


_GBS: Final = "throughput, GB/s"
_CPU: Final = "server CPU, s/GB"
_WALL: Final = "wall time, s"
_RATE: Final = "requests/s"

PROMISES: Final = (
    Promise(
        "cached blob, 6 clients: throughput",
        "≥ 1.1 × docker-registry",
        "≥ 0.95 × nginx",
        "cached-blob",
        _GBS,
        _at_least(1.1, REGISTRY),
        _at_least(0.95, NGINX),
    ),
    Promise(
        "… CPU per GB",
        "≤ 0.6 × docker-registry",
        "≤ 1.2 × nginx",
        "cached-blob",
        _CPU,
        _at_most(0.6, REGISTRY),
        _at_most(1.2, NGINX),
    ),
    Promise(
        "… over TLS",
        "≥ 1.0 × docker-registry",
        "≥ 0.9 × nginx",
        "cached-blob-tls",
        _GBS,
        _at_least(1.0, REGISTRY),
        _at_least(0.9, NGINX),
    ),
    Promise(
        "cached manifest by digest, 32 connections",
        "≥ 6 × docker-registry",
        "≥ 0.4 × nginx",
        "cached-manifest",
        _RATE,
        _at_least(6, REGISTRY),
        _at_least(0.4, NGINX),
    ),
    Promise(
        "small cached blob (2 KiB)",
        "≥ 3 × docker-registry",
        "≥ 0.3 × nginx",
        "cached-config",
        _RATE,
        _at_least(3, REGISTRY),
        _at_least(0.3, NGINX),
    ),
    Promise(
        "cold blob, 1 client: wall time",
        "≤ 1.1 × docker-registry",
        "≤ 0.9 × docker-registry and ≤ nginx",
        "cold-blob",
        _WALL,
        _at_most(1.1, REGISTRY),
        lambda ours, theirs: ours <= 0.9 * theirs(REGISTRY) and ours <= theirs(NGINX),
    ),
    Promise(
        "… CPU per GB",
        "≤ 0.8 × docker-registry",
        "≤ 0.5 × docker-registry",
        "cold-blob",
        _CPU,
        _at_most(0.8, REGISTRY),
        _at_most(0.5, REGISTRY),
    ),
    Promise(
        "cold blob, 32 clients: upstream bytes",
        "1.00 × the blob",
        "1.00 × the blob",
        "cold-herd",
        "upstream bytes ÷ size",
        _below(1.005),
        _below(1.005),
    ),
    Promise(
        "… wall time",
        "≤ 0.8 × docker-registry",
        "≤ nginx",
        "cold-herd",
        _WALL,
        _at_most(0.8, REGISTRY),
        _at_most(1.0, NGINX),
    ),
    Promise(
        "time inside one event-loop callback, 99th percentile",
        "≤ 20 ms",
        "≤ 10 ms",
        "lag",
        "one callback, 99th percentile, ms",
        _below(20),
        _below(10),
    ),
    Promise(
        "memory, one process",
        "≤ 80 MiB",
        "≤ 60 MiB",
        "workers",
        "1: memory, MiB",
        _below(80),
        _below(60),
    ),
    Promise(
        "memory, 1000 open downloads",
        "≤ 250 MiB",
        "≤ 150 MiB",
        "slow-readers",
        "memory with all of them, MiB",
        _below(250),
        _below(150),
    ),
)


def first_byte_penalty_ms(medians: Medians) -> float | None:
    """Return how much later the median client of a herd gets its first byte than one alone."""
    figure = "first byte, median, ms"
    try:
        return medians["cold-herd"][MIRROR][figure] - medians["cold-blob"][MIRROR][figure]
    except KeyError:
        return None


def verdicts(medians: Medians) -> list[tuple[str, str, str, str]]:
    """Return what was promised, what was measured, and how the two compare."""
    found = []
    for promise in PROMISES:
        of_all = medians.get(promise.scenario)
        if of_all is None:
            continue
        ours = of_all[MIRROR][promise.figure]

        def theirs(server: str, of_all: Mapping[str, Mapping[str, float]] = of_all) -> float:
            return of_all[server][promise.figure]  # noqa: B023 -- used within this turn only

        beside = ", ".join(
            f"{ours / theirs(server):.2f} × {server}"
            for server in (REGISTRY, NGINX)
            if server in of_all and theirs(server)
        )
        kept = _word(promise, ours, theirs)
        measured = f"{ours:.3g} ({beside})" if beside else f"{ours:.3g}"
        found.append((promise.what, f"{promise.must}; {promise.aim}", measured, kept))
    penalty_ms = first_byte_penalty_ms(medians)
    if penalty_ms is not None:
        kept = (
            "both kept" if penalty_ms <= 50 else "must kept" if penalty_ms <= 150 else "**missed**"
        )
        row = ("… first byte, median, more than one client's", "≤ 150 ms; ≤ 50 ms")
        found.append((*row, f"{penalty_ms:.0f} ms", kept))
    return found


def _word(promise: Promise, ours: float, theirs: Callable[[str], float]) -> str:
    try:
        must, aim = promise.must_be(ours, theirs), promise.aim_is(ours, theirs)
    except KeyError:
        return "not compared"  # one of them was not there
    return {
        (True, True): "both kept",
        (True, False): "must kept",
        (False, True): "**must missed**, aim kept",
        (False, False): "**missed**",
    }[must, aim]
