"""Hot facts in memory, bounded in bytes. aiocache is known to this file only.

aiocache brings expiry and namespaces; it knows no bound, keeps a timer for each entry that
has a time to live, and its ``clear`` forgets to stop those timers, which then delete newer
entries of the same key. So the bound is here and ``clear`` stops the timers.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar, cast

from aiocache import SimpleMemoryCache

V = TypeVar("V")


def _key_as_it_is(key: Hashable, namespace: str | None) -> Hashable:  # noqa: ARG001 -- aiocache's
    """Keep tuples as keys: aiocache would turn them into text."""
    return key


class MemoryTier:
    """A byte budget that several kinds of facts share; the least recently used leave."""

    def __init__(self, limit_bytes: int) -> None:
        self._cache: Any = SimpleMemoryCache(timeout=None, key_builder=_key_as_it_is)
        # aiocache's own dictionary: a look through its layers costs twenty times as much, and a
        # request makes half a dozen of them. Its timers take out what has expired.
        self._held: dict[Hashable, object] = self._cache._cache  # noqa: SLF001 -- see above
        self._sizes: OrderedDict[Hashable, int] = OrderedDict()
        self._limit_bytes = limit_bytes
        self.size_bytes = 0

    async def get(self, key: Hashable) -> object | None:
        """Return the value, unless it has expired or had to make room."""
        return self.peek(key)

    def peek(self, key: Hashable) -> object | None:
        """Return what ``get`` does, for who cannot await."""
        value = self._held.get(key)
        if value is None:
            self._forget(key)
        else:
            self._sizes.move_to_end(key)
        return value

    async def put(
        self, key: Hashable, value: object, size_bytes: int, ttl_seconds: float | None
    ) -> None:
        """Keep *value*, for *ttl_seconds* at most; one larger than the tier is not kept."""
        await self.drop(key)
        if value is None:  # aiocache would never stop its timer, which then ends the next value
            raise TypeError("None cannot be kept")
        if size_bytes > self._limit_bytes or (ttl_seconds is not None and ttl_seconds <= 0):
            return
        self._sizes[key] = size_bytes
        self.size_bytes += size_bytes
        await self._cache.set(key, value, ttl=ttl_seconds)
        while self.size_bytes > self._limit_bytes:
            oldest = next(iter(self._sizes))
            await self.drop(oldest)

    async def drop(self, key: Hashable) -> None:
        """Forget the value, if there is one."""
        self._forget(key)
        await self._cache.delete(key)

    async def clear(self) -> None:
        """Forget everything, one by one, so that no timer of aiocache is left behind."""
        for key in list(self._sizes):
            await self.drop(key)

    def _forget(self, key: Hashable) -> None:
        self.size_bytes -= self._sizes.pop(key, 0)


class Recent(Generic[V]):
    """One kind of facts in the memory tier.

    ``None`` cannot be kept: aiocache cannot tell it from nothing.
    """

    def __init__(self, tier: MemoryTier, kind: str, size_bytes: Callable[[V], int]) -> None:
        self._tier = tier
        self._kind = kind
        self._size_bytes = size_bytes

    async def get(self, key: Hashable) -> V | None:
        """Return the value, unless it has expired or had to make room."""
        return self.peek(key)

    def peek(self, key: Hashable) -> V | None:
        """Return what ``get`` does, for who cannot await."""
        return cast("V | None", self._tier.peek((self._kind, key)))

    async def put(self, key: Hashable, value: V, *, ttl_seconds: float | None = None) -> None:
        """Keep *value*, for *ttl_seconds* at most."""
        await self._tier.put((self._kind, key), value, self._size_bytes(value), ttl_seconds)

    async def drop(self, key: Hashable) -> None:
        """Forget the value, if there is one."""
        await self._tier.drop((self._kind, key))
