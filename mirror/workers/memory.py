"""What a worker hands out without asking: small, bounded, and forgotten when it is told so."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from mirror.runtime.clock import Seconds
from mirror.service.served import Served

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class _Kept(Generic[V]):
    value: V
    served: Served
    since: float
    until: float
    size_bytes: int


class Memory(Generic[V]):
    """Answers that are good for a moment; the least recently used leave."""

    def __init__(self, limit_bytes: int, monotonic: Seconds) -> None:
        self._limit_bytes = limit_bytes
        self._monotonic = monotonic
        self._kept: OrderedDict[Hashable, _Kept[V]] = OrderedDict()
        self._size_bytes = 0

    def get(self, key: Hashable) -> tuple[V, Served] | None:
        """Return an answer that is still good, with the time that it has left."""
        kept, now = self._kept.get(key), self._monotonic()
        if kept is None:
            return None
        if now >= kept.until:
            self.drop(key)
            return None
        self._kept.move_to_end(key)
        served = kept.served
        if served.ttl_seconds is not None:
            served = replace(served, ttl_seconds=served.ttl_seconds - (now - kept.since))
        return kept.value, served

    def put(
        self, key: Hashable, value: V, served: Served, keep_seconds: float, size_bytes: int
    ) -> None:
        """Keep an answer for so long, if it is not too large."""
        self.drop(key)
        if keep_seconds <= 0 or size_bytes > self._limit_bytes:
            return
        now = self._monotonic()
        self._kept[key] = _Kept(value, served, now, now + keep_seconds, size_bytes)
        self._size_bytes += size_bytes
        while self._size_bytes > self._limit_bytes:
            self.drop(next(iter(self._kept)))

    def drop(self, key: Hashable) -> None:
        """Forget an answer."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._size_bytes -= kept.size_bytes

    def forget(self, key: Hashable | None = None) -> None:
        """Forget an answer, or all of them, because they may be wrong now."""
        if key is not None:
            self.drop(key)
            return
        self._kept.clear()
        self._size_bytes = 0
