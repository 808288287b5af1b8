"""Where things stand below the cache directory. Paths are built from validated names only.

::

    blobs/sha256/ab/<hex>                            verified, immutable
    refs/<upstream>/<repository>/_tags/<tag>         what a tag means (JSON)
    refs/<upstream>/<repository>/_manifests/<digest> media type, scope, times (JSON)
    refs/<upstream>/<repository>/_blobs/<digest>     upstream's own word for a blob (JSON)
    partial/<scope>-<alg>-<hex>                      a file that grows, and beside it
    partial/<scope>-<alg>-<hex>.json                 what it is the beginning of
    partial/~<process>-<number>                      a small file that gets its name when whole
    index/                                           diskcache: a cache of the above
    pins.json                                        images that are never evicted
    VERSION
"""

import fcntl
import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from mirror.domain.errors import MirrorError
from mirror.domain.names import Digest, Repository, Tag

VERSION: Final = "1"
_NUMBERS: Final = itertools.count()


class LayoutError(Exception):
    """The cache directory cannot be used; the message says why and what to do."""


class InUseError(LayoutError):
    """Another mirror uses the directory."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The cache directory."""

    root: Path

    def prepare(self) -> None:
        """Create what is missing and check that the directory is ours.

        Raises:
            LayoutError: it cannot be created or written, or is of a later version.
        """
        try:
            found = self._prepared_version()
        except OSError as error:
            raise LayoutError(
                f"the cache directory {self.root} cannot be used: {error.strerror}; "
                "set cache.directory (MIRROR_CACHE__DIRECTORY) to a directory that can be written"
            ) from None
        if found != VERSION:
            raise LayoutError(
                f"the cache directory {self.root} has the layout {found[:32]!r}, this program "
                f"knows {VERSION!r}; use another directory or the program that wrote it"
            )

    def _prepared_version(self) -> str:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("blobs", "refs", "partial", "index"):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)
        version = self.root / "VERSION"
        if not version.exists() or not version.stat().st_size:
            self.replace_file(version, f"{VERSION}\n".encode())
        else:
            with suppress(PermissionError):  # a volume that belongs to somebody else
                self.root.chmod(0o700)
        return version.read_text(encoding="ascii", errors="replace").strip()

    def lock(self) -> BinaryIO:
        """Claim the directory for this process, until the returned file is closed.

        Raises:
            InUseError: another mirror uses it; both would remove each other's downloads.
        """
        path = self.root / "VERSION"
        while True:
            file = path.open("rb")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                raise InUseError(
                    f"the cache directory {self.root} is used by another mirror; stop that, or "
                    "set cache.directory (MIRROR_CACHE__DIRECTORY) to another directory"
                ) from None
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
            file.close()  # another start has just written it: the lock is on a file that is gone

    @property
    def index(self) -> Path:
        """The directory of the index."""
        return self.root / "index"

    @property
    def partials(self) -> Path:
        """The directory of files that grow."""
        return self.root / "partial"

    def blob(self, digest: Digest) -> Path:
        """Return where the object stands or will stand."""
        return self.root / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex

    def objects(self) -> Iterator[tuple[Digest, Path]]:
        """Yield all files of ``blobs/`` that have the name of an object."""
        for path in (self.root / "blobs").glob("*/*/*"):
            try:
                digest = Digest(path.parent.parent.name, path.name)
            except MirrorError:
                continue
            if path == self.blob(digest) and _is_regular(path):
                yield digest, path

    def partial(self, scope: str, digest: Digest) -> Path:
        """Return where the object grows that is fetched in *scope*."""
        return self.partials / f"{scope}-{digest.algorithm}-{digest.hex}"

    def tags(self, repository: Repository) -> Path:
        """Return the directory of a repository's tags."""
        return self._repository(repository) / "_tags"

    def tag(self, repository: Repository, tag: Tag) -> Path:
        """Return the file of a tag."""
        return self.tags(repository) / tag.name

    def manifest_ref(self, repository: Repository, digest: Digest) -> Path:
        """Return the file that says that a repository has a manifest."""
        return self._repository(repository) / "_manifests" / str(digest)

    def blob_ref(self, repository: Repository, digest: Digest) -> Path:
        """Return the file that says that upstream answered for a blob of a repository."""
        return self._repository(repository) / "_blobs" / str(digest)

    def _repository(self, repository: Repository) -> Path:
        return self.root / "refs" / repository.upstream / repository.name

    def replace_file(self, path: Path, content: bytes, *, is_durable: bool = True) -> None:
        """Write a small file so that at any moment the old or the new one is there, whole.

        Unless it *is_durable*, a power failure may leave the old one, an empty one or none.
        """
        scratch = self.partials / f"~{os.getpid()}-{next(_NUMBERS)}"
        try:
            _write_file(scratch, content, is_durable=is_durable)
            try:
                scratch.replace(path)
            except FileNotFoundError:  # it is the first of its directory
                make_directory(path.parent)
                scratch.replace(path)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
        if is_durable:
            sync_directory(path.parent)


def _is_regular(path: Path) -> bool:
    """Return whether there is a file that is no link, as far as the disk says."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _write_file(path: Path, content: bytes, *, is_durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        if is_durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create a directory and its parents so that their names outlast a power failure."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(mode=0o700, exist_ok=True)
        sync_directory(directory.parent)


def sync_directory(path: Path) -> None:
    """Make a new name in a directory outlast a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
