"""The cache directory as the rest of the house sees it.

Order of a commit: ``refs/``, then the file (fsync, rename), then the index, then memory; so
what the index says is always true after a crash, and whoever finds a file without a row
finds in ``refs/`` who may see it.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial as bound
from types import MappingProxyType
from typing import BinaryIO, Final, TypeVar

from mirror.domain.errors import MirrorError
from mirror.domain.manifests import LinkKind, Manifest, is_index, read_manifest
from mirror.domain.names import ANONYMOUS_SCOPE, Digest, Reference, Repository, Tag
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics
from mirror.runtime.clock import Clock
from mirror.runtime.pools import Pools
from mirror.runtime.recent import MemoryTier, Recent
from mirror.settings import Cache, Policy
from mirror.store.changes import Changes, Parts
from mirror.store.facts import Facts, link_key, manifest_links, tag_key
from mirror.store.layout import Layout
from mirror.store.partial import Partial
from mirror.store.partials import Partials
from mirror.store.pins import Pin, Pins
from mirror.store.recovery import open_index
from mirror.store.refs import BlobRef, ManifestRef, Refs, TagRef
from mirror.store.removal import Removals
from mirror.store.rows import Commit, LinkRow, ObjectKind, ObjectRow, TagRow
from mirror.store.space import Reservation, Space
from mirror.store.stored import StoredObject, is_whole, open_kept, open_whole
from mirror.store.uses import Uses

__all__ = ["Store", "StoredObject"]

T = TypeVar("T")
_FLUSH_EVERY_SECONDS: Final = 10
_log = get_logger("store")


class Store:
    """Verified objects, facts about them, and room for more."""

    def __init__(  # noqa: PLR0917 -- the tools of the whole house
        self,
        settings: Cache,
        pools: Pools,
        tier: MemoryTier,
        metrics: Metrics,
        clock: Clock,
        policies: Mapping[str, Policy] = MappingProxyType({}),
    ) -> None:
        """Open the cache; the index is built anew if it is missing or damaged.

        Args:
            settings: Where and how much.
            pools: The threads.
            tier: The memory for hot facts.
            metrics: What is told to the outside.
            clock: The time.
            policies: Of each upstream, for how much it may hold and for how long.

        Raises:
            LayoutError: the directory cannot be used.
        """
        self._layout = Layout(settings.directory)
        self.refs = Refs(self._layout)
        self._layout.prepare()
        self._lock = self._layout.lock()
        self.partials = Partials(self._layout, settings.keep_partial_seconds, clock)
        try:
            self.partials.recover()
            self._index = open_index(self._layout, self.refs)
        except BaseException:
            self._lock.close()
            raise
        self._pools = pools
        self._metrics = metrics
        self._clock = clock
        self._uses = Uses(clock)
        self.pins = Pins(self._layout, self.refs)
        self._manifests: Recent[Manifest] = Recent(
            tier, "manifest", lambda manifest: 2 * manifest.size_bytes + 1000
        )
        self.facts = Facts(self._index, pools, tier)
        self.space = Space(settings.directory, settings.max_size, settings.min_free, policies)
        self.space.stored_by.update(self._index.totals.upstreams)
        self.space.idle_bytes = lambda: self.partials.idle_bytes
        metrics.cache_bytes.set_function(lambda: self.space.used_bytes)
        under_way: Counter[str] = Counter()
        self.parts = Parts(
            layout=self._layout,
            index=self._index,
            facts=self.facts,
            space=self.space,
            partials=self.partials,
            removals=Removals(
                self._layout, self.refs, self._index, lambda: self.pins.digests, under_way
            ),
            pools=pools,
            metrics=metrics,
            clock=clock,
            policies=dict(policies),
            under_way=under_way,
        )
        self.changes = Changes(self.parts, self._write_uses)

    def reload(self, settings: Cache, policies: Mapping[str, Policy]) -> None:
        """Go over to new bounds and expiries."""
        self.changes.reload(settings, policies)

    # --- reading ---------------------------------------------------------------------------

    async def open(self, digest: Digest, scope: str) -> StoredObject | None:
        """Open an object that is visible in *scope*; ``None`` when there is none."""
        row = await self.facts.object(digest)
        if row is None or not row.visible_in(scope):
            return None
        file = await open_whole(self._pools.read, self._layout.blob(digest), row.size_bytes)
        if file is not None:
            return StoredObject(file, row.size_bytes)
        await self.changes.drop(
            digest, lambda: not is_whole(self._layout.blob(digest), row.size_bytes)
        )
        return None

    async def manifest(self, repository: Repository, digest: Digest, scope: str) -> Manifest | None:
        """Return a stored manifest of a repository; the caller has checked the link."""
        if not await self.has(digest, scope):
            return None
        manifest = self._manifests.peek((repository, digest))
        if manifest is None:
            manifest = await self._load_manifest(repository, digest, scope)
        if manifest is not None:
            self._uses.touch_manifest(repository, manifest, scope)
        return manifest

    def manifest_at_hand(
        self, repository: Repository, digest: Digest, scope: str
    ) -> Manifest | None:
        """Return what ``manifest`` does, if that is in memory."""
        row = self.facts.object_at_hand(digest)
        if row is None or not row.visible_in(scope):
            return None
        manifest = self._manifests.peek((repository, digest))
        if manifest is not None:
            self._uses.touch_manifest(repository, manifest, scope)
        return manifest

    async def has(self, digest: Digest, scope: str) -> bool:
        """Return whether an object is here and visible in *scope*."""
        row = await self.facts.object(digest)
        return row is not None and row.visible_in(scope)

    async def content(self, digest: Digest, scope: str) -> bytes | None:
        """Return the bytes of a small object, checked; ``None`` when it is not here."""
        stored = await self.open(digest, scope)
        if stored is None:
            return None
        with stored:
            content = await self._pools.read.run(stored.file.read)
        if await self._pools.read.run(Digest.of, content, digest.algorithm) == digest:
            return content
        await self.changes.drop(digest, lambda: True)
        return None

    def touch(self, *digests: Digest) -> None:
        """Note that objects are used now; written in batches, once a minute for each."""
        for digest in digests:
            self._uses.touch(digest)

    # --- writing ---------------------------------------------------------------------------

    def reservation(self, upstream: str) -> Reservation:
        """Return room for an object, none yet; it grows by evicting what was used longest ago."""
        return self.changes.reservation(upstream)

    async def commit_blob(
        self, partial: Partial, source: Repository, scope: str, reservation: Reservation
    ) -> None:
        """Keep a verified blob that came from *source*; its room is accounted for here.

        A file under ``refs/`` says so unless the index can be built without it: from a
        manifest of the repository that anybody may read.
        """
        digest, size_bytes, now = partial.digest, partial.length_bytes, self._clock.wall()
        link = await self.facts.link(source, digest, LinkKind.BLOB)
        is_by_manifest = link is not None and not link.answered_at
        is_here = await self.facts.object(digest) is not None
        owners: tuple[str, ...] = ()
        note: Callable[[], None] = lambda: None  # noqa: E731 -- the other way to do it
        if is_here or not is_by_manifest or scope != ANONYMOUS_SCOPE:
            owners = (str(source),)
            ref = BlobRef(scope, size_bytes, now, fetched=True)
            note = bound(self.refs.put_blob, source, digest, ref)
        row = ObjectRow(size_bytes, "blob", (scope,), now, owners, source.upstream)
        new = LinkRow(size_bytes, link.media_type if link else None, now)
        commit = Commit(str(digest), row, (link_key(source, digest, LinkKind.BLOB), new))

        def publish() -> None:
            note()
            partial.publish()  # it is locked itself until its last reader has gone

        await self.changes.commit(commit, publish, reservation)

    async def answered_blob(
        self, repository: Repository, digest: Digest, scope: str, size_bytes: int | None
    ) -> None:
        """Note that upstream answered for a blob of a repository.

        A file says so only where no manifest of the repository makes the link anyway.
        """
        link = await self.facts.link(repository, digest, LinkKind.BLOB)
        now = self._clock.wall()
        if link is not None and link.answered_at:
            return
        if link is None or scope != ANONYMOUS_SCOPE:
            ref = BlobRef(scope, size_bytes, now)
            await self._pools.fill.run(self.refs.put_blob, repository, digest, ref)
        row = LinkRow(size_bytes, link.media_type if link else None, now)
        await self.facts.put_link(repository, digest, LinkKind.BLOB, row)

    async def keep_manifest(self, repository: Repository, manifest: Manifest, scope: str) -> None:
        """Keep a verified manifest that upstream sent for *repository*, and its links."""
        now = self._clock.wall()
        digest, size_bytes = manifest.digest, manifest.size_bytes
        ref = ManifestRef(manifest.media_type, scope, size_bytes, now, now)
        note = bound(self.refs.put_manifest, repository, digest, ref)
        kind: ObjectKind = "index" if is_index(manifest.media_type) else "manifest"
        own = LinkRow(size_bytes, manifest.media_type, now)
        commit = Commit(
            str(digest),
            ObjectRow(size_bytes, kind, (scope,), now, (str(repository),), repository.upstream),
            (link_key(repository, digest, LinkKind.MANIFEST), own),
            tuple(manifest_links(repository, manifest)),
            tuple(str(link.digest) for link in manifest.links),
        )
        await self._keep_bytes(digest, manifest.content, commit, note)
        await self._manifests.put((repository, digest), manifest)
        if self.pins.concern(repository):
            await self._pools.fill.run(self.pins.look)

    async def keep_document(self, content: bytes, upstream: str, scope: str) -> Digest:
        """Keep a list of upstream as an object and return its address."""
        digest = Digest.of(content)
        now = self._clock.wall()
        row = ObjectRow(len(content), "document", (scope,), now, (), upstream)
        await self._keep_bytes(digest, content, Commit(str(digest), row), lambda: None)
        return digest

    async def keep_tag(self, repository: Repository, tag: Tag, row: TagRow) -> None:
        """Keep what a tag means; a mere confirmation is not worth an fsync each time."""
        ref = TagRef(row.digest, row.seen_at, row.confirmed_at, row.history)
        await self._pools.fill.run(self.refs.confirm_tag, repository, tag, ref)
        await self.facts.put_tag(repository, tag, row)
        if self.pins.concern(repository):
            await self._pools.fill.run(self.pins.look)

    async def remove(self, digest: Digest) -> int:
        """Remove an object unless it is in use or pinned; returns the bytes that it freed."""
        return await self.changes.remove(digest)

    async def drop(self, digest: Digest, is_lost: Callable[[], bool]) -> bool:
        """Forget an object whose file is wrong or gone, if that is so; see ``Changes.drop``."""
        return await self.changes.drop(digest, is_lost)

    async def adopt(self, commit: Commit) -> None:
        """Write the row of an object whose file stands where it belongs already.

        Raises:
            FileNotFoundError: it is gone, or going.
        """
        path = self._layout.blob(Digest.parse(commit.digest))
        await self.changes.commit(commit, lambda: open_kept(path), self.reservation(""))

    def is_under_way(self, digest: str) -> bool:
        """Return whether an object is being given its name now."""
        return digest in self.parts.under_way

    async def drop_tag(self, repository: Repository, tag: Tag) -> None:
        """Forget what a tag means."""
        key = tag_key(repository, tag)
        await self._pools.fill.run(self.refs.drop_tag, repository, tag)
        await self._pools.index_write.run(self._index.delete, [key])
        await self.facts.forget([key])
        if self.pins.concern(repository):
            await self._pools.fill.run(self.pins.look)

    async def pin(
        self,
        repository: Repository,
        reference: Reference,
        platforms: tuple[str, ...] = (),
        held_at: Digest | None = None,
    ) -> None:
        """Keep an image for ever, or some of its platforms; *held_at* is what a tag means then."""
        digest, now = str(held_at) if held_at else None, self._clock.wall()
        pin = Pin(repository.upstream, repository.name, str(reference), platforms, now, digest)
        await self._pools.fill.run(self.pins.put, pin)

    async def unpin(self, repository: Repository, reference: Reference) -> bool:
        """Let an image go when its time comes; returns whether it was pinned."""
        return await self._pools.fill.run(self.pins.drop, repository, reference)

    # --- life ------------------------------------------------------------------------------

    async def keep_house(self) -> None:
        """Stay below the bound and write last uses, every few seconds, for ever."""
        while True:
            try:
                await self.changes.settle()
                await self.changes.expire()
                await self.trim()
                await self.flush()
            except Exception as error:  # noqa: BLE001 -- the bound must hold in the next round
                _log.exception("the house could not be kept", reason=str(error))
            await asyncio.sleep(_FLUSH_EVERY_SECONDS)

    async def trim(self) -> None:
        """Go below the bound, which may have been lowered since the last start."""
        await self.space.trim(self.changes.evict)

    async def flush(self) -> None:
        """Write the last uses that are pending."""
        await self._write_uses()
        oldest = await self._pools.index_read.run(self._index.oldest_use)
        age_seconds = 0.0 if oldest is None else max(0.0, self._clock.wall() - oldest)
        self._metrics.cache_oldest_access.set(age_seconds)

    def is_writable(self) -> bool:
        """Return whether the directory can be written."""
        return os.access(self._layout.partials, os.W_OK | os.X_OK)

    async def close(self) -> None:
        """Write what is pending and close the index."""
        try:
            await self.flush()
        except OSError as error:
            _log.error("the last uses could not be written", reason=str(error))
        await self.space.close()
        await self.changes.close()
        await self._pools.index_read.run(self._index.close)
        await self._pools.index_write.run(self._index.close)
        await self._pools.inspect.run(self._index.close)
        self._lock.close()

    # --- inside ----------------------------------------------------------------------------

    async def _load_manifest(
        self, repository: Repository, digest: Digest, scope: str
    ) -> Manifest | None:
        link = await self.facts.link(repository, digest, LinkKind.MANIFEST)
        content = await self.content(digest, scope)
        if content is None or link is None:
            return None
        manifest = read_manifest(content, link.media_type, digest)
        await self._manifests.put((repository, digest), manifest)
        return manifest

    async def _keep_bytes(
        self, digest: Digest, content: bytes, commit: Commit, note: Callable[[], None]
    ) -> None:
        reservation = self.reservation(commit.row.upstream)
        try:
            if await self.facts.object(digest) is None:
                await reservation.grow(len(content))
            await self.changes.commit(
                commit, lambda: self._written_whole(digest, content, note), reservation
            )
        finally:
            reservation.release()

    def _written_whole(self, digest: Digest, content: bytes, note: Callable[[], None]) -> BinaryIO:
        """Write an object's file; it is open, and so not evicted, until its row is written."""
        note()
        path = self._layout.blob(digest)
        if not is_whole(path, len(content)):
            self._layout.replace_file(path, content)
        return open_kept(path)

    async def _write_uses(self) -> None:
        """Write pending uses; one of an index is one of its images and their layers, too.

        A node that has the layers asks for the index only (trap 24).
        """
        for repository, scope, index in self._uses.take_indexes():
            for child in index.links:
                with suppress(MirrorError):
                    image = await self.manifest(repository, child.digest, scope)
                    if image is not None:
                        self._uses.touch_linked(image, child.digest)
        uses = self._uses.take_pending()
        if uses:
            await self._pools.index_write.run(self._index.touch, uses)
