"""How objects go: the row first, then the files, so that a crash can be tidied up.

Everything here is synchronous and belongs in the index thread, which does one such thing at
a time.
"""

from collections.abc import Callable, Collection, Sequence
from typing import BinaryIO, Final

from mirror.domain.errors import MirrorError
from mirror.domain.manifests import read_manifest
from mirror.domain.names import Digest, Repository
from mirror.observe.logs import get_logger
from mirror.store.index import Demand, Evicted, Index
from mirror.store.layout import Layout, sync_directory
from mirror.store.locks import is_at, open_exclusive
from mirror.store.refs import Refs
from mirror.store.rows import ObjectRow
from mirror.store.stored import is_gone

_TOLD_MAX: Final = 1000
_log = get_logger("store")


class Removals:
    """Removes objects that nobody uses.

    ``pinned`` tells which never go, ``under_way`` which are just being given their names: a
    commit that has been announced leaves its file alone until its row is written, and one
    that is announced later waits in the index thread until we have done.
    """

    def __init__(
        self,
        layout: Layout,
        refs: Refs,
        index: Index,
        pinned: Callable[[], Collection[str]],
        under_way: Collection[str],
    ) -> None:
        self._layout = layout
        self._refs = refs
        self._index = index
        self._pinned = pinned
        self._under_way = under_way
        self._condemned: dict[str, BinaryIO | None] = {}
        self._told: set[str] = set()
        """What was said to be unreadable: it comes up again and again."""

    def evict(self, demand: Demand) -> Evicted:
        """Remove what goes first until enough is free, in one short step; see ``Index.evict``."""
        try:
            evicted = self._index.evict(demand, self)
            self._remove_files(evicted.victims)
        finally:
            self._let_go()
        return evicted

    def remove(self, digest: str) -> ObjectRow | None:
        """Remove one object and return its row; ``None``: it is not here, used, or pinned."""
        try:
            victim = self._index.remove(digest, self)
            if victim is not None:
                self._remove_files([victim])
        finally:
            self._let_go()
        return victim[2] if victim else None

    def condemn(self, digest: str, row: ObjectRow) -> Sequence[str] | None:
        """Claim an object's file; returns what it links, or ``None`` if it stays.

        What the disk does not open stays, too: it must not keep all behind it from going.
        """
        path = self._layout.blob(Digest.parse(digest))
        is_lost = is_gone(path)
        if digest in self._under_way or (digest in self._pinned() and not is_lost):
            return None
        try:
            file = None if is_lost else open_exclusive(path)
        except OSError as error:
            self._tell_unreadable(digest, error)
            return None
        if file is None and not is_gone(path):
            return None
        self._condemned[digest] = file
        return [] if row.is_blob or file is None else _children_in(file, digest)

    def _tell_unreadable(self, digest: str, error: OSError) -> None:
        if digest in self._told:
            return
        if len(self._told) >= _TOLD_MAX:
            self._told.clear()
        self._told.add(digest)
        _log.warning(
            "an object cannot be opened, and so not be evicted; check the disk and the permissions",
            digest=digest,
            reason=str(error),
        )

    def _remove_files(self, victims: list[tuple[str, str, ObjectRow]]) -> None:
        """Remove the files of what has no row any more; what fails, the next start does."""
        try:
            self._unlink(victims)
            self._index.settled([entry for entry, _, _ in victims])
        except OSError as error:
            _log.error("files of evicted objects could not be removed", reason=str(error))

    def _unlink(self, victims: list[tuple[str, str, ObjectRow]]) -> None:
        directories = set()
        for _, digest, row in victims:
            path = self._layout.blob(Digest.parse(digest))
            file = self._condemned.get(digest)
            if file is not None and is_at(file, path):
                path.unlink(missing_ok=True)
                directories.add(path.parent)
            drop_refs(self._refs, digest, row.repositories)
        for directory in directories:
            sync_directory(directory)

    def _let_go(self) -> None:
        for file in self._condemned.values():
            if file is not None:
                file.close()
        self._condemned.clear()


def drop_refs(refs: Refs, digest: str, repositories: Sequence[str]) -> None:
    """Remove the files under ``refs/`` that say who brought an object."""
    for text in repositories:
        upstream, _, name = text.partition("/")
        refs.drop(Repository(upstream, name), Digest.parse(digest))


def _children_in(file: BinaryIO, digest: str) -> list[str]:
    """Return what an open manifest links; one that the disk does not give back links none."""
    try:
        return children(file.read(), digest)
    except OSError:
        return []


def children(content: bytes, digest: str) -> list[str]:
    """Return the digests that a stored manifest links; one that cannot be read links none."""
    try:
        manifest = read_manifest(content, None, Digest.parse(digest))
    except MirrorError:
        return []
    return [str(link.digest) for link in manifest.links]
