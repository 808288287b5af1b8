"""Removes what nothing needs, while the mirror goes on.

What goes (`docs/cache.md` has the rules in full): files without a row and rows without a
file, objects that nobody can ask for, links and lists whose objects are gone, files under
``refs/`` of manifests that are gone, tags that are too old to be served and lead to nothing,
counts of links that are wrong, partials that nobody went on with. What may still be of use
stays. The cache is looked through in a thread of its own; each thing is looked at once more
where it is removed, in the thread of all changes, so that none is lost that came meanwhile.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from mirror.domain.errors import MirrorError
from mirror.domain.names import Digest, Repository, Tag
from mirror.observe.logs import get_logger
from mirror.runtime.steps import in_steps
from mirror.store.facts import tag_key
from mirror.store.index import object_key
from mirror.store.locks import open_exclusive
from mirror.store.refs import TagRef
from mirror.store.rows import DocumentRow, LinkRow, ObjectRow, TagRow
from mirror.store.store import Store
from mirror.store.stored import is_gone
from mirror.store.survey import Survey

GRACE_SECONDS: Final = 600
"""What is younger stays: the row that speaks for it may be on its way."""

_NAMES_MAX: Final = 1000
_log = get_logger("store")

Keeps = Callable[[Repository, Tag | None], float]
"""For how many seconds an answer of upstream is of use, for a tag or for anything else."""


class Leftover(StrEnum):
    """What is not needed any more."""

    FILE = "file_without_row"
    ROW = "row_without_file"
    OBJECT = "unreachable_object"
    LINK = "dead_link"
    DOCUMENT = "dead_list"
    COUNT = "wrong_count"
    REF = "dead_ref"
    TAG = "dead_tag"
    PARTIAL = "expired_partial"


class Found(msgspec.Struct, frozen=True):
    """One thing that is not needed, and how much it frees."""

    kind: Leftover
    name: str
    size_bytes: int = 0


class Swept(msgspec.Struct, frozen=True):
    """What a sweep removed, or would have; ``items`` are the first thousand."""

    dry_run: bool
    freed_bytes: int
    counts: dict[Leftover, int]
    items: tuple[Found, ...]


class Sweep:
    """Goes through a whole store, one sweep at a time."""

    def __init__(self, store: Store, keeps: Keeps) -> None:
        self._store = store
        self._parts = store.parts
        self._index = store.parts.index
        self._keeps = keeps
        self._sweeping = asyncio.Lock()

    async def run(self, *, dry_run: bool = False) -> Swept:
        """Remove what nothing needs; with *dry_run*, only say what."""
        async with self._sweeping:
            self._index.counted = set()
            await self._in_writer(lambda: True)  # what began before that is in the index now
            try:
                return await self._swept(dry_run=dry_run)
            finally:
                self._index.counted = None

    async def _swept(self, *, dry_run: bool) -> Swept:
        counts: Counter[Leftover] = Counter()
        items: list[Found] = []
        freed_bytes = 0
        async for found, remove in self._all():
            if not dry_run and not await remove():
                continue
            counts[found.kind] += 1
            freed_bytes += found.size_bytes
            if len(items) < _NAMES_MAX:
                items.append(found)
        if counts and not dry_run:
            _log.info(
                "what nothing needed is gone",
                freed_bytes=freed_bytes,
                **{str(kind): count for kind, count in counts.items()},
            )
        return Swept(dry_run, freed_bytes, dict(counts), tuple(items))

    async def _all(self) -> AsyncIterator[tuple[Found, "Remove"]]:
        survey = Survey(self._store)
        await survey.look()
        kinds = (
            self._partials(),
            self._files(),
            self._rows(survey),
            self._counts(survey),
            self._objects(survey),
            self._links(survey),
            self._documents(survey),
            self._refs(),
        )
        for kind in kinds:
            async for found in kind:
                yield found

    @property
    def _now(self) -> float:
        return self._parts.clock.wall()

    async def _in_writer(self, work: Callable[[], bool]) -> bool:
        """Do a piece of work where no change of the index comes between."""
        return await self._parts.pools.index_write.run(work)

    # --- files and rows --------------------------------------------------------------------

    async def _partials(self) -> AsyncIterator[tuple[Found, "Remove"]]:
        partials, fill = self._store.partials, self._parts.pools.fill
        for name, size_bytes in (await fill.run(partials.expired)).items():

            async def remove(name: str = name) -> bool:
                return bool(await fill.run(partials.remove, name))

            yield Found(Leftover.PARTIAL, name, size_bytes), remove

    async def _files(self) -> AsyncIterator[tuple[Found, "Remove"]]:
        async for digest, path, size_bytes in in_steps(self._parts.pools.inspect, self._orphans()):
            if self._store.is_under_way(str(digest)):
                continue

            async def remove(digest: Digest = digest, path: Path = path) -> bool:
                # What begins to be committed later waits in the writer's queue behind us.
                if self._store.is_under_way(str(digest)):
                    return False
                return await self._in_writer(lambda: self._remove_file(digest, path))

            yield Found(Leftover.FILE, str(digest), size_bytes), remove

    def _orphans(self) -> Iterator[tuple[Digest, Path, int]]:
        for digest, path in self._parts.layout.objects():
            if self._row(str(digest)) is None:
                try:
                    yield digest, path, path.stat().st_size
                except OSError:
                    continue

    def _remove_file(self, digest: Digest, path: Path) -> bool:
        try:
            file = None if self._row(str(digest)) else open_exclusive(path)
        except OSError:
            return False  # another sweep may find the disk in a better state
        if file is None:
            return False
        with file:
            path.unlink()
        return True

    async def _rows(self, survey: Survey) -> AsyncIterator[tuple[Found, "Remove"]]:
        for digest in survey.without_file:

            async def remove(digest: str = digest) -> bool:
                parsed = Digest.parse(digest)
                path = self._parts.layout.blob(parsed)
                return await self._store.drop(parsed, lambda: is_gone(path))

            yield Found(Leftover.ROW, digest), remove

    # --- objects, links, lists -------------------------------------------------------------

    async def _counts(self, survey: Survey) -> AsyncIterator[tuple[Found, "Remove"]]:
        for digest, count in survey.wrong_counts():

            async def remove(digest: str = digest, count: int = count) -> bool:
                return await self._in_writer(lambda: self._set_count(digest, count))

            yield Found(Leftover.COUNT, digest), remove

    def _set_count(self, digest: str, count: int) -> bool:
        if digest in (self._index.counted or ()):
            return False  # a manifest came or went since we counted
        with self._index.transaction():
            self._index.set_count(digest, count)
        return True

    async def _objects(self, survey: Survey) -> AsyncIterator[tuple[Found, "Remove"]]:
        young = self._now - GRACE_SECONDS
        pool = self._parts.pools.inspect
        async for digest, row in in_steps(pool, survey.unreachable(young)):
            if digest in self._store.pins.digests:
                continue

            async def remove(digest: str = digest) -> bool:
                return bool(await self._store.remove(Digest.parse(digest)))

            yield Found(Leftover.OBJECT, digest, row.size_bytes), remove

    async def _links(self, survey: Survey) -> AsyncIterator[tuple[Found, "Remove"]]:
        async for key, row in in_steps(self._parts.pools.inspect, survey.dead_links()):
            repository = key.split(":", 2)[2].rpartition("@")[0]
            if row.answered_at > self._now - self._of_use(repository):
                continue

            async def remove(key: str = key, row: LinkRow = row) -> bool:
                gone = await self._in_writer(lambda: self._remove_link(key, row))
                await self._parts.facts.forget([key])
                return gone

            yield Found(Leftover.LINK, key), remove

    def _remove_link(self, key: str, row: LinkRow) -> bool:
        digest = key.rpartition("@")[2]
        is_needed = self._row(digest) or self._index.links_of(digest)
        if is_needed or self._index.get(key, LinkRow) != row:
            return False
        self._index.delete([key])
        return True

    async def _documents(self, survey: Survey) -> AsyncIterator[tuple[Found, "Remove"]]:
        for key, digest in survey.documents:
            if digest in survey.stored:
                continue

            async def remove(key: str = key) -> bool:
                gone = await self._in_writer(lambda: self._remove_document(key))
                await self._parts.facts.forget([key])
                return gone

            yield Found(Leftover.DOCUMENT, key), remove

    def _remove_document(self, key: str) -> bool:
        row = self._index.get(key, DocumentRow)
        if row is not None and self._row(row.digest):
            return False
        self._index.delete([key])
        return True

    # --- refs ------------------------------------------------------------------------------

    async def _refs(self) -> AsyncIterator[tuple[Found, "Remove"]]:
        pool, refs = self._parts.pools.inspect, self._store.refs
        for repository in await pool.run(refs.repositories):
            async for digest in in_steps(pool, self._dead_refs(repository)):

                async def remove(repository: Repository = repository, of: Digest = digest) -> bool:
                    if self._store.is_under_way(str(of)):
                        return False
                    return await self._in_writer(lambda: self._remove_ref(repository, of))

                yield Found(Leftover.REF, f"{repository}@{digest}"), remove
            async for tag in in_steps(pool, self._dead_tags(repository)):

                async def remove_tag(repository: Repository = repository, tag: Tag = tag) -> bool:
                    gone = await self._in_writer(lambda: self._remove_tag(repository, tag))
                    await self._parts.facts.forget([tag_key(repository, tag)])
                    return gone

                yield Found(Leftover.TAG, f"{repository}:{tag}"), remove_tag

    def _dead_refs(self, repository: Repository) -> Iterator[Digest]:
        for digest, _ in self._store.refs.all_manifests(repository):
            if self._row(str(digest)) is None:
                yield digest
        oldest = self._now - self._of_use(str(repository))
        for digest, ref in self._store.refs.all_blobs(repository):
            if ref.answered_at < oldest and self._row(str(digest)) is None:
                yield digest

    def _remove_ref(self, repository: Repository, digest: Digest) -> bool:
        if self._row(str(digest)):
            return False
        self._store.refs.drop(repository, digest)
        return True

    def _dead_tags(self, repository: Repository) -> Iterator[Tag]:
        for tag, ref in self._store.refs.all_tags(repository):
            if self._is_dead(repository, tag, ref):
                yield tag

    def _is_dead(self, repository: Repository, tag: Tag, ref: TagRef) -> bool:
        """Tell whether a tag is too old to be served, and leads to nothing."""
        row = self._index.read(tag_key(repository, tag), TagRow)
        # Who confirms a tag writes the file before the row, but not each time: the later counts.
        seen = max(ref.confirmed_at, row.confirmed_at if row else 0)
        if seen >= self._now - max(GRACE_SECONDS, self._keeps(repository, tag)):
            return False
        digest = row.digest if row else ref.digest
        return self._row(digest) is None and not self._store.pins.has(repository, tag)

    def _remove_tag(self, repository: Repository, tag: Tag) -> bool:
        ref = self._store.refs.tag(repository, tag)
        if ref is None or not self._is_dead(repository, tag, ref):
            return False
        self._store.refs.drop_tag(repository, tag)
        self._index.delete([tag_key(repository, tag)])
        return True

    # --- helpers ---------------------------------------------------------------------------

    def _row(self, digest: str) -> ObjectRow | None:
        """Return an object's row; raises IndexBrokenError: what cannot be read is not gone."""
        return self._index.read(object_key(digest), ObjectRow)

    def _of_use(self, repository: str) -> float:
        """Return for how long upstream's word for an object is of use."""
        upstream, _, name = repository.partition("/")
        try:
            seconds = self._keeps(Repository(upstream, name), None)
        except MirrorError:
            return GRACE_SECONDS
        return max(GRACE_SECONDS, seconds)


Remove = Callable[[], Awaitable[bool]]
"""Looks once more, removes, and tells whether it did."""
