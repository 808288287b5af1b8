"""The mirror, which notes how long each callback of its event loop takes.

``python -m tests.bench.callbacks FILE serve …`` is ``mirror serve …``, and writes to FILE at its
end. What a callback waited for a core is left out.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import runpy
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

from mirror.observe.health import RunQueue

_BINS_PER_SECOND: Final = 10_000


class Callbacks:
    """How many callbacks took how long, in tenths of a millisecond."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._queue = RunQueue()
        self._run = asyncio.Handle._run

    def watch(self) -> None:
        """Note each callback from now on."""
        noted = self

        def run(handle: asyncio.Handle) -> None:
            waited, started = noted._queue.waited_seconds(), time.perf_counter()
            try:
                noted._run(handle)
            finally:
                seconds = time.perf_counter() - started
                noted._note(seconds - (noted._queue.waited_seconds() - waited))

        asyncio.Handle._run = run  # type: ignore[assignment, method-assign] # it is private

    def _note(self, seconds: float) -> None:
        self._counts[max(0, int(seconds * _BINS_PER_SECOND))] += 1

    def write(self, file: Path) -> None:
        """Write what was found: bins and how many are in each."""
        file.write_text(json.dumps(sorted(self._counts.items())), encoding="ascii")


def percentile_ms(file: Path, share: float) -> float:
    """Return the end of the bin up to which such a share of the callbacks is."""
    found: list[tuple[int, int]] = json.loads(file.read_text(encoding="ascii"))
    missing = share * sum(count for _, count in found)
    for tenths, count in found:
        missing -= count
        if missing <= 0:
            return 1000 * (tenths + 1) / _BINS_PER_SECOND
    raise ValueError("no callback was noted")


if __name__ == "__main__":
    callbacks = Callbacks()
    atexit.register(callbacks.write, Path(sys.argv.pop(1)))
    callbacks.watch()
    runpy.run_module("mirror", run_name="__main__", alter_sys=True)
