"""What is known of repositories and objects: index rows, with the hot ones in memory."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar
from urllib.parse import urlencode

from mirror.domain.manifests import LinkKind, Manifest
from mirror.domain.names import Digest, Repository, Tag
from mirror.runtime.pools import Pools
from mirror.runtime.recent import MemoryTier, Recent
from mirror.store.index import Index, IndexBrokenError, object_key
from mirror.store.rows import Commit, DocumentRow, LinkRow, ObjectRow, TagRow

R = TypeVar("R", LinkRow, TagRow, ObjectRow, DocumentRow)
AnyRow = LinkRow | TagRow | ObjectRow | DocumentRow
_ROW_BYTES = 600
"""About what a small row and its key cost in memory."""
_ABSENT_MAX = 2000
"""A miss asks several times for what is not there, until it is: from memory after the first."""


class Facts:
    """Asynchronous access to the index; a row read twice comes from memory."""

    def __init__(self, index: Index, pools: Pools, tier: MemoryTier) -> None:
        self._index = index
        self._pools = pools
        self._recent: Recent[LinkRow | TagRow | ObjectRow | DocumentRow] = Recent(
            tier, "row", lambda row: _ROW_BYTES + sys.getsizeof(row)
        )
        self._absent: dict[str, None] = {}
        self._looks: Counter[str] = Counter()
        self._changed: set[str] = set()
        self.losses = 0
        """How many objects have gone so far: what was complete before may not be any more."""
        self.changed: Callable[[Repository | None, Tag | None], None] = lambda *_: None
        """Called when a tag may mean something else; without one, when anything may have gone."""

    async def link(self, repository: Repository, digest: Digest, kind: LinkKind) -> LinkRow | None:
        """Return whether, and on whose word, a repository has an object."""
        return await self._get(link_key(repository, digest, kind), LinkRow)

    def link_at_hand(
        self, repository: Repository, digest: Digest, kind: LinkKind
    ) -> LinkRow | None:
        """Return what ``link`` does, if that is in memory."""
        found = self._recent.peek(link_key(repository, digest, kind))
        return found if isinstance(found, LinkRow) else None

    def object_at_hand(self, digest: Digest) -> ObjectRow | None:
        """Return what ``object`` does, if that is in memory."""
        found = self._recent.peek(object_key(str(digest)))
        return found if isinstance(found, ObjectRow) else None

    async def about(
        self, repository: Repository, digest: Digest, kind: LinkKind
    ) -> tuple[LinkRow | None, ObjectRow | None]:
        """Return what ``link`` and ``object`` do, by one look at the index if one is needed."""
        link_at, object_at = link_key(repository, digest, kind), object_key(str(digest))
        if self._is_known(link_at) or self._is_known(object_at):
            return await self._get(link_at, LinkRow), await self._get(object_at, ObjectRow)
        link, row = await self._look({link_at: LinkRow, object_at: ObjectRow})
        return (
            link if isinstance(link, LinkRow) else None,
            row if isinstance(row, ObjectRow) else None,
        )

    async def put_link(
        self, repository: Repository, digest: Digest, kind: LinkKind, row: LinkRow
    ) -> None:
        """Write a link."""
        await self._put(link_key(repository, digest, kind), row)

    async def remember(self, commit: Commit, row: ObjectRow) -> None:
        """Keep in memory what the index has just been told."""
        for key, _ in commit.links:
            self._change(key)
        await self._remember(object_key(commit.digest), row)
        if commit.own_link is not None:
            await self._remember(*commit.own_link)

    async def tag(self, repository: Repository, tag: Tag) -> TagRow | None:
        """Return what a tag means."""
        return await self._get(tag_key(repository, tag), TagRow)

    async def put_tag(self, repository: Repository, tag: Tag, row: TagRow) -> None:
        """Write what a tag means."""
        await self._put(tag_key(repository, tag), row)
        self.changed(repository, tag)

    async def document(
        self, repository: Repository, name: str, query: Sequence[tuple[str, str]]
    ) -> DocumentRow | None:
        """Return a stored list of upstream."""
        return await self._get(document_key(repository, name, query), DocumentRow)

    async def put_document(
        self, repository: Repository, name: str, query: Sequence[tuple[str, str]], row: DocumentRow
    ) -> None:
        """Write a list of upstream."""
        await self._put(document_key(repository, name, query), row)

    async def object(self, digest: Digest) -> ObjectRow | None:
        """Return the facts of a stored object."""
        return await self._get(object_key(str(digest)), ObjectRow)

    async def forget_object(self, digest: str) -> None:
        """Forget an object in memory: its row is gone."""
        self._change(object_key(digest))
        self.losses += 1
        await self._recent.drop(object_key(digest))
        self.changed(None, None)

    async def forget(self, keys: Iterable[str]) -> None:
        """Forget rows in memory that have been deleted."""
        for key in keys:
            self._change(key)
            await self._recent.drop(key)
        self.changed(None, None)

    async def _get(self, key: str, kind: type[R]) -> R | None:
        found = self._recent.peek(key)
        if isinstance(found, kind):
            return found
        if key in self._absent:
            return None
        [row] = await self._look({key: kind})
        return row if isinstance(row, kind) else None

    def _is_known(self, key: str) -> bool:
        return key in self._absent or self._recent.peek(key) is not None

    async def _look(self, wanted: Mapping[str, type[AnyRow]]) -> list[AnyRow | None]:
        """Read rows, and keep in memory what they are, or that there are none."""
        self._looks.update(wanted.keys())
        try:
            rows = await self._pools.index_read.run(self._read, wanted)
            for key, row in zip(wanted, rows, strict=True):
                if key in self._changed:
                    continue  # it may be what stood there before
                if row is None:
                    self._note_absent(key)
                else:
                    await self._recent.put(key, row)
        except IndexBrokenError:
            return [None for _ in wanted]  # nobody can tell: the next one asks again
        finally:
            self._looks.subtract(wanted.keys())
            for key in wanted:
                if not self._looks[key]:
                    del self._looks[key]
                    self._changed.discard(key)
        return rows

    def _read(self, wanted: Mapping[str, type[AnyRow]]) -> list[AnyRow | None]:
        return [self._index.read(key, kind) for key, kind in wanted.items()]

    def _change(self, key: str) -> None:
        """Note that what is known of a row, or is being read, is not what it is now."""
        self._absent.pop(key, None)
        if key in self._looks:
            self._changed.add(key)

    def _note_absent(self, key: str) -> None:
        while len(self._absent) >= _ABSENT_MAX:
            del self._absent[next(iter(self._absent))]
        self._absent[key] = None

    async def _put(self, key: str, row: R) -> None:
        await self._pools.index_write.run(self._index.put, key, row)
        await self._remember(key, row)

    async def _remember(self, key: str, row: R) -> None:
        self._change(key)
        await self._recent.put(key, row)


def link_key(repository: Repository, digest: Digest, kind: LinkKind) -> str:
    """Return the key of a link's row."""
    return f"l:{kind}:{repository}@{digest}"


def manifest_links(repository: Repository, manifest: Manifest) -> Iterator[tuple[str, LinkRow]]:
    """Yield the links that a verified manifest makes for its repository."""
    for link in manifest.links:
        row = LinkRow(link.size_bytes, link.media_type, 0)
        yield link_key(repository, link.digest, link.kind), row


def tag_key(repository: Repository, tag: Tag) -> str:
    """Return the key of a tag's row."""
    return f"t:{repository}:{tag}"


def document_key(repository: Repository, name: str, query: Sequence[tuple[str, str]]) -> str:
    """Return the key of a list's row."""
    return f"d:{repository}/{name}?{urlencode(sorted(query))}"
