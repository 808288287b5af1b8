"""Enters what a bundle has brought: manifests, then blobs, then lists and, last, tags.

What is entered twice is as it was, so an import that was cut is simply done again.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial as bound
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from mirror.domain.bundles import BundledList, BundledRepository, Contents
from mirror.domain.errors import UpstreamTroubleError
from mirror.domain.manifests import MANIFEST_MAX_BYTES, LinkKind, read_manifest
from mirror.domain.names import ANONYMOUS_SCOPE, Digest, Repository, Tag
from mirror.domain.referrers import merged
from mirror.runtime.clock import Clock
from mirror.store.exporting import ChangedError
from mirror.store.facts import link_key
from mirror.store.layout import make_directory, sync_directory
from mirror.store.refs import BlobRef
from mirror.store.rows import Commit, DocumentRow, LinkRow, ObjectRow, TagRow
from mirror.store.store import Store
from mirror.store.stored import is_whole, open_kept
from mirror.store.unpacking import Unpacking, Waiting

_HISTORY_MAX_ENTRIES: Final = 100


class Imported(msgspec.Struct, frozen=True):
    """What an import did.

    ``new_objects`` were not here, the other ``objects`` were. ``kept_tags`` mean something
    newer here than in the bundle and stayed; ``unknown_upstreams`` are not configured here,
    so that nobody can ask for what is of them.
    """

    objects: int
    new_objects: int
    new_bytes: int
    tags: int
    kept_tags: tuple[str, ...]
    unknown_upstreams: tuple[str, ...]


async def imported(store: Store, source: AsyncIterator[bytes]) -> Imported:
    """Read a bundle, and enter it if all of it is right; raises as ``Unpacking.read`` does."""
    unpacking = Unpacking(store, source)
    try:
        contents = await unpacking.read()
        return await _Entering(store, unpacking, contents).run()
    finally:
        await unpacking.close()


class _Entering:
    """Enters one bundle that is right."""

    def __init__(self, store: Store, unpacking: Unpacking, contents: Contents) -> None:
        self._store = store
        self._unpacking = unpacking
        self._contents = contents
        self._clock: Clock = store.parts.clock
        self._owners: dict[Digest, list[tuple[Repository, str]]] = {}
        self._scopes = {each.digest: each.scopes for each in contents.objects}
        self._kept: list[str] = []
        self._tags = 0

    async def run(self) -> Imported:
        new = list(self._unpacking.waiting.values())
        sizes = sum(each.entry.size_bytes for each in new)
        for repository in self._contents.repositories:
            await self._manifests(repository)
        for digest, owners in self._owners.items():
            await self._blob(digest, owners)
        for repository in self._contents.repositories:
            await self._lists(repository)
            await self._name(repository)
        upstreams = {each.upstream for each in self._contents.repositories}
        return Imported(
            len(self._contents.objects),
            len(new),
            sizes,
            self._tags,
            tuple(self._kept),
            tuple(sorted(upstreams - self._store.parts.policies.keys())),
        )

    async def _manifests(self, bundled: BundledRepository) -> None:
        repository = bundled.repository
        for entry in bundled.manifests:
            content = await self._content(entry.digest)
            manifest = read_manifest(content, entry.media_type, Digest.parse(entry.digest))
            self._release(entry.digest)
            await self._store.keep_manifest(repository, manifest, entry.scope)
            for link in manifest.links:
                if link.kind is LinkKind.BLOB:
                    owners = self._owners.setdefault(link.digest, [])
                    owners.append((repository, entry.scope))

    def _release(self, digest: str) -> None:
        """Give the room of a manifest back to who keeps it now."""
        waiting = self._unpacking.waiting.get(digest)
        if waiting is not None:
            waiting.reservation.release()

    async def _content(self, digest: str) -> bytes:
        content = await self._unpacking.content(digest)
        if content is None:
            raise ChangedError(f"{digest} has gone while the bundle was read")
        return content

    async def _blob(self, digest: Digest, owners: list[tuple[Repository, str]]) -> None:
        """Give a blob its name, and say whose it is where no public manifest does."""
        waiting = self._unpacking.waiting.get(str(digest))
        private = [(repository, scope) for repository, scope in owners if scope != ANONYMOUS_SCOPE]
        if waiting is not None:
            await self._publish(digest, waiting, owners[0][0], private[:1])
        elif str(digest) in self._scopes and await self._store.facts.object(digest) is None:
            raise ChangedError(f"{digest} has gone while the bundle was entered")
        for repository, scope in private:
            row = await self._store.facts.object(digest)
            if row is not None:
                await self._store.answered_blob(repository, digest, scope, row.size_bytes)

    async def _publish(
        self,
        digest: Digest,
        waiting: Waiting,
        repository: Repository,
        private: list[tuple[Repository, str]],
    ) -> None:
        size_bytes, now = waiting.entry.size_bytes, self._clock.wall()
        note: Callable[[], None] = lambda: None  # noqa: E731 -- the other way to do it
        owners: tuple[str, ...] = ()
        own: tuple[str, LinkRow] | None = None
        for owner, scope in private:
            ref = BlobRef(scope, size_bytes, now, fetched=True)
            note = bound(self._store.refs.put_blob, owner, digest, ref)
            owners = (str(owner),)
            own = link_key(owner, digest, LinkKind.BLOB), LinkRow(size_bytes, None, now)
        scopes = tuple(sorted(waiting.entry.scopes))
        row = ObjectRow(size_bytes, "blob", scopes, now, owners, repository.upstream)
        target = self._store.parts.layout.blob(digest)
        publish = bound(_publish, waiting.path, target, size_bytes, note)
        await self._store.changes.commit(
            Commit(str(digest), row, own), publish, waiting.reservation
        )

    async def _lists(self, bundled: BundledRepository) -> None:
        repository = bundled.repository
        for each in bundled.lists:
            content = await self._content(each.digest)
            self._release(each.digest)
            entered = await self._merged(repository, each, content)
            if entered is None:
                continue
            content, row = entered
            for scope in self._scopes[each.digest]:
                await self._store.keep_document(content, repository.upstream, scope)
            row = msgspec.structs.replace(row, digest=str(Digest.of(content)))
            await self._store.facts.put_document(repository, f"referrers/{each.subject}", (), row)

    async def _merged(
        self, repository: Repository, each: BundledList, content: bytes
    ) -> tuple[bytes, DocumentRow] | None:
        """Return a list with what is new in a carried one, and its row; ``None``: it stays.

        No bundle says how old a list is, so none replaces another: signatures that either
        names can be found.
        """
        now = self._clock.wall()
        carried = DocumentRow(each.digest, each.media_type, None, each.filtered, 0, now)
        before = await self._store.facts.document(repository, f"referrers/{each.subject}", ())
        here = None if before is None else await self._list(before)
        if before is None or here is None:
            return content, carried
        scopes, known = here
        if before.digest != each.digest and scopes != _audience(self._scopes[each.digest]):
            # Not all who may see the one may see the other; upstream's own word is the better one.
            return None if before.confirmed_at else (content, carried)
        try:
            both = merged(known, content)
            if len(both) > MANIFEST_MAX_BYTES:
                return None  # no bundle could carry it
            is_new = both is not known
            return both, msgspec.structs.replace(before, seen_at=now) if is_new else before
        except UpstreamTroubleError:
            return None

    async def _list(self, row: DocumentRow) -> tuple[set[str], bytes] | None:
        """Return who may see a list that is here, and the list."""
        digest = Digest.parse(row.digest)
        stored = await self._store.facts.object(digest)
        if row.media_type is None or stored is None or not stored.scopes:
            return None
        content = await self._store.content(digest, stored.scopes[0])
        return None if content is None else (_audience(stored.scopes), content)

    async def _name(self, bundled: BundledRepository) -> None:
        """Enter tags, unless one means something here that was seen later."""
        repository = bundled.repository
        for each in bundled.tags:
            tag = Tag(each.name)
            before = await self._store.facts.tag(repository, tag)
            history: tuple[tuple[str, float], ...] = ()
            if before is not None and before.digest == each.digest:
                self._tags += 1
                continue
            if before is not None and before.seen_at > each.seen_at:
                self._kept.append(f"{repository}:{tag}")
                continue
            if before is not None:
                history = ((before.digest, before.seen_at), *before.history)
            row = TagRow(each.digest, each.seen_at, each.seen_at, history[:_HISTORY_MAX_ENTRIES])
            await self._store.keep_tag(repository, tag, row)
            self._tags += 1


def _publish(path: Path, target: Path, size_bytes: int, note: Callable[[], None]) -> BinaryIO:
    """Give a file its name; it is open, and so not evicted, until its row is written."""
    note()
    if is_whole(target, size_bytes):
        path.unlink(missing_ok=True)
    else:
        make_directory(target.parent)
        path.replace(target)
        sync_directory(target.parent)
    return open_kept(target)


def _audience(scopes: Iterable[str]) -> set[str]:
    """Return who may see something: everybody, or those of the scopes."""
    found = set(scopes)
    return {ANONYMOUS_SCOPE} if ANONYMOUS_SCOPE in found else found
