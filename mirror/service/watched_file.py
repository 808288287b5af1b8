"""A file that is read again when it has changed."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from mirror.observe.logs import get_logger
from mirror.runtime.clock import Clock
from mirror.runtime.pools import Pool

LOOK_EVERY_SECONDS: Final = 1.0
_MAX_BYTES: Final = 4 * 1024 * 1024
_log = get_logger("auth")

T = TypeVar("T")
_Identity = tuple[int, ...]


class WatchedFile(Generic[T]):
    """Looked at once a second while it is asked for; one that cannot be read changes nothing."""

    def __init__(
        self, path: Path, parse: Callable[[str], T], empty: T, pool: Pool, clock: Clock
    ) -> None:
        self._path = path
        self._parse = parse
        self._pool = pool
        self._clock = clock
        self._value = empty
        self._known: _Identity | None = None
        self._looked_at: float | None = None
        self._looking = asyncio.Lock()
        self.generation = 0
        """Grows with each change, so that what was concluded from the old content is void."""

    async def value(self) -> T:
        """Return what the file says now."""
        if self._is_due():
            async with self._looking:  # nobody is told what stands there before it is read
                if self._is_due():
                    now = self._clock.monotonic()
                    await self._look()
                    self._looked_at = now
        return self._value

    def _is_due(self) -> bool:
        if self._looked_at is None:
            return True
        return not 0 <= self._clock.monotonic() - self._looked_at < LOOK_EVERY_SECONDS

    async def _look(self) -> None:
        try:
            found = await self._pool.run(_read, self._path, self._known)
            if found is None:
                return
            self._known, text = found
            self._value = self._parse(text)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            _log.error("a file of users cannot be read", file=str(self._path), reason=reason)
            return
        self.generation += 1


def _read(path: Path, known: _Identity | None) -> tuple[_Identity, str] | None:
    facts = path.stat()
    identity = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    if identity == known:
        return None
    with path.open(encoding="utf-8") as file:
        return identity, file.read(_MAX_BYTES)
