"""How many bytes may still come: stored and reserved bytes stay below the bound.

A fill reserves its whole length before its first byte (invariant 5). All changes of
the figures happen on the event loop without awaiting; only making room awaits.
"""

import asyncio
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from mirror.domain.errors import OverloadedError
from mirror.settings import Policy, SizeOrShare

WAIT_SECONDS: Final = 1.0
"""How long an object waits for room before it goes past the cache (invariant 5)."""

MAKE_ROOM_SECONDS: Final = 3.0
"""How long it waits for others to be evicted, which goes on when it has gone past the cache.

Ten thousand small objects that make room for a large one take longer than a client waits.
"""
_LOOK_EVERY_SECONDS: Final = 0.2
_SIZE_SECONDS: Final = 1.0
"""For how long the size of the file system is believed; what is free is asked each time."""


class Evict(Protocol):
    """Frees at least so many bytes, of one upstream or of all, if it can."""

    async def __call__(self, need_bytes: int, upstream: str | None = None) -> int:
        """Return how many bytes were freed."""
        ...


class NoSpaceError(OverloadedError):
    """There is no room for an object, and nothing may be evicted for it."""


class Space:
    """The accounts of the cache directory, in bytes."""

    def __init__(
        self,
        directory: Path,
        max_size: SizeOrShare,
        min_free: SizeOrShare,
        policies: Mapping[str, Policy],
    ) -> None:
        """Set up the accounts; *policies* are those of the upstreams, for their bounds."""
        self._directory = directory
        self._looked_at, self._size_bytes = -math.inf, 0
        self.rebound(max_size, min_free, policies)
        self._making_room = asyncio.Lock()
        self._freed = asyncio.Event()
        self._making: set[asyncio.Task[bool]] = set()
        self.stored_by: Counter[str] = Counter()
        self.reserved_by: Counter[str] = Counter()
        self.written_bytes = 0
        """How much of the reserved bytes is on disk already."""
        self.idle_bytes: Callable[[], int] = lambda: 0
        """How much is held by downloads that wait to go on."""

    def rebound(
        self, max_size: SizeOrShare, min_free: SizeOrShare, policies: Mapping[str, Policy]
    ) -> None:
        """Set the bounds; what is above a lower one goes when the house is kept next."""
        self._max_size = max_size
        self._min_free = min_free
        self._upstreams = {
            name: policy.max_size for name, policy in policies.items() if policy.max_size
        }

    @property
    def stored_bytes(self) -> int:
        """What stands in ``blobs/``."""
        return self.stored_by.total()

    @property
    def reserved_bytes(self) -> int:
        """What running fills have set aside, written or not."""
        return self.reserved_by.total()

    @property
    def used_bytes(self) -> int:
        """Stored bytes, reservations and idle partials together."""
        return self.stored_bytes + self.reserved_bytes + self.idle_bytes()

    @property
    def limit_bytes(self) -> int:
        """The bound on stored and reserved bytes."""
        return self._max_size.resolve(self._total_bytes())

    def missing_bytes(self, size_bytes: int) -> int:
        """Return how much has to go before *size_bytes* may come; 0 or less: nothing."""
        total_bytes, free_bytes = self._file_system()
        over_bound = self.used_bytes + size_bytes - self._max_size.resolve(total_bytes)
        to_come_bytes = self.reserved_bytes - self.written_bytes + size_bytes
        below_floor = self._min_free.resolve(total_bytes) + to_come_bytes - free_bytes
        return max(over_bound, below_floor)

    def upstream_missing_bytes(self, upstream: str, size_bytes: int) -> int:
        """Return how much of an upstream's own has to go first; 0 or less: nothing."""
        bound = self._upstreams.get(upstream)
        if bound is None:
            return 0
        used_bytes = self.stored_by[upstream] + self.reserved_by[upstream]
        return used_bytes + size_bytes - self._bound(bound)

    def upstream_limit_bytes(self, upstream: str) -> int | None:
        """Return how much an upstream may hold; ``None``: all there is."""
        bound = self._upstreams.get(upstream)
        return None if bound is None else self._bound(bound)

    def check(self, size_bytes: int, upstream: str = "") -> None:
        """Raise NoSpaceError for an object that even an empty cache has no room for."""
        if size_bytes > self.limit_bytes:
            raise NoSpaceError("the object is larger than the cache (cache.max_size)")
        bound = self._upstreams.get(upstream)
        if bound is not None and size_bytes > self._bound(bound):
            raise NoSpaceError(f"the object is larger than {upstream} may hold (policy.max_size)")

    async def reserve(self, size_bytes: int, upstream: str, evict: Evict) -> None:
        """Set *size_bytes* aside, making room if needed, and waiting a little if there is none.

        Raises:
            NoSpaceError: there is not enough room even so.
        """
        self.check(size_bytes, upstream)
        ends_at = asyncio.get_running_loop().time() + WAIT_SECONDS
        while not await self._reserved_in_time(size_bytes, upstream, evict):
            self._freed.clear()
            try:
                async with asyncio.timeout_at(min(ends_at, self._next_look())):
                    await self._freed.wait()
            except TimeoutError:
                if asyncio.get_running_loop().time() >= ends_at:
                    raise NoSpaceError("the cache has no room for this object") from None

    def freed(self) -> None:
        """Tell those who wait that there may be room now."""
        self._freed.set()

    async def close(self) -> None:
        """Make no more room."""
        for task in self._making:
            task.cancel()
        await asyncio.gather(*self._making, return_exceptions=True)

    async def _reserved_in_time(self, size_bytes: int, upstream: str, evict: Evict) -> bool:
        """Try to reserve in a task, so that room that is asked for is made to the end.

        Raises:
            NoSpaceError: it takes too long.
        """
        if not self._making_room.locked() and self._has_room(size_bytes, upstream):
            self.reserved_by[upstream] += size_bytes
            return True
        has_left = asyncio.Event()
        trying = self._try_to_reserve(size_bytes, upstream, evict, has_left)
        making = asyncio.create_task(trying)
        self._making.add(making)
        making.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(MAKE_ROOM_SECONDS):
                return await asyncio.shield(making)
        except TimeoutError:
            self._leave(making, has_left, size_bytes, upstream)
            raise NoSpaceError("making room for this object takes too long") from None
        except asyncio.CancelledError:
            self._leave(making, has_left, size_bytes, upstream)
            raise

    def _leave(
        self, making: asyncio.Task[bool], has_left: asyncio.Event, size_bytes: int, upstream: str
    ) -> None:
        """Have nothing set aside for somebody who goes, even if that was done this moment."""
        has_left.set()
        if making.done() and not making.cancelled() and not making.exception() and making.result():
            self.reserved_by[upstream] -= size_bytes
            self.freed()

    def _ended(self, making: asyncio.Task[bool]) -> None:
        self._making.discard(making)
        if not making.cancelled():
            making.exception()  # whoever waited may have left: nobody else retrieves it

    async def _try_to_reserve(
        self, size_bytes: int, upstream: str, evict: Evict, has_left: asyncio.Event
    ) -> bool:
        async with self._making_room:
            if has_left.is_set():
                return False  # nobody needs it any more
            over_bytes = self.upstream_missing_bytes(upstream, size_bytes)
            if over_bytes > 0:
                await evict(over_bytes, upstream)
            missing_bytes = self.missing_bytes(size_bytes)
            if missing_bytes > 0:
                await evict(missing_bytes)
            if has_left.is_set() or not self._has_room(size_bytes, upstream):
                return False
            self.reserved_by[upstream] += size_bytes
            return True

    def _has_room(self, size_bytes: int, upstream: str) -> bool:
        of_upstream = self.upstream_missing_bytes(upstream, size_bytes)
        return self.missing_bytes(size_bytes) <= 0 and of_upstream <= 0

    @staticmethod
    def _next_look() -> float:
        """Return when to look again: that a reader has closed a file is told to nobody."""
        return asyncio.get_running_loop().time() + _LOOK_EVERY_SECONDS

    def _bound(self, bound: SizeOrShare) -> int:
        """Return an upstream's bound: a size, or a share of the cache."""
        return bound.resolve(self.limit_bytes)

    async def trim(self, evict: Evict) -> None:
        """Go below the bound, which may have been lowered since the last start."""
        async with self._making_room:
            for upstream in self._upstreams:
                over_bytes = self.upstream_missing_bytes(upstream, 0)
                if over_bytes > 0:
                    await evict(over_bytes, upstream)
            missing_bytes = self.missing_bytes(0)
            if missing_bytes > 0:
                await evict(missing_bytes)

    def _total_bytes(self) -> int:
        """Return the size of the file system, as of a moment ago: it hardly ever changes."""
        if time.monotonic() - self._looked_at > _SIZE_SECONDS:
            self._file_system()
        return self._size_bytes

    def _file_system(self) -> tuple[int, int]:
        facts = os.statvfs(self._directory)
        self._looked_at, self._size_bytes = time.monotonic(), facts.f_blocks * facts.f_frsize
        return self._size_bytes, facts.f_bavail * facts.f_frsize


class Reservation:
    """Room for one object; whoever has it releases it, in every case."""

    def __init__(self, space: Space, upstream: str, evict: Evict) -> None:
        self._space = space
        self._upstream = upstream
        self._evict = evict
        self._written_bytes = 0
        self.size_bytes = 0

    async def grow(self, more_bytes: int) -> None:
        """Set *more_bytes* aside; raises NoSpaceError."""
        await self._space.reserve(more_bytes, self._upstream, self._evict)
        self.size_bytes += more_bytes

    def adopt(self, size_bytes: int) -> None:
        """Take over bytes that are on disk and were counted as idle until now."""
        self._space.reserved_by[self._upstream] += size_bytes
        self.size_bytes += size_bytes
        self.written(size_bytes)

    def written(self, size_bytes: int) -> None:
        """Tell how much of the object is on disk."""
        written_bytes = min(size_bytes, self.size_bytes)
        self._space.written_bytes += written_bytes - self._written_bytes
        self._written_bytes = written_bytes

    def release(self) -> None:
        """Give the room back; once more does nothing."""
        self.written(0)
        self._space.reserved_by[self._upstream] -= self.size_bytes
        self.size_bytes = 0
        self._space.freed()
