"""Prefetches at regular times, as the configuration says.

Each schedule has a task of its own. Many mirrors with one configuration do not all ask at the
same moment: the first run and the time between two runs vary.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from mirror.observe.logs import get_logger
from mirror.service.prefetching import BY_SCHEDULE, Prefetcher, PrefetchWish
from mirror.service.refusals import RefusalCode, RefusedError

_FIRST_MIN_SECONDS: Final = 30.0
"""When a mirror has started, nodes may all pull."""
_FIRST_MAX_SECONDS: Final = 330.0
_SPREAD: Final = 0.1
_BUSY_SECONDS: Final = 60.0
"""When as many prefetches run as may, it is tried again before the next turn."""
_log = get_logger("prefetch")


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is to be fetched, and how often."""

    images: tuple[str, ...]
    every_seconds: float
    platforms: tuple[str, ...] = ()
    with_referrers: bool = False

    def first_seconds(self, jitter: float) -> float:
        """Return when the first run begins; *jitter* is from 0 to 1."""
        latest = min(_FIRST_MAX_SECONDS, _FIRST_MIN_SECONDS + self.every_seconds / 2)
        return _FIRST_MIN_SECONDS + jitter * (latest - _FIRST_MIN_SECONDS)

    def next_seconds(self, jitter: float, took_seconds: float) -> float:
        """Return how long to wait after a run: a tenth more or less from start to start."""
        every = self.every_seconds * (1 - _SPREAD + 2 * _SPREAD * jitter)
        return max(1.0, every - took_seconds)


class Scheduler:
    """Runs the schedules of the configuration."""

    def __init__(
        self,
        prefetcher: Prefetcher,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._prefetcher = prefetcher
        self._sleep = sleep
        self._jitter = jitter
        self._tasks: dict[Schedule, asyncio.Task[None]] = {}

    def follow(self, schedules: Sequence[Schedule]) -> None:
        """Go over to these schedules; those that stay keep their time."""
        for schedule in self._tasks.keys() - set(schedules):
            self._tasks.pop(schedule).cancel()
        for schedule in schedules:
            if schedule not in self._tasks:
                work = self._run(schedule)
                self._tasks[schedule] = asyncio.create_task(work, name="scheduled prefetch")

    async def close(self) -> None:
        """Stop."""
        tasks = list(self._tasks.values())
        self.follow(())
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, schedule: Schedule) -> None:
        """Prefetch now and then, for ever."""
        loop = asyncio.get_running_loop()
        await self._sleep(schedule.first_seconds(self._jitter()))
        while True:
            began = loop.time()
            if await self._once(schedule):
                await self._sleep(schedule.next_seconds(self._jitter(), loop.time() - began))
            else:
                await self._sleep(min(_BUSY_SECONDS, schedule.every_seconds))

    async def _once(self, schedule: Schedule) -> bool:
        """Run a prefetch; returns whether it began, or will not do so soon."""
        wish = PrefetchWish(schedule.images, schedule.platforms, schedule.with_referrers)
        try:
            job = self._prefetcher.start(wish, BY_SCHEDULE)
        except RefusedError as error:
            _log.warning("a scheduled prefetch does not begin", reason=str(error))
            return error.code is not RefusalCode.BUSY
        try:
            await self._prefetcher.ended(job.id)
        except asyncio.CancelledError:
            await self._prefetcher.cancel(job.id)
            raise
        return True
