"""What keeps the cache true in the long run: a slow scrub, and a sweep once a day.

The scrub reads every object again and compares it with its name, one at a time and so slowly
that no pull feels it. What the disk has spoilt is dropped and so fetched again, before
anybody gets it. Where it stood is not kept over a restart: it begins anew.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mirror.domain.names import Digest
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics
from mirror.runtime.steps import in_steps
from mirror.store.checking import Reading, drop_wrong
from mirror.store.store import Store
from mirror.store.sweep import Sweep

_log = get_logger("housekeeping")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast and how often.

    Attributes:
        bytes_per_second: What the scrub reads at most.
        round_seconds: A round of the scrub begins so long after the last one began.
        sweep_seconds: The time from the end of a sweep to the next one.
        first_seconds: Nothing happens so long after the start, when nodes may all pull.
    """

    bytes_per_second: float = 20_000_000
    round_seconds: float = 7 * 86400
    sweep_seconds: float = 86400
    first_seconds: float = 600


PACE: Final = Pace()


class Housekeeping:
    """Two works that go on for ever, each a coroutine."""

    def __init__(self, store: Store, sweep: Sweep, metrics: Metrics, pace: Pace = PACE) -> None:
        self._store = store
        self._sweep = sweep
        self._metrics = metrics
        self._pace = pace

    def works(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return all that goes on for ever."""
        return self.sweep(), self.scrub()

    async def sweep(self) -> None:
        """Remove what nothing needs, once a day, for ever."""
        await asyncio.sleep(self._pace.first_seconds)
        while True:
            try:
                await self._sweep.run()
            except OSError as error:
                _log.error("the cache could not be swept", reason=str(error))
            await asyncio.sleep(self._pace.sweep_seconds)

    async def scrub(self) -> None:
        """Read everything again, round after round, for ever."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._pace.first_seconds)
        while True:
            started = loop.time()
            try:
                await self._round()
            except OSError as error:
                _log.error("the cache could not be read again", reason=str(error))
            await asyncio.sleep(max(1.0, started + self._pace.round_seconds - loop.time()))

    async def _round(self) -> None:
        objects = wrong = 0
        pool = self._store.parts.pools.inspect
        async for digest, path in in_steps(pool, self._objects(), 16):
            wrong += not await self._is_right(digest, path)
            objects += 1
        if objects:
            _log.info("all objects have been read again", objects=objects, corrupt=wrong)

    def _objects(self) -> Iterator[tuple[Digest, Path]]:
        return self._store.parts.layout.objects()

    async def _is_right(self, digest: Digest, path: Path) -> bool:
        reading = Reading(path, digest, self._store.parts.pools.inspect)
        async for size_bytes in reading:
            self._metrics.cache_scrubbed_bytes.inc(size_bytes)
            await asyncio.sleep(size_bytes / self._pace.bytes_per_second)
        if reading.is_gone or reading.is_right:
            return True
        removed = await drop_wrong(self._store, digest, reading)
        self._metrics.cache_corrupt_objects.inc()
        _log.error(
            "an object is corrupt on the disk",
            digest=str(digest),
            reason=reading.trouble or "it is not what its name says",
            removed=removed,
        )
        return False
