"""Mixed load with faults for as long as you like; says what grew, and fails if it should not.

Clients pull, read ranges, come in crowds and leave early; upstream cuts bodies, stalls, resets
and refuses; tags move; the cache has room for a part of it all only.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.crash.directory import Directory, Watch
from tests.crash.facts import Facts
from tests.crash.operations import Operations
from tests.crash.world import Upstream, build
from tests.e2e.mirror_process import Mirror
from tests.fakes import faults
from tests.fakes.wire import Kind
from tests.soak.vitals import HEADING, Vitals, growth_bytes, sample

_WORKERS: Final = 8
_IMAGES: Final = 8
_LIMIT_SHARE: Final = 0.4
_UNITS: Final = {"s": 1, "m": 60, "h": 3600}
_ROWS: Final = 20
_WARM_UP_SHARE: Final = 0.1
_REST_SECONDS: Final = 30
_GROWTH_MAX_BYTES: Final = 24 << 20
_DESCRIPTORS_MORE: Final = 8
_BROKEN_MAX_SHARE: Final = 0.002
"""Bodies that ended early: several faults in a row can use up the tries of a download."""
_REFUSED_MAX_SHARE: Final = 0.1
"""Requests that upstream left without an answer, and the mirror answered with an error."""


class Soak:
    """One mirror under load."""

    def __init__(self, work: Path, seed: int) -> None:
        self._dice = random.Random(seed)
        world = build(self._dice, _IMAGES)
        self.upstream = Upstream(world)
        self.mirror = Mirror(work, {"docker.io": {"endpoints": [self.upstream.url]}})
        self.directory = Directory(self.mirror.cache)
        self.facts = Facts(world, self.directory)
        self.limit_bytes = int(world.size_bytes * _LIMIT_SHARE)
        self.mirror.configure(
            cache={
                "directory": str(self.mirror.cache),
                "max_size": self.limit_bytes,
                "min_free": "0B",
            },
            policy={"tag_ttl": "1s", "timeouts": {"idle": "1s", "connect": "1s"}},
        )
        self.mirror.start()
        self.watch = Watch(self.directory, limit_bytes=self.limit_bytes)
        self.samples: list[Vitals] = []
        self._started = time.monotonic()
        self._seed = seed

    def close(self) -> None:
        """Stop everything."""
        self.watch.close()
        self.mirror.stop()
        self.upstream.close()

    def load(self, seconds: float, every_seconds: float) -> None:
        """Keep the clients busy so long, and take samples."""
        end = time.monotonic() + seconds
        with self._clients():
            while (left := end - time.monotonic()) > 0:
                time.sleep(min(left, every_seconds))
                self._misbehave()
                self.upstream.registry.clear()
                self.samples.append(self._sample())
        self.upstream.registry.heal()

    def rest(self) -> Vitals:
        """Let what is under way come to its end; returns how it is then."""
        deadline = time.monotonic() + _REST_SECONDS
        while True:
            now = self._sample()
            settled = not now.fills and not now.readers
            if (settled and self._is_accounted_for()) or time.monotonic() > deadline:
                return now
            time.sleep(0.5)

    def _sample(self) -> Vitals:
        operations = self.facts.figures.operations
        return sample(self.mirror, time.monotonic() - self._started, operations)

    def _is_accounted_for(self) -> bool:
        return self.mirror.metric("mirror_cache_bytes") == self.directory.used_bytes()

    def _misbehave(self) -> None:
        """Choose the faults of the next while."""
        registry, dice = self.upstream.registry, self._dice
        registry.heal()
        at_bytes = dice.randrange(1, 2_000_000)
        kinds = (
            faults.cut(at_bytes),
            faults.cut(at_bytes, rst=True),
            faults.hang_in_body(at_bytes),
            faults.no_answer(),
            faults.status(503),
        )
        for fault in dice.sample(kinds, 2):
            registry.fail(fault, kind=Kind.BLOB, method="GET", times=3, skip=dice.randrange(5))

    @contextmanager
    def _clients(self) -> Iterator[None]:
        end = threading.Event()
        threads = [
            threading.Thread(target=self._work, args=(end, number)) for number in range(_WORKERS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            end.set()
            for thread in threads:
                thread.join()

    def _work(self, end: threading.Event, number: int) -> None:
        seed = self._seed * 1000 + number
        clients = Operations(self.mirror.port, self.upstream, self.facts, seed)
        while not end.is_set():
            clients.choose()()


def findings(soak: Soak, before: Vitals, after: Vitals) -> list[str]:
    """Return what grew, was left behind, or was wrong."""
    figures, growth = soak.facts.figures, growth_bytes(soak.samples)
    on_disk = soak.directory.used_bytes()
    rules: list[tuple[bool, str]] = [
        (growth <= _GROWTH_MAX_BYTES, f"memory grew by {growth / (1 << 20):.1f} MiB"),
        (
            after.descriptors <= before.descriptors + _DESCRIPTORS_MORE,
            f"{before.descriptors} descriptors became {after.descriptors}",
        ),
        (not after.fills, f"{after.fills} fills are left"),
        (not after.readers, f"{after.readers} readers are left"),
        (
            after.cache_bytes == on_disk,
            f"the mirror accounts for {after.cache_bytes} bytes, the disk has {on_disk}",
        ),
        (not figures.bad_bytes, f"{figures.bad_bytes} bad bytes were served"),
        (
            figures.broken <= _BROKEN_MAX_SHARE * figures.operations,
            f"{figures.broken} of {figures.operations} bodies were cut short",
        ),
        (
            figures.refused <= _REFUSED_MAX_SHARE * figures.operations,
            f"{figures.refused} of {figures.operations} requests were refused",
        ),
    ]
    found = [what for holds, what in rules if not holds]
    return found + soak.watch.excesses[:5] + soak.directory.complaints()


def main() -> int:
    """Run; the exit code is 1 if anything was found."""
    options = _options()
    sys.stderr.write(f"soak: {options.seconds} s, --seed {options.seed}\n")
    with tempfile.TemporaryDirectory(prefix="mirror-soak-", dir=options.directory) as work:
        soak = Soak(Path(work), options.seed)
        try:
            found = _run(soak, options.seconds)
        finally:
            soak.close()
    for complaint in soak.facts.complaints[:10]:
        sys.stderr.write(f"soak: not delivered, as the faults had it: {complaint}\n")
    for what in found:
        sys.stderr.write(f"soak: FOUND: {what}\n")
    return 1 if found else 0


def _run(soak: Soak, seconds: int) -> list[str]:
    every_seconds = max(0.5, seconds / 100)
    soak.load(_WARM_UP_SHARE * seconds, every_seconds)
    before = soak.rest()
    soak.samples.clear()
    soak.load((1 - _WARM_UP_SHARE) * seconds, every_seconds)
    after = soak.rest()
    shown = soak.samples[:: max(1, len(soak.samples) // _ROWS)]
    sys.stdout.write("\n".join([HEADING, *(one.line() for one in shown), after.line()]) + "\n")
    figures = soak.facts.figures
    sys.stdout.write(
        f"at rest {before.descriptors} descriptors before and {after.descriptors} after;"
        f" {growth_bytes(soak.samples) / (1 << 20):+.1f} MiB; {figures.bytes_served / 1e9:.1f} GB"
        f" served, {figures.bad_bytes} bad bytes, {figures.refused} refused, {figures.broken} cut;"
        f" peak {soak.watch.peak_bytes / soak.limit_bytes:.3f} of the bound\n"
    )
    return findings(soak, before, after)


def _seconds(text: str) -> int:
    found = re.fullmatch(r"(\d+)([smh])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 90s, 10m or 1h")
    return int(found[1]) * _UNITS[found[2]]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument(
        "seconds", nargs="?", type=_seconds, default=_seconds("10m"), metavar="DURATION"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--directory", metavar="DIR", help="for the cache and the log")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
