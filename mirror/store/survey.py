"""What the index says, all of it, and what that would have to be."""

from collections import Counter
from collections.abc import Iterator

from mirror.domain.errors import MirrorError
from mirror.domain.names import Digest
from mirror.runtime.steps import in_steps
from mirror.store.index import object_key
from mirror.store.order import count_key
from mirror.store.removal import children
from mirror.store.rows import CountRow, DocumentRow, LinkRow, ObjectRow
from mirror.store.store import Store
from mirror.store.stored import is_gone


class Survey:
    """One look through the index; what changes meanwhile may be seen or not."""

    def __init__(self, store: Store) -> None:
        self._layout = store.parts.layout
        self._index = store.parts.index
        self._pool = store.parts.pools.inspect
        self.stored: set[str] = set()
        """Objects that have a row."""
        self.without_file: list[str] = []
        self.documents: list[tuple[str, str]] = []
        """Keys of lists, and the objects that hold them."""
        self._linked: set[str] = set()
        self._counted: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._links: list[str] = []
        self._has_unreadable = False
        """Of some manifest it is not known what it links."""

    async def look(self) -> None:
        """Look through the index and read the manifests."""
        async for _ in in_steps(self._pool, self._seen()):
            pass

    def _seen(self) -> Iterator[None]:
        for key in self._index.all_keys():
            kind, _, name = key.partition(":")
            if kind == "o":
                self._see_object(name)
            elif kind == "l":
                self._linked.add(name.rpartition("@")[2])
            elif kind == "c":
                self._counted.add(name)
            elif kind == "d":
                row = self._index.get(key, DocumentRow)
                self.documents.append((key, row.digest if row else ""))
            yield

    def _see_object(self, digest: str) -> None:
        row = self._index.get(object_key(digest), ObjectRow)
        try:
            path = self._layout.blob(Digest.parse(digest))
        except MirrorError:
            return
        if row is None:
            return
        self.stored.add(digest)
        if row.is_blob:
            if is_gone(path):
                self.without_file.append(digest)
            return
        try:
            self._counts.update(dict.fromkeys(children(path.read_bytes(), digest), 1))
        except OSError:
            if is_gone(path):
                self.without_file.append(digest)
            else:
                self._has_unreadable = True

    def wrong_counts(self) -> Iterator[tuple[str, int]]:
        """Yield objects that more or fewer manifests link than the index says."""
        for digest in self._counted | self._counts.keys():
            count = self._links_to(digest)
            if self._count(digest) != count:
                yield digest, count

    def unreachable(self, young: float) -> Iterator[tuple[str, ObjectRow]]:
        """Yield objects that nobody can ask for, last used before *young*."""
        listed = {digest for _, digest in self.documents}
        for digest in self.stored - self._linked - listed - set(self.without_file):
            row = self._index.get(object_key(digest), ObjectRow)
            if row is not None and row.used_at < young and not self._links_to(digest):
                yield digest, row

    def dead_links(self) -> Iterator[tuple[str, LinkRow]]:
        """Yield links to what is not here and no manifest links."""
        for key in self._index.all_keys():
            digest = key.rpartition("@")[2]
            if not key.startswith("l:") or digest in self.stored or self._links_to(digest):
                continue
            row = self._index.get(key, LinkRow)
            if row is not None:
                yield key, row

    def _links_to(self, digest: str) -> int:
        """Return how many manifests link an object; one that cannot be read may be among them."""
        counted = self._counts[digest]
        return max(counted, self._count(digest)) if self._has_unreadable else counted

    def _count(self, digest: str) -> int:
        row = self._index.get(count_key(digest), CountRow)
        return row.count if row else 0
