"""Whether this process lives and is ready for requests. Upstream never plays a part."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

_TICK_SECONDS: Final = 0.1
_WINDOW_SECONDS: Final = 0.001
"""Short: what the thread waited for a core before the timer was due is taken for lateness, too."""
_SCHEDSTAT: Final = "/proc/thread-self/schedstat"


class Health:
    """The state behind ``/livez`` and ``/readyz``."""

    def __init__(self, cache_writable: Callable[[], bool]) -> None:
        self._cache_writable = cache_writable
        self.started = False
        self.draining = False

    def reasons_not_ready(self) -> list[str]:
        """Return why no request should be sent here now; empty when ready."""
        reasons = []
        if not self.started:
            reasons.append("starting: the cache is not open yet")
        elif not self._cache_writable():
            reasons.append("the cache directory cannot be written")
        if self.draining:
            reasons.append("draining: the process is shutting down")
        return reasons


class RunQueue:
    """How long this thread has waited for a core so far; nothing, where no kernel tells."""

    def __init__(self, path: str = _SCHEDSTAT) -> None:
        self._file: int | None = None
        with suppress(OSError):
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            os.close(self._file)

    def waited_seconds(self) -> float:
        """Return the time since the thread began; Linux counts it in nanoseconds."""
        if self._file is None:
            return 0.0
        try:
            return int(os.pread(self._file, 100, 0).split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return 0.0


async def watch_event_loop(observe: Callable[[float], None]) -> None:
    """Measure, for ever, how much later than asked for a timer wakes; in seconds.

    Without the time that the thread waited for a core: that says something of the machine, not
    of what blocks the event loop.
    """
    loop = asyncio.get_running_loop()
    with RunQueue() as queue:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            due, waited_seconds = loop.time() + _WINDOW_SECONDS, queue.waited_seconds()
            await asyncio.sleep(_WINDOW_SECONDS)
            late_seconds = loop.time() - due
            observe(max(0.0, late_seconds - (queue.waited_seconds() - waited_seconds)))
