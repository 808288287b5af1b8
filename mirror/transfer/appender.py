"""From the event loop to the disk: one thread call at a time, with all that has come.

The slower the disk, the larger the pieces; a byte never waits for more bytes to come.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from mirror.runtime.pools import Pool
from mirror.store.partial import Partial

_HIGH_WATER_BYTES: Final = 4 * 1024 * 1024


class Appender:
    """Appends to a partial in a thread and tells after each step."""

    def __init__(self, pool: Pool, partial: Partial, on_progress: Callable[[], None]) -> None:
        self._pool = pool
        self._partial = partial
        self._on_progress = on_progress
        self._pieces: list[bytes] = []
        self._waiting_bytes = 0
        self._busy: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._step = asyncio.Event()

    async def put(self, piece: bytes) -> None:
        """Take a piece; waits while too much is on its way to the disk.

        Raises:
            OSError: the disk is full or broken.
        """
        self._raise()
        self._pieces.append(piece)
        self._waiting_bytes += len(piece)
        self._start()
        while self._waiting_bytes > _HIGH_WATER_BYTES:
            await self._next_step()

    async def finish(self) -> None:
        """Wait until everything is on disk; raises as ``put`` does."""
        while self._busy is not None:
            await self._next_step()
        self._raise()

    async def _next_step(self) -> None:
        self._raise()
        self._step.clear()
        await self._step.wait()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _start(self) -> None:
        if self._busy is None and self._pieces and self._error is None:
            pieces, self._pieces = self._pieces, []
            self._waiting_bytes = 0
            self._busy = self._pool.start(self._partial.append, pieces)
            self._busy.add_done_callback(self._ended)

    def _ended(self, append: "asyncio.Future[None]") -> None:
        self._busy = None
        self._error = asyncio.CancelledError() if append.cancelled() else append.exception()
        if self._error is None:
            self._on_progress()
            self._start()
        self._step.set()
