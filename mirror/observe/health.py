"""Whether this process lives and is ready for requests. Upstream never plays a part."""

import asyncio
from collections.abc import Callable

_TICK_SECONDS = 0.1


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


async def watch_event_loop(observe: Callable[[float], None]) -> None:
    """Measure, for ever, how much later than asked for a timer wakes; in seconds."""
    loop = asyncio.get_running_loop()
    while True:
        before = loop.time()
        await asyncio.sleep(_TICK_SECONDS)
        observe(max(0.0, loop.time() - before - _TICK_SECONDS))
