"""What the kernel and the mirror say of a mirror process."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.e2e.mirror_process import Mirror

_MIB: Final = 1 << 20
_RSS = re.compile(r"VmRSS:\s+(\d+) kB")
_THREADS = re.compile(r"Threads:\s+(\d+)")


@dataclass(frozen=True)
class Vitals:
    """One sample, so many seconds after the start."""

    seconds: float
    operations: int
    rss_bytes: int
    descriptors: int
    threads: int
    cache_bytes: int
    fills: int
    readers: int

    def line(self) -> str:
        """Return a line of the table."""
        return (
            f"{self.seconds:8.0f} {self.operations:10d} {self.rss_bytes / _MIB:9.1f}"
            f" {self.descriptors:11d} {self.threads:7d} {self.cache_bytes / _MIB:9.1f}"
            f" {self.fills:5d} {self.readers:7d}"
        )


HEADING: Final = " seconds operations   RSS MiB descriptors threads cache MiB fills readers"


def sample(mirror: Mirror, seconds: float, operations: int) -> Vitals:
    """Ask now."""
    process = Path(f"/proc/{mirror.pid}")
    status = (process / "status").read_text(encoding="ascii")
    rss, threads = _RSS.search(status), _THREADS.search(status)
    assert rss is not None
    assert threads is not None
    return Vitals(
        seconds=seconds,
        operations=operations,
        rss_bytes=int(rss[1]) * 1024,
        descriptors=len(os.listdir(process / "fd")),  # noqa: PTH208 -- links to sockets
        threads=int(threads[1]),
        cache_bytes=int(mirror.metric("mirror_cache_bytes")),
        fills=int(mirror.metric("mirror_fills_in_progress")),
        readers=int(mirror.metric("mirror_fill_readers")),
    )


def growth_bytes(samples: Sequence[Vitals]) -> float:
    """Return how much memory grew from the second fifth of a run to the last; medians."""
    fifth = max(1, len(samples) // 5)
    early, late = samples[fifth : 2 * fifth], samples[-fifth:]
    if not early or not late:
        return 0.0
    return statistics.median(one.rss_bytes for one in late) - statistics.median(
        one.rss_bytes for one in early
    )
