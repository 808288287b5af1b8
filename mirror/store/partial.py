"""An object on its way in: either a verified file comes out of it, or nothing.

Most calls are synchronous and belong in a thread. Bytes are written at explicit offsets,
because ``sendfile`` to the readers moves the position that a descriptor has.

Beside the file stands a sidecar that says of what it is the beginning, so that the next
process goes on with it (invariant 4).
"""

import fcntl
import hashlib
import io
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import msgspec

from mirror.domain.names import Digest
from mirror.store.layout import make_directory, sync_directory
from mirror.store.locks import open_shared
from mirror.store.sidecar import (
    Sidecar,
    boot_id,
    read_sidecar,
    remove_partial,
    sidecar_path,
)

_sync: Final = getattr(os, "fdatasync", os.fsync)
"""macOS has no fdatasync."""

_SYNC_EVERY_BYTES: Final = 64 * 1024 * 1024
_SYNC_EVERY_SECONDS: Final = 1.0
"""Both must be over. A download that is over before has its readers' cores for itself."""
QUICK_BYTES: Final = 2 * 1024 * 1024
_QUICK_SECONDS: Final = 1.0
_READ_BYTES: Final = 1024 * 1024
_TURN_BYTES: Final = 64 * 1024 * 1024
_REPOSITORIES_MAX: Final = 16
_TRIES: Final = 50
_PAUSE_SECONDS: Final = 0.02


Piece = bytes | memoryview


class PartialClosedError(Exception):
    """The fill was given up while a piece of it was still on its way to the disk."""


class ReplaceFile(Protocol):
    """Writes a small file as ``Layout.replace_file`` does."""

    def __call__(self, path: Path, content: bytes, *, is_durable: bool = True) -> None:
        """Write it."""


