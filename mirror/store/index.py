"""What stands in ``blobs/``, what links it, and what has to go when there is no room.

The index is a cache of ``blobs/`` and ``refs/``: losing it costs time, never facts. All calls
are synchronous and belong in the index threads.
"""

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import msgspec

from mirror.runtime.unreadable import UNREADABLE
from mirror.store.database import ROWS_PER_TRANSACTION, Database, IndexBrokenError, Row, batches
from mirror.store.order import Head, Order, count_key, object_key
from mirror.store.rows import Commit, CountRow, LinkRow, ObjectRow, Removal, Totals

__all__ = ["Demand", "Evicted", "Grown", "Index", "IndexBrokenError", "Judge", "object_key"]

Grown = Mapping[str, int]
"""By how many bytes which upstreams have more, or less, than before."""

_ROWS_OF_A_VICTIM: Final = 4
_VICTIMS_PER_TRANSACTION: Final = 100
"""Each is an open file until it is removed."""
_TOTALS: Final = "totals"
_ADDING: Final = "adding"
_REMOVING: Final = "removing"


class Judge(Protocol):
    """Decides about one object that would have to go."""

    def condemn(self, digest: str, row: ObjectRow) -> Sequence[str] | None:
        """Return what the object links, or ``None`` if it stays: it is in use, or pinned."""
        ...


@dataclass(frozen=True, slots=True)
class Demand:
    """What has to go.

    Attributes:
        need_bytes: How much to free.
        now: Seconds since the epoch: what is kept goes behind all that was used until then.
        upstream: Only objects of this one; ``None``: of all.
        unused_since: Only objects that were last used before; seconds since the epoch.
        kept: What was kept in an earlier step of the same eviction.
        has_orphans: An earlier step has left some that go with their manifest.
    """

    need_bytes: int
    now: float
    upstream: str | None = None
    unused_since: float | None = None
    kept: Collection[str] = ()
    has_orphans: bool = False


@dataclass(slots=True)
class Evicted:
    """What one step of an eviction did: entries of the journal, digests and their rows."""

    victims: list[tuple[str, str, ObjectRow]] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)
    freed_bytes: int = 0
    is_exhausted: bool = False
    has_orphans: bool = False


