"""Downloads that wait to go on: partials that nobody writes.

They are counted against the bound with the length they have, go first when room is needed,
and go anyway when nobody has asked for them in ``cache.keep_partial``.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from mirror.domain.names import Digest
from mirror.observe.logs import get_logger
from mirror.runtime.clock import Clock
from mirror.store.layout import Layout
from mirror.store.partial import Partial
from mirror.store.sidecar import read_sidecar, remove_partial, sidecar_path

_SUFFIX: Final = ".json"
_TRIES: Final = 50
_PAUSE_SECONDS: Final = 0.02
_log = get_logger("store")


class Partials:
    """The directory of files that grow; ``idle_bytes`` is what those without a writer hold."""

    def __init__(self, layout: Layout, keep_seconds: float, clock: Clock) -> None:
        self._layout = layout
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._idle: dict[str, int] = {}

    @property
    def idle_bytes(self) -> int:
        """The bytes of all partials that nobody writes."""
        return sum(self._idle.values())

    @property
    def count(self) -> int:
        """How many partials wait."""
        return len(self._idle)

    def recover(self) -> None:
        """Look what the last process left: what can go on stays, scratch files go."""
        for path in sorted(self._layout.partials.iterdir()):
            if path.is_dir() and not path.is_symlink():
                continue
            if path.name.endswith(_SUFFIX):
                if not path.with_name(path.name.removesuffix(_SUFFIX)).is_file():
                    path.unlink(missing_ok=True)
            elif path.is_symlink() or read_sidecar(path) is None:
                remove_partial(path)
            else:
                self._idle[path.name] = path.stat().st_size
        self.expire()
        if self._idle:
            _log.info("downloads can go on", partials=len(self._idle), size_bytes=self.idle_bytes)

    def take(self, digest: Digest, scope: str) -> Partial:
        """Return the file of an object on its way in, with what is there of it already.

        To be called in a thread. The caller has to ``claim`` it before it is written, and
        to give it back by ``rest`` unless it was published or discarded.

        Raises:
            OSError: it cannot be opened; BlockingIOError: somebody else writes it.
        """
        path = self._layout.partial(scope, digest)
        for _ in range(_TRIES):
            with suppress(BlockingIOError):  # it is being evicted, or was given up a moment ago
                return self._opened(digest, path)
            time.sleep(_PAUSE_SECONDS)
        return self._opened(digest, path)

    def claim(self, partial: Partial) -> int:
        """Return how many bytes the caller accounts for from now on: they are not idle."""
        self._idle.pop(partial.path.name, None)
        return partial.length_bytes

    def rest(self, partial: Partial) -> None:
        """Keep a partial for whoever asks next; one without bytes is not worth it."""
        if partial.is_published:
            return
        if not partial.length_bytes or not partial.is_described:
            partial.discard()
            return
        partial.rest()
        self._idle[partial.path.name] = partial.length_bytes

    def drop(self, need_bytes: int) -> int:
        """Remove the idle partials that were written longest ago; returns the bytes freed."""
        freed_bytes = 0
        for name in sorted(self._idle, key=lambda name: _written_at(self._path(name))):
            if freed_bytes >= need_bytes:
                break
            freed_bytes += self.remove(name)
        return freed_bytes

    def expire(self) -> int:
        """Remove what nobody went on with for too long; returns the bytes freed."""
        return sum(self.remove(name) for name in self.expired())

    def expired(self) -> dict[str, int]:
        """Return the names and sizes of what nobody went on with for too long."""
        oldest = self._clock.wall() - self._keep_seconds
        return {
            name: size_bytes
            for name, size_bytes in sorted(self._idle.items())
            if _written_at(self._path(name)) < oldest
        }

    def _opened(self, digest: Digest, path: Path) -> Partial:
        return Partial(digest, path, self._layout.blob(digest), self._layout.replace_file)

    def remove(self, name: str) -> int:
        """Remove one idle partial, unless somebody goes on with it; returns the bytes freed."""
        path = self._path(name)
        with suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return 0  # another process goes on with it
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                remove_partial(path)
        sidecar_path(path).unlink(missing_ok=True)
        return self._idle.pop(name, 0)

    def _path(self, name: str) -> Path:
        return self._layout.partials / name


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
