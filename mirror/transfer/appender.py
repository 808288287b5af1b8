"""From the event loop to the disk: with each step all that has come.

What comes is written by one thread and hashed by another, each at its own pace: readers get
what is written, and the hash has to be ready only for the last of it. The slower the disk, the
larger the steps; a byte never waits for more bytes to come.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from mirror.runtime.pools import Pool
from mirror.store.partial import Partial
from mirror.upstream.receiving import Batch, Piece

_HIGH_WATER_BYTES: Final = 8 * 1024 * 1024
_APART_BYTES: Final = 256 * 1024
"""Less is written and hashed by one thread: to wake a second one would cost more."""
_TURN_BYTES: Final = 8 * 1024 * 1024
"""After so much, a lane lets others have the thread."""


class _Lane:
    """Works through batches in the order they come in, in one thread at a time.

    Whoever claims it has to drain it; the claim ends when nothing waits any more.
    """

    def __init__(self, work: Callable[[Sequence[Piece]], None]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._waiting: list[Batch] = []
        self._is_claimed = False
        self.done = 0
        """How many batches are worked off."""
        self.error: BaseException | None = None

    def put(self, batch: Batch) -> None:
        """Let a batch wait for its turn."""
        with self._lock:
            self._waiting.append(batch)

    def claim(self) -> bool:
        """Return whether something waits that nobody works at: the caller must do it now."""
        with self._lock:
            if self._is_claimed or not self._waiting:
                return False
            self._is_claimed = True
            return True

    def drain(self, tell: Callable[[], None]) -> bool:
        """Work off what waits, and tell after each step; false after a turn, with more to do."""
        turn_bytes = 0
        while True:
            with self._lock:
                if not self._waiting:
                    self._is_claimed = False
                    return True
                if turn_bytes >= _TURN_BYTES:
                    return False
                batches, self._waiting = self._waiting, []
            turn_bytes += sum(batch.size_bytes for batch in batches)
            if self.error is None:
                try:
                    self._work([piece for batch in batches for piece in batch.pieces])
                except BaseException as error:  # noqa: BLE001 -- whoever puts the next hears of it
                    self.error = error
            self.done += len(batches)
            tell()


class Appender:
    """Appends to a partial in threads and tells after each step."""

    def __init__(self, pool: Pool, partial: Partial, on_progress: Callable[[], None]) -> None:
        self._pool = pool
        self._partial = partial
        self._on_progress = on_progress
        self._loop = asyncio.get_running_loop()
        self._writing = _Lane(partial.write)
        self._hashing = _Lane(partial.hash)
        self._held: deque[Batch] = deque()
        self._held_bytes = 0
        self._released = self._shown = 0
        self._syncing: asyncio.Future[None] | None = None
        self._is_told = False
        self._step = asyncio.Event()

    async def put(self, batch: Batch) -> None:
        """Take a batch, and release it in time; waits while too much is on its way to the disk.

        Raises:
            OSError: the disk is full or broken.
        """
        self._raise()
        self._held.append(batch)
        self._held_bytes += batch.size_bytes
        # In this order: whoever writes looks last for what is to be hashed, and must find it.
        self._hashing.put(batch)
        self._writing.put(batch)
        if self._writing.claim():
            self._pool.submit(self._run, self._writing)
        if self._held_bytes >= _APART_BYTES and self._hashing.claim():
            self._pool.submit(self._run, self._hashing)
        while self._held_bytes > _HIGH_WATER_BYTES:
            await self._next_step()
            self._raise()

    async def finish(self) -> None:
        """Wait until everything is on disk and hashed; raises as ``put`` does."""
        while self._held:
            await self._next_step()
        self._raise()

    async def _next_step(self) -> None:
        self._step.clear()
        await self._step.wait()

    def _raise(self) -> None:
        error = self._writing.error or self._hashing.error
        if error is not None:
            raise error

    # --- in a thread -------------------------------------------------------------------------

    def _run(self, lane: _Lane) -> None:
        """Drain a lane, then the other one if nobody is at it."""
        other = self._hashing if lane is self._writing else self._writing
        for each in (lane, other):
            if each is other and not each.claim():
                return
            if not each.drain(self._tell):
                self._pool.submit(self._run, each)

    def _tell(self) -> None:
        if not self._is_told:
            self._is_told = True
            self._loop.call_soon_threadsafe(self._hear)

    # --- in the loop -------------------------------------------------------------------------

    def _hear(self) -> None:
        self._is_told = False
        written, done = self._writing.done, min(self._writing.done, self._hashing.done)
        for _ in range(done - self._released):
            batch = self._held.popleft()
            self._held_bytes -= batch.size_bytes
            batch.release()
        self._released = done
        if self._writing.error is None and written > self._shown:
            self._shown = written
            self._on_progress()
            self._sync()
        self._step.set()

    def _sync(self) -> None:
        """Sync beside what follows: on a slow disk that takes as long as the download."""
        if self._partial.wants_sync and self._syncing is None:
            self._syncing = self._pool.start(self._partial.sync)
            self._syncing.add_done_callback(self._synced)

    def _synced(self, syncing: "asyncio.Future[None]") -> None:
        self._syncing = None
        if not syncing.cancelled():
            syncing.exception()  # told once more when the file gets its name
