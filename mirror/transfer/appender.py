"""From the event loop to the disk: one step at a time, with all that has come.

The slower the disk, the larger the steps; a byte never waits for more bytes to come. A large
step is hashed and written at once, in two threads: neither needs the interpreter.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from mirror.runtime.pools import Pool
from mirror.store.partial import Partial
from mirror.upstream.receiving import Batch

_HIGH_WATER_BYTES: Final = 4 * 1024 * 1024
_APART_BYTES: Final = 256 * 1024
"""Less is hashed and written by one thread: to wake a second one would cost more."""


class Appender:
    """Appends to a partial in threads and tells after each step."""

    def __init__(self, pool: Pool, partial: Partial, on_progress: Callable[[], None]) -> None:
        self._pool = pool
        self._partial = partial
        self._on_progress = on_progress
        self._waiting: list[Batch] = []
        self._waiting_bytes = 0
        self._written: list[Batch] = []
        self._parts: set[asyncio.Future[None]] = set()
        self._syncing: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._step = asyncio.Event()

    async def put(self, batch: Batch) -> None:
        """Take a batch, and release it in time; waits while too much is on its way to the disk.

        Raises:
            OSError: the disk is full or broken.
        """
        self._raise()
        self._waiting.append(batch)
        self._waiting_bytes += batch.size_bytes
        self._start()
        while self._waiting_bytes > _HIGH_WATER_BYTES:
            await self._next_step()

    async def finish(self) -> None:
        """Wait until everything is on disk; raises as ``put`` does."""
        while self._parts:
            await self._next_step()
        self._raise()

    async def _next_step(self) -> None:
        self._raise()
        self._step.clear()
        await self._step.wait()

    def _raise(self) -> None:
        if self._error is not None and not self._parts:
            raise self._error

    def _start(self) -> None:
        if self._parts or not self._waiting or self._error is not None:
            return
        self._written, self._waiting = self._waiting, []
        size_bytes, self._waiting_bytes = self._waiting_bytes, 0
        pieces = [piece for batch in self._written for piece in batch.pieces]
        works = [self._partial.append]
        if size_bytes >= _APART_BYTES:
            works = [self._partial.hash, self._partial.write]
        self._parts = {self._pool.start(work, pieces) for work in works}
        for part in tuple(self._parts):
            part.add_done_callback(self._ended)

    def _ended(self, part: "asyncio.Future[None]") -> None:
        self._parts.discard(part)
        error = asyncio.CancelledError() if part.cancelled() else part.exception()
        self._error = self._error or error
        if self._parts:
            return
        for batch in self._written:
            batch.release()
        self._written = []
        if self._error is None:
            self._on_progress()
            self._sync()
            self._start()
        else:
            self._drop_waiting()
        self._step.set()

    def _drop_waiting(self) -> None:
        """Give back what is not written any more: upstream waits for the memory, and we for it."""
        for batch in self._waiting:
            batch.release()
        self._waiting, self._waiting_bytes = [], 0

    def _sync(self) -> None:
        """Sync beside what follows: on a slow disk that takes as long as the download."""
        if self._partial.wants_sync and self._syncing is None:
            self._syncing = self._pool.start(self._partial.sync)
            self._syncing.add_done_callback(self._synced)

    def _synced(self, syncing: "asyncio.Future[None]") -> None:
        self._syncing = None
        if not syncing.cancelled():
            syncing.exception()  # told once more when the file gets its name
