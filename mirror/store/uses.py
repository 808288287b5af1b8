"""When each object was used last.

Last uses are noted in memory and written in batches, once a minute for each object: a hot
image costs no write on the way.
"""

from typing import Final

from mirror.domain.names import Digest
from mirror.runtime.clock import Clock

TOUCH_EVERY_SECONDS: Final = 60


class Uses:
    """Last uses of objects that are not written yet."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._touched: dict[str, float] = {}
        self._pending: dict[str, float] = {}

    def touch(self, digest: Digest) -> bool:
        """Note a use; returns False when one within the last minute is noted already."""
        text, now = str(digest), self._clock.monotonic()
        if now - self._touched.get(text, -TOUCH_EVERY_SECONDS) < TOUCH_EVERY_SECONDS:
            return False
        self._touched[text] = now
        self._pending[text] = self._clock.wall()
        return True

    def touch_linked(self, digest: Digest) -> None:
        """Note a use that comes from a manifest: never older than that of the manifest."""
        self._touched[str(digest)] = self._clock.monotonic()
        self._pending[str(digest)] = self._clock.wall()

    def take_pending(self) -> list[tuple[str, float]]:
        """Return the uses that are not written yet, and forget the old ones."""
        now = self._clock.monotonic()
        self._touched = {
            digest: at for digest, at in self._touched.items() if now - at < TOUCH_EVERY_SECONDS
        }
        pending, self._pending = self._pending, {}
        return sorted(pending.items())