class Partial:
    """A growing file, its hash, and the name it gets when it is right.

    ``length_bytes`` is how much is on disk, ``resumed_bytes`` how much of it came from
    before; ``sidecar`` is what was known then. ``close`` may come at any moment, from the
    event loop, even while a thread appends: the lock makes it wait for that one piece.

    The writer holds an exclusive lock on the file, which turns into a shared one when the
    file gets its name: so eviction leaves it alone until its last reader has gone.
    """

    def __init__(
        self,
        digest: Digest,
        path: Path,
        target: Path,
        replace_file: ReplaceFile,
    ) -> None:
        """Open the file, or go on with the one that is there.

        Raises:
            OSError: it cannot be opened; BlockingIOError: somebody else writes it.
        """
        self.digest = digest
        self.path = path
        self._opened_at = time.monotonic()
        self._target = target
        self._replace_file = replace_file
        self._lock = threading.Lock()
        self._hash = digest.new_hash()
        self._published = False
        self._is_given_up = False
        self._twin: BinaryIO | None = None
        self._formers: list[Former] = []
        self._description: tuple[int | None, tuple[str, ...], str] | None = None
        file, self._is_new = _locked(path)
        self.file: BinaryIO = file
        try:
            self.sidecar = None if self._is_new else read_sidecar(path)
            self.length_bytes = self._usable_bytes()
            if not self._is_new:
                os.ftruncate(file.fileno(), self.length_bytes)
        except BaseException:
            file.close()
            raise
        self.resumed_bytes = self.length_bytes
        self._rebuilt_bytes = 0
        self._synced_bytes = min(
            self.length_bytes, self.sidecar.synced_bytes if self.sidecar else 0
        )
        self._synced_at = time.monotonic()

    def describe(self, size_bytes: int | None, repository: str, endpoint: str) -> None:
        """Note what this is the beginning of, and who said so last; written with what comes."""
        known = self.sidecar.repositories if self.sidecar else ()
        repositories = tuple(dict.fromkeys((repository, *known)))[:_REPOSITORIES_MAX]
        self._description = (size_bytes, repositories, endpoint)

    def rebuild(self, turn_bytes: int = _TURN_BYTES) -> bool:
        """Hash more of what is there from before; all of it, before anything is appended.

        Returns whether that was the last of it.

        Raises:
            OSError: it cannot be read.
            PartialClosedError: it was closed meanwhile.
        """
        stop_bytes = min(self._rebuilt_bytes + turn_bytes, self.resumed_bytes)
        while self._rebuilt_bytes < stop_bytes:
            with self._lock:
                if self.file.closed:
                    raise PartialClosedError
                count = min(_READ_BYTES, stop_bytes - self._rebuilt_bytes)
                data = os.pread(self.file.fileno(), count, self._rebuilt_bytes)
                if not data:
                    raise OSError(None, "a partial is shorter than it was")
                self._hash.update(data)
            self._rebuilt_bytes += len(data)
        return self._rebuilt_bytes == self.resumed_bytes

    def replaces(self, former: "Partial") -> "Former":
        """Compare all that is appended with what readers got of *former*."""
        self._formers.append(Former(former))
        return self._formers[-1]

    def hash(self, pieces: Sequence[Piece]) -> None:
        """Hash what has come; before, after or beside ``write`` of the same pieces."""
        for piece in pieces:
            self._hash.update(piece)

    def write(self, pieces: Sequence[Piece]) -> None:
        """Write what has come.

        Raises:
            OSError: the disk is full or broken.
            PartialClosedError: it was closed meanwhile.
        """
        with self._lock:
            if self.file.closed:
                raise PartialClosedError
            if not self._is_soon_whole():
                self._write_description()
            for former in self._formers:
                offset = self.length_bytes
                for piece in pieces:
                    former.compare(piece, offset)
                    offset += len(piece)
            for piece in pieces:
                self._write(piece)

    @property
    def is_described(self) -> bool:
        """Whether it is known of what this is the beginning."""
        return self.sidecar is not None or self._description is not None

    @property
    def wants_sync(self) -> bool:
        """Whether so much has come since the last time that it should be synced."""
        if self.length_bytes - self._synced_bytes < _SYNC_EVERY_BYTES:
            return False
        return time.monotonic() - self._synced_at >= _SYNC_EVERY_SECONDS

    def sync(self) -> None:
        """Make what has come outlast a power failure; others may append meanwhile.

        By a descriptor of its own: what fails here is told again to ``publish``.
        """
        with self._lock:
            if not self._is_ours():
                return
            length_bytes = self.length_bytes
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _sync(descriptor)
        finally:
            os.close(descriptor)
        with self._lock:
            if not self._is_ours():
                return
            self._synced_bytes, self._synced_at = length_bytes, time.monotonic()
            if self.sidecar is not None:
                self.sidecar = msgspec.structs.replace(self.sidecar, synced_bytes=length_bytes)
                self._write_sidecar(is_durable=True)

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
            os.fsync(self.file.fileno())
            fcntl.flock(self.file, fcntl.LOCK_SH)
            self._twin = self._open_twin()
            if self._twin is None:
                self._rename()
            else:
                self.path.unlink()
            self._published = True
            sync_directory(self._target.parent)
            if self.sidecar is not None or not self._is_new:
                sidecar_path(self.path).unlink(missing_ok=True)

    def _rename(self) -> None:
        try:
            self.path.replace(self._target)
        except FileNotFoundError:  # it is the first of its directory
            make_directory(self._target.parent)
            self.path.replace(self._target)

    def _open_twin(self) -> BinaryIO | None:
        """Open, and so keep, the same object if it has been stored by another way.

        One that is just being removed is waited for: whoever removes it must not meet ours.
        """
        for _ in range(_TRIES):
            if not self._target.exists():
                return None
            twin = open_shared(self._target)
            if twin is not None:
                if os.fstat(twin.fileno()).st_size == self.length_bytes:
                    return twin
                twin.close()
                return None
            time.sleep(_PAUSE_SECONDS)
        return None

    @property
    def is_published(self) -> bool:
        """Whether the file has its name."""
        return self._published

    def discard(self) -> None:
        """Remove the file unless it was published; readers keep what they have open."""
        with self._lock:
            if not self._published:
                self._is_given_up = True
                remove_partial(self.path)

    def rest(self) -> None:
        """Let somebody else go on with the file; readers keep it open."""
        with self._lock:
            if self._is_ours() and self.length_bytes:
                with suppress(OSError):
                    self._write_description()
            self._is_given_up = True
            if not self.file.closed:
                fcntl.flock(self.file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self.file.close()
            if self._twin is not None:
                self._twin.close()

    # --- inside ----------------------------------------------------------------------------

    def _is_ours(self) -> bool:
        """Tell whether what stands at the path, and beside it, is still what we write."""
        return not (self.file.closed or self._published or self._is_given_up)

    def _usable_bytes(self) -> int:
        """Return how much of the file from before is to be believed."""
        if self.sidecar is None:
            return 0
        length_bytes = os.fstat(self.file.fileno()).st_size
        if self.sidecar.boot_id != boot_id() or not self.sidecar.boot_id:
            length_bytes = min(length_bytes, self.sidecar.synced_bytes)
        if self.sidecar.size_bytes is not None:
            length_bytes = min(length_bytes, self.sidecar.size_bytes)
        return length_bytes

    def _is_soon_whole(self) -> bool:
        """Tell whether it is small and quick: then a kill may as well cost what has come.

        To say of what it is the beginning takes longer than to fetch it once more.
        """
        size_bytes = self._description[0] if self._description else None
        if size_bytes is None or size_bytes > QUICK_BYTES or not self._is_new:
            return False
        return time.monotonic() - self._opened_at < _QUICK_SECONDS

    def _write_description(self) -> None:
        description, self._description = self._description, None
        if description is not None:
            self.sidecar = Sidecar(*description, self._synced_bytes, boot_id())
            # The first readers wait for this, and what has come is not synced either.
            self._write_sidecar(is_durable=False)

    def _write_sidecar(self, *, is_durable: bool) -> None:
        content = msgspec.json.encode(self.sidecar)
        self._replace_file(sidecar_path(self.path), content, is_durable=is_durable)

    def _write(self, piece: Piece) -> None:
        view = memoryview(piece)
        while view:
            written = os.pwrite(self.file.fileno(), view, self.length_bytes)
            self.length_bytes += written
            view = view[written:]


class Former:
    """What readers got of an object whose bytes turned out to be wrong.

    Those whose bytes are right so far go on with the new download: the first
    ``agreed_bytes`` are the same in both. ``differs`` tells that no more will be.
    """

    def __init__(self, partial: Partial) -> None:
        self._file = partial.file
        self._length_bytes = partial.length_bytes
        self.agreed_bytes = 0
        self.differs = False

    def compare(self, piece: Piece, offset: int) -> None:
        """Compare a piece of the new download, which comes at *offset*; in a thread."""
        if self.differs or offset >= self._length_bytes:
            return
        count = min(len(piece), self._length_bytes - offset)
        data = os.pread(self._file.fileno(), count, offset)
        agreed = _common(memoryview(piece), memoryview(data))
        self.agreed_bytes = offset + agreed
        self.differs = agreed < count


def _common(one: memoryview, other: memoryview) -> int:
    """Return how many bytes at the beginning are the same."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle)
    return low


def _locked(path: Path) -> tuple[BinaryIO, bool]:
    """Open a file that nobody else writes, and tell whether it is new.

    It is still the one at *path* when we have it.
    """
    while True:
        descriptor, is_new = _opened(path)
        file = io.FileIO(descriptor, "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return file, is_new
        except BaseException:
            file.close()
            raise
        file.close()  # it was renamed or removed in between


def _opened(path: Path) -> tuple[int, bool]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_EXCL, 0o600), True
    except FileExistsError:
        return os.open(path, flags, 0o600), False
