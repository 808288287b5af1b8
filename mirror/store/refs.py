"""The facts that must survive the index: small files under ``refs/``.

They are written before the index row. A name beginning with ``~`` is a file that was never
finished; tags and digests cannot begin so.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from mirror.domain.errors import MirrorError
from mirror.domain.names import Digest, Repository, Tag
from mirror.runtime.unreadable import UNREADABLE
from mirror.store.layout import Layout

F = TypeVar("F", "TagRef", "ManifestRef", "BlobRef")

_CONFIRM_EVERY_SECONDS: Final = 3600


class TagRef(msgspec.Struct, frozen=True):
    """What a tag means and meant, newest first in ``history``."""

    digest: str
    seen_at: float
    confirmed_at: float
    history: tuple[tuple[str, float], ...] = ()


class ManifestRef(msgspec.Struct, frozen=True):
    """That a repository has a manifest, and as what it was served."""

    media_type: str
    scope: str
    size_bytes: int
    stored_at: float
    answered_at: float


class BlobRef(msgspec.Struct, frozen=True):
    """That upstream answered for a blob of a repository.

    ``fetched`` tells that the bytes came with the credentials of ``scope``, too: without the
    index, it is all that says who may see them.
    """

    scope: str
    size_bytes: int | None
    answered_at: float
    fetched: bool = False


class Refs:
    """Reads and writes ``refs/``; all calls are synchronous."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def put_tag(self, repository: Repository, tag: Tag, ref: TagRef) -> None:
        """Write what a tag means."""
        self._layout.replace_file(self._layout.tag(repository, tag), msgspec.json.encode(ref))

    def tag(self, repository: Repository, tag: Tag) -> TagRef | None:
        """Return what a tag means, if it is known."""
        return read_ref(self._layout.tag(repository, tag), TagRef)

    def confirm_tag(self, repository: Repository, tag: Tag, ref: TagRef) -> None:
        """Write that a tag still means the same, but not more than once an hour.

        Without the index, the time in the file decides whether a tag is too old to be served.
        """
        before = read_ref(self._layout.tag(repository, tag), TagRef)
        if (
            before is None
            or before.digest != ref.digest
            or ref.confirmed_at - before.confirmed_at >= _CONFIRM_EVERY_SECONDS
        ):
            self.put_tag(repository, tag, ref)

    def put_manifest(self, repository: Repository, digest: Digest, ref: ManifestRef) -> None:
        """Write that a repository has a manifest."""
        path = self._layout.manifest_ref(repository, digest)
        self._layout.replace_file(path, msgspec.json.encode(ref))

    def manifest(self, repository: Repository, digest: Digest) -> ManifestRef | None:
        """Return as what a repository has a manifest, if it has it."""
        return read_ref(self._layout.manifest_ref(repository, digest), ManifestRef)

    def put_blob(self, repository: Repository, digest: Digest, ref: BlobRef) -> None:
        """Write that upstream answered for a blob."""
        path = self._layout.blob_ref(repository, digest)
        self._layout.replace_file(path, msgspec.json.encode(ref))

    def drop(self, repository: Repository, digest: Digest) -> None:
        """Delete the files that say that a repository brought an object."""
        self._layout.manifest_ref(repository, digest).unlink(missing_ok=True)
        self._layout.blob_ref(repository, digest).unlink(missing_ok=True)

    def drop_tag(self, repository: Repository, tag: Tag) -> None:
        """Delete what a tag means and meant."""
        self._layout.tag(repository, tag).unlink(missing_ok=True)

    def tags(self, repository: Repository) -> list[str]:
        """Return the tags that are known of a repository, in ASCII order."""
        try:
            names = [entry.name for entry in self._layout.tags(repository).iterdir()]
        except OSError:
            return []
        return sorted(name for name in names if _is_tag(name))

    def repositories(self) -> list[Repository]:
        """Return all repositories that have a tag, a manifest or a blob, in order."""
        found = []
        root = self._layout.root / "refs"
        for directory, names, _ in os.walk(root):
            if any(name.startswith("_") for name in names):
                found.append(repository_of(Path(directory), root))
                names[:] = [name for name in names if not name.startswith("_")]
        return sorted(repository for repository in found if repository is not None)

    def all_tags(self, repository: Repository) -> Iterator[tuple[Tag, TagRef]]:
        """Yield every tag that can be read."""
        for name in self.tags(repository):
            tag = Tag(name)
            ref = read_ref(self._layout.tag(repository, tag), TagRef)
            if ref is not None:
                yield tag, ref

    def all_manifests(self, repository: Repository) -> Iterator[tuple[Digest, ManifestRef]]:
        """Yield every manifest reference that can be read."""
        yield from _by_digest(self._layout.tags(repository).parent / "_manifests", ManifestRef)

    def all_blobs(self, repository: Repository) -> Iterator[tuple[Digest, BlobRef]]:
        """Yield every blob reference that can be read."""
        yield from _by_digest(self._layout.tags(repository).parent / "_blobs", BlobRef)


def repository_of(directory: Path, root: Path) -> Repository | None:
    """Return whose facts stand in a directory below *root*, which is ``refs/``."""
    upstream, *parts = (*directory.relative_to(root).parts, "")
    try:
        return Repository(upstream, "/".join(parts[:-1]))
    except MirrorError:
        return None


def _is_tag(name: str) -> bool:
    try:
        Tag(name)
    except MirrorError:
        return False
    return True


def _by_digest(directory: Path, kind: type[F]) -> Iterator[tuple[Digest, F]]:
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        try:
            digest = Digest.parse(path.name)
        except MirrorError:
            continue
        ref = read_ref(path, kind)
        if ref is not None:
            yield digest, ref


def read_ref(path: Path, kind: type[F]) -> F | None:
    """Return what a file says; ``None`` where there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, *UNREADABLE):
        return None
