"""Who uses which object now, and when each was used last.

Last uses are noted in memory and written in batches, once a minute for each object: a hot
image costs no write on the way. Reading is noted before the file is opened and until it is
closed, so eviction does not come between.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mirror.domain.names import Digest
from mirror.runtime.clock import Clock

TOUCH_EVERY_SECONDS: Final = 60


class Uses:
    """Uses of objects, present and past."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._users: Counter[str] = Counter()
        self._touched: dict[str, float] = {}
        self._pending: dict[str, float] = {}

    # --- present ---------------------------------------------------------------------------

    def enter(self, digest: Digest) -> None:
        """Count one user more: the object stays."""
        self._users[str(digest)] += 1

    def leave(self, digest: Digest) -> None:
        """Count one user less."""
        text = str(digest)
        self._users[text] -= 1
        if not self._users[text]:
            del self._users[text]

    @contextmanager
    def of(self, digest: Digest) -> Iterator[None]:
        """Be a user in this context."""
        self.enter(digest)
        try:
            yield
        finally:
            self.leave(digest)

    def is_used(self, digest: str) -> bool:
        """Return whether an object is in use; may be asked in any thread."""
        return self._users.get(digest, 0) > 0

    # --- past ------------------------------------------------------------------------------

    def touch(self, digest: Digest) -> bool:
        """Note a use; returns False when one within the last minute is noted already."""
        text, now = str(digest), self._clock.monotonic()
        if now - self._touched.get(text, -TOUCH_EVERY_SECONDS) < TOUCH_EVERY_SECONDS:
            return False
        self._touched[text] = now
        self._pending[text] = self._clock.wall()
        return True

    def take_pending(self) -> list[tuple[str, float]]:
        """Return the uses that are not written yet, and forget the old ones."""
        now = self._clock.monotonic()
        self._touched = {
            digest: at for digest, at in self._touched.items() if now - at < TOUCH_EVERY_SECONDS
        }
        pending, self._pending = self._pending, {}
        return sorted(pending.items())
