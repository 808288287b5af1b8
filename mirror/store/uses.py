"""When each object was used last.

Last uses are noted in memory and written in batches, once a minute for each object: a hot
image costs no write on the way.
"""

from typing import Final

from mirror.domain.manifests import Manifest, is_index
from mirror.domain.names import Digest, Repository
from mirror.runtime.clock import Clock

TOUCH_EVERY_SECONDS: Final = 60


class Uses:
    """Last uses of objects that are not written yet."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._touched: dict[str, float] = {}
        self._pending: dict[str, float] = {}
        self._indexes: list[tuple[Repository, str, Manifest]] = []

    def touch(self, digest: Digest) -> bool:
        """Note a use; returns False when one within the last minute is noted already."""
        text, now = str(digest), self._clock.monotonic()
        if now - self._touched.get(text, -TOUCH_EVERY_SECONDS) < TOUCH_EVERY_SECONDS:
            return False
        self._touched[text] = now
        self._pending[text] = self._clock.wall()
        return True

    def touch_manifest(self, repository: Repository, manifest: Manifest, scope: str) -> None:
        """Note a use of a manifest; of an image's, that is one of its layers, too."""
        if not self.touch(manifest.digest):
            return
        if is_index(manifest.media_type):
            self._indexes.append((repository, scope, manifest))
        else:
            self.touch_linked(manifest)

    def touch_linked(self, manifest: Manifest, *more: Digest) -> None:
        """Note uses that come from a manifest: never older than that of the manifest."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        for digest in (*more, *(link.digest for link in manifest.links)):
            self._touched[str(digest)] = now
            self._pending[str(digest)] = wall

    def take_indexes(self) -> list[tuple[Repository, str, Manifest]]:
        """Return the indexes that were used, with repository and scope, and forget them.

        Which images they mean has to be read, to note a use of those.
        """
        indexes, self._indexes = self._indexes, []
        return indexes

    def take_pending(self) -> list[tuple[str, float]]:
        """Return the uses that are not written yet, and forget the old ones."""
        now = self._clock.monotonic()
        self._touched = {
            digest: at for digest, at in self._touched.items() if now - at < TOUCH_EVERY_SECONDS
        }
        pending, self._pending = self._pending, {}
        return sorted(pending.items())
