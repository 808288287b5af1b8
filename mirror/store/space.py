"""How many bytes may still come: stored and reserved bytes stay below the bound.

A fill reserves its whole length before its first byte (DESIGN, invariant 5). All changes of
the figures happen on the event loop without awaiting; only making room awaits.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from mirror.domain.errors import OverloadedError
from mirror.settings import SizeOrShare

Evict = Callable[[int], Awaitable[int]]
"""Frees at least so many bytes if it can; returns how many it freed."""


class NoSpaceError(OverloadedError):
    """There is no room for an object, and nothing may be evicted for it."""


class Space:
    """The accounts of the cache directory, in bytes."""

    def __init__(self, directory: Path, max_size: SizeOrShare, min_free: SizeOrShare) -> None:
        self._directory = directory
        self._max_size = max_size
        self._min_free = min_free
        self._making_room = asyncio.Lock()
        self.stored_bytes = 0
        self.reserved_bytes = 0
        self.written_bytes = 0
        """How much of the reserved bytes is on disk already."""
        self.idle_bytes: Callable[[], int] = lambda: 0
        """How much is held by downloads that wait to go on."""

    @property
    def used_bytes(self) -> int:
        """Stored bytes, reservations and idle partials together."""
        return self.stored_bytes + self.reserved_bytes + self.idle_bytes()

    @property
    def limit_bytes(self) -> int:
        """The bound on stored and reserved bytes."""
        return self._max_size.resolve(self._file_system()[0])

    def missing_bytes(self, size_bytes: int) -> int:
        """Return how much has to go before *size_bytes* may come; 0 or less: nothing."""
        total_bytes, free_bytes = self._file_system()
        over_bound = self.used_bytes + size_bytes - self._max_size.resolve(total_bytes)
        to_come_bytes = self.reserved_bytes - self.written_bytes + size_bytes
        below_floor = self._min_free.resolve(total_bytes) + to_come_bytes - free_bytes
        return max(over_bound, below_floor)

    def check(self, size_bytes: int) -> None:
        """Raise NoSpaceError for an object that even an empty cache has no room for."""
        if size_bytes > self.limit_bytes:
            raise NoSpaceError("the object is larger than the cache (cache.max_size)")

    async def reserve(self, size_bytes: int, evict: Evict) -> None:
        """Set *size_bytes* aside, making room if needed.

        Raises:
            NoSpaceError: there is not enough room even so.
        """
        async with self._making_room:
            self.check(size_bytes)
            missing_bytes = self.missing_bytes(size_bytes)
            if missing_bytes > 0:
                await evict(missing_bytes)
            if self.missing_bytes(size_bytes) > 0:
                raise NoSpaceError("the cache has no room for this object")
            self.reserved_bytes += size_bytes

    async def trim(self, evict: Evict) -> None:
        """Go below the bound, which may have been lowered since the last start."""
        async with self._making_room:
            missing_bytes = self.missing_bytes(0)
            if missing_bytes > 0:
                await evict(missing_bytes)

    def _file_system(self) -> tuple[int, int]:
        facts = os.statvfs(self._directory)
        return facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize


class Reservation:
    """Room for one object; whoever has it releases it, in every case."""

    def __init__(self, space: Space, evict: Evict) -> None:
        self._space = space
        self._evict = evict
        self._written_bytes = 0
        self.size_bytes = 0

    async def grow(self, more_bytes: int) -> None:
        """Set *more_bytes* aside; raises NoSpaceError."""
        await self._space.reserve(more_bytes, self._evict)
        self.size_bytes += more_bytes

    def adopt(self, size_bytes: int) -> None:
        """Take over bytes that are on disk and were counted as idle until now."""
        self._space.reserved_bytes += size_bytes
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
        self._space.reserved_bytes -= self.size_bytes
        self.size_bytes = 0
