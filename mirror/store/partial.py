"""An object on its way in: either a verified file comes out of it, or nothing.

All calls are synchronous; ``append``, ``verify`` and ``publish`` belong in a thread. Bytes
are written at explicit offsets, because ``sendfile`` to the readers moves the position that
a descriptor has.
"""

import hashlib
import os
import threading
from pathlib import Path
from typing import BinaryIO, Final

from mirror.domain.names import Digest
from mirror.store.layout import make_directory, sync_directory

_sync: Final = getattr(os, "fdatasync", os.fsync)
"""macOS has no fdatasync."""

_SYNC_EVERY_BYTES: Final = 64 * 1024 * 1024


class PartialClosedError(Exception):
    """The fill was given up while a piece of it was still on its way to the disk."""


class Partial:
    """A growing file, its hash, and the name it gets when it is right.

    ``length_bytes`` is how much is on disk. ``close`` may come at any moment, from the event
    loop, even while a thread appends: the lock makes it wait for that one piece.
    """

    def __init__(self, digest: Digest, path: Path, target: Path) -> None:
        self.digest = digest
        self._path = path
        self._target = target
        self._lock = threading.Lock()
        self._hash = digest.new_hash()
        self._synced_bytes = 0
        self._published = False
        self.file: BinaryIO = path.open("w+b", buffering=0)
        self.length_bytes = 0

    def append(self, pieces: list[bytes]) -> None:
        """Hash and write what has come.

        Raises:
            OSError: the disk is full or broken.
            PartialClosedError: it was closed meanwhile.
        """
        with self._lock:
            if self.file.closed:
                raise PartialClosedError
            for piece in pieces:
                self._hash.update(piece)
                self._write(piece)
            if self.length_bytes - self._synced_bytes >= _SYNC_EVERY_BYTES:
                _sync(self.file.fileno())
                self._synced_bytes = self.length_bytes

    def begins_with(self, prefix_hash: "hashlib._Hash") -> bool:
        """Return whether another download's first ``length_bytes`` bytes are the same ones."""
        return prefix_hash.digest() == self._hash.digest()

    def is_right(self) -> bool:
        """Return whether the bytes, all of them, are what the digest names."""
        return self._hash.hexdigest() == self.digest.hex

    def publish(self) -> None:
        """Give the verified file its name, for good: fsync, rename, fsync of the directory."""
        with self._lock:
            if self.file.closed:
                raise PartialClosedError
            os.ftruncate(self.file.fileno(), self.length_bytes)
            os.fsync(self.file.fileno())
            make_directory(self._target.parent)
            self._path.replace(self._target)
            self._published = True
            sync_directory(self._target.parent)

    def discard(self) -> None:
        """Remove the file unless it was published; readers keep what they have open."""
        if not self._published:
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self.file.close()

    def _write(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            written = os.pwrite(self.file.fileno(), view, self.length_bytes)
            self.length_bytes += written
            view = view[written:]