class Index(Database):
    """Objects and their rows, with totals, counts of links, an order and a journal."""

    def __init__(self, directory: Path) -> None:
        """Open the index in *directory*, or make one; raises IndexBrokenError."""
        super().__init__(directory)
        self._order = Order(self)
        self.counted: set[str] | None = None
        """What has been counted anew since somebody who counts himself made this a set."""
        self._totals = self._written_totals = self.get(_TOTALS, Totals) or Totals()

    @property
    def totals(self) -> Totals:
        """What stands in ``blobs/``, as of the last change; safe to read in any thread."""
        return self._totals

    # --- objects ---------------------------------------------------------------------------

    def announce(self, commit: Commit) -> str:
        """Note what is about to be committed, before its file gets its name.

        What a crash leaves of it is found by ``pending_commit``; what does not come to pass is
        ``settled``. Returns what to pass to ``commit``.
        """
        return self.push(_ADDING, commit)

    def announce_all(self, commits: Sequence[Commit]) -> list[str]:
        """Do for several what ``announce`` does, in one transaction."""
        with self.transaction():
            return [self.announce(commit) for commit in commits]

    def commit(self, commit: Commit, announcement: str | None = None) -> tuple[ObjectRow, Grown]:
        """Write that an object stands in ``blobs/``; scopes and repositories add up.

        Returns the row as it is now, and by how many bytes which upstreams grew. Links,
        counts, totals and the order of eviction follow in the same transaction.
        """
        with self.transaction():
            row, grown = self._add(commit)
            if commit.own_link is not None:
                self.put(*commit.own_link)
            for key, link in commit.links:
                if self.row(key, LinkRow) is None:
                    self.put(key, link)
            if announcement is not None:
                self.delete([announcement])
        return row, grown

    def commit_announced(
        self, commits: Sequence[tuple[Commit, str]]
    ) -> list[tuple[ObjectRow, Grown]]:
        """Do for several what ``commit`` does, in one transaction."""
        with self.transaction():
            return [self.commit(*each) for each in commits]

    def commit_all(self, commits: Iterable[Commit]) -> None:
        """Write many objects, a few hundred in a transaction."""
        for batch in batches(commits):
            with self.transaction():
                for commit in batch:
                    self.commit(commit)

    def pending_commit(self) -> tuple[str, Commit | None] | None:
        """Return what a crash has left half done, with its key; a junk entry has no commit."""
        return self._pending(_ADDING, Commit)

    def pending_removal(self) -> tuple[str, Removal | None] | None:
        """Return what a crash has left half removed, with its key."""
        return self._pending(_REMOVING, Removal)

    def settled(self, keys: Iterable[str]) -> None:
        """Forget entries of the journal: what they say is done."""
        self.delete(keys)

    def drop_object(
        self,
        digest: str,
        children: Sequence[str] = (),
        *,
        if_so: Callable[[], bool] = lambda: True,
    ) -> ObjectRow | None:
        """Delete an object's row and its place, and return the row.

        Args:
            digest: The object.
            children: What it links, if it is a manifest.
            if_so: Asked here, where no other change comes between.
        """
        with self.transaction():
            row = self.row(object_key(digest), ObjectRow)
            if row is None or not if_so():
                return None
            self.delete([object_key(digest), row.place])
            self._totals = self._totals.plus(row, -1)
            self._drop_own_links(digest, row)
            for child in dict.fromkeys(children):
                self._count(child, -1)
        return row

    def touch(self, uses: Sequence[tuple[str, float]]) -> None:
        """Note when some objects were used last; the order is made true lazily."""
        for batch in batches(uses):
            with self.transaction():
                for digest, used_at in batch:
                    row = self.row(object_key(digest), ObjectRow)
                    if row is not None and row.used_at < used_at:
                        changed = msgspec.structs.replace(row, used_at=used_at)
                        self.put(object_key(digest), changed)

    def links_of(self, digest: str) -> int:
        """Return how many stored manifests link an object."""
        return self._order.links_of(digest)

    def evict(self, demand: Demand, judge: Judge) -> Evicted:
        """Drop the rows of the objects that go first, until enough is free.

        What nothing links goes first, then whole images by their last use: a manifest comes
        before all that it links, whose last use is never older than its own. What no other
        manifest links goes with it, even if that is more than was needed: nothing else may
        say whose it is, should the index be lost.

        One transaction of a few hundred rows: call again with ``kept`` while more is needed
        and it is not exhausted. The files are the caller's to remove, after which the
        entries of the journal are ``settled``.
        """
        evicted = Evicted(kept=set(demand.kept), has_orphans=demand.has_orphans)
        work = 0
        with self.transaction():
            heads = self._heads(demand.upstream)
            while heads and work < ROWS_PER_TRANSACTION:
                is_enough = evicted.freed_bytes >= demand.need_bytes
                if is_enough and not (evicted.has_orphans and heads[0].is_unlinked):
                    evicted.has_orphans = False
                    break
                if len(evicted.victims) >= _VICTIMS_PER_TRANSACTION:
                    break
                head = heapq.heappop(heads)
                done = self._judged(head, demand, judge, evicted)
                work += done
                following = self._order.head(head.prefix) if done else None
                if following is not None:
                    heapq.heappush(heads, following)
                if done > _ROWS_OF_A_VICTIM:
                    heads = self._heads(demand.upstream)  # what it linked may be next
            evicted.is_exhausted = not heads
            evicted.has_orphans &= not evicted.is_exhausted
        return evicted

    def remove(self, digest: str, judge: Judge) -> tuple[str, str, ObjectRow] | None:
        """Drop one object's rows as ``evict`` does; ``None``: it is not here, or it stays."""
        with self.transaction():
            row = self.row(object_key(digest), ObjectRow)
            children = None if row is None else judge.condemn(digest, row)
            if row is None or children is None:
                return None
            return self._dropped(digest, row, children)

    def oldest_use(self) -> float | None:
        """Return about when the object that would be evicted next was used last."""
        try:
            heads = self._heads(None)
        except IndexBrokenError:
            return None
        return float(heads[0].digits[:10]) if heads else None

    # --- inside ----------------------------------------------------------------------------

    def _heads(self, upstream: str | None) -> list[Head]:
        return self._order.heads(self._totals.upstreams if upstream is None else (upstream,))

    def _pending(self, queue: str, kind: type[Row]) -> tuple[str, Row | None] | None:
        entry = self.first(queue)
        if entry is None:
            return None
        try:
            return entry[0], msgspec.msgpack.decode(entry[1], type=kind)
        except UNREADABLE:
            return entry[0], None

    def _reload(self) -> None:
        self._totals = self._written_totals = self.row(_TOTALS, Totals) or Totals()

    def _before_commit(self) -> None:
        if self._totals != self._written_totals:
            self.put(_TOTALS, self._totals)
            self._written_totals = self._totals

    def _add(self, commit: Commit) -> tuple[ObjectRow, Grown]:
        key, seen = object_key(commit.digest), commit.row
        before = self.row(key, ObjectRow)
        row = seen if before is None else before.merged(seen)
        if not row.is_blob and (before is None or before.is_blob):
            for child in dict.fromkeys(commit.children):
                self._count(child, +1)
        if before is None:
            row = self._order.place(commit.digest, row)
            self._totals = self._totals.plus(row, +1)
            return row, {row.upstream: row.size_bytes}
        self._totals = self._totals.plus(before, -1).plus(row, +1)
        if before.upstream == row.upstream:
            self.put(key, row)
            return row, {}
        # It was nobody's: from now on it counts, and goes, with what its upstream has.
        row = self._order.place(commit.digest, row)
        return row, {before.upstream: -row.size_bytes, row.upstream: row.size_bytes}

    def _drop_own_links(self, digest: str, row: ObjectRow) -> None:
        """Delete the links of those who brought it; what a manifest links may still be asked."""
        if row.is_blob and self.links_of(digest):
            return
        kind = "blob" if row.is_blob else "manifest"
        self.delete(f"l:{kind}:{repository}@{digest}" for repository in row.repositories)

    def _count(self, digest: str, by: int) -> None:
        """Note that a manifest more, or less, links an object; what nothing links goes first."""
        count = self.links_of(digest) + by
        if self.counted is not None:
            self.counted.add(digest)
        self.set_count(digest, count)

    def set_count(self, digest: str, count: int) -> None:
        """Write how many manifests link an object; what none links gets its place with those."""
        if count > 0:
            self.put(count_key(digest), CountRow(count))
            return
        self.delete([count_key(digest)])
        row = self.row(object_key(digest), ObjectRow)
        if row is not None and row.kind == "blob":
            self._order.place(digest, row)

    def _judged(self, head: Head, demand: Demand, judge: Judge, evicted: Evicted) -> int:
        """Deal with the head of a queue; returns how many rows that took, 0 at its end."""
        digest = head.digest
        row = self.row(object_key(digest), ObjectRow)
        if row is None or row.place != head.key:
            self.delete([head.key])
            return 1
        if (head.zone, head.digits[:11]) < self._order.rank(digest, row):
            self._order.place(digest, row)  # it was used, or linked, since it got this place
            return 2
        is_younger = demand.unused_since is not None and row.used_at >= demand.unused_since
        if digest in evicted.kept or is_younger:
            return 0
        children = judge.condemn(digest, row)
        if children is None:
            evicted.kept.add(digest)
            self._order.place(digest, row, kept_at=demand.now)
            return 2
        evicted.victims.append(self._dropped(digest, row, children))
        evicted.freed_bytes += row.size_bytes
        evicted.has_orphans |= bool(children)
        return _ROWS_OF_A_VICTIM + len(children)

    def _dropped(
        self, digest: str, row: ObjectRow, children: Sequence[str]
    ) -> tuple[str, str, ObjectRow]:
        """Drop an object's rows; the entry of the journal says that its files go, too."""
        entry = self.push(_REMOVING, Removal(digest, row.repositories))
        self.drop_object(digest, children)
        return entry, digest, row
