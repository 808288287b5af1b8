"""News for several listeners, made once for all of them and not at all for none.

A listener that is slow misses what came in between and gets the latest: nothing piles up.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from mirror.observe.logs import get_logger
from mirror.service.refusals import RefusalCode, RefusedError

LISTENERS_MAX: Final = 32
_log = get_logger("feed")


class Feed:
    """Calls *make* once a second while somebody listens."""

    interval_seconds = 1.0

    def __init__(self, make: Callable[[], Awaitable[bytes]]) -> None:
        self._make = make
        self._latest = b""
        self._number = 0
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False
        self.listeners = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Be a listener in this context; raises RefusedError where there are too many."""
        if self._is_closed:
            raise RefusedError(RefusalCode.FULL, "the mirror is stopping", "come again later")
        if self.listeners >= LISTENERS_MAX:
            raise RefusedError(
                RefusalCode.FULL,
                f"{self.listeners} others are listening already",
                "close a window of the dashboard, or ask /api/v1/overview now and then",
            )
        self.listeners += 1
        if self._task is None:
            self._latest = b""  # what it was when the last one left is no news
            self._task = asyncio.create_task(self._run(), name="feed")
        try:
            yield
        finally:
            self.listeners -= 1
            if not self.listeners:
                self._stop()

    async def after(self, number: int) -> tuple[int, bytes] | None:
        """Wait for news after those of *number*; returns their own, ``None`` at the end."""
        while not self._is_closed and (self._number <= number or not self._latest):
            await self._news.wait()
        return None if self._is_closed else (self._number, self._latest)

    def close(self) -> None:
        """Tell all listeners that this is the end."""
        self._is_closed = True
        self._stop()
        self._tell()

    async def _run(self) -> None:
        while True:
            try:
                self._latest = await self._make()
                self._number += 1
                self._tell()
            except Exception:  # noqa: BLE001 -- the next look may succeed, and pulls go on
                _log.exception("the overview could not be made")
            await asyncio.sleep(self.interval_seconds)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
