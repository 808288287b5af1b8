"""The cache directory as the rest of the house sees it.

Order of a commit: ``refs/``, then the file (fsync, rename), then the index, then memory; so
what the index says is always true after a crash, and whoever finds a file without a row
finds in ``refs/`` who may see it.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial as bound
from typing import Final, TypeVar

from mirror.domain.errors import MirrorError
from mirror.domain.manifests import LinkKind, Manifest, is_index, read_manifest
from mirror.domain.names import ANONYMOUS_SCOPE, Digest, Repository, Tag
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics
from mirror.runtime.clock import Clock
from mirror.runtime.pools import Pools
from mirror.runtime.recent import MemoryTier, Recent
from mirror.settings import Cache
from mirror.store.facts import Facts
from mirror.store.layout import Layout
from mirror.store.partial import Partial
from mirror.store.partials import Partials
from mirror.store.recovery import open_index
from mirror.store.refs import BlobRef, ManifestRef, Refs, TagRef
from mirror.store.rows import LinkRow, ObjectRow, TagRow
from mirror.store.space import Reservation, Space
from mirror.store.stored import StoredObject, is_whole, open_whole
from mirror.store.uses import Uses

__all__ = ["Store", "StoredObject"]

T = TypeVar("T")
_FLUSH_EVERY_SECONDS: Final = 10
_log = get_logger("store")


class Store:
    """Verified objects, facts about them, and room for more."""

    def __init__(
        self, settings: Cache, pools: Pools, tier: MemoryTier, metrics: Metrics, clock: Clock
    ) -> None:
        """Open the cache; the index is built anew if it is missing or damaged.

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
        self._indexes: list[tuple[Repository, str, Manifest]] = []
        self._manifests: Recent[Manifest] = Recent(
            tier, "manifest", lambda manifest: 2 * manifest.size_bytes + 1000
        )
        self.facts = Facts(self._index, pools, tier)
        self.space = Space(settings.directory, settings.max_size, settings.min_free)
        self.space.stored_bytes = self._index.totals.size_bytes
        self.space.idle_bytes = lambda: self.partials.idle_bytes
        metrics.cache_bytes.set_function(lambda: self.space.used_bytes)
        self._show_totals()

    # --- reading ---------------------------------------------------------------------------

    async def open(self, digest: Digest, scope: str) -> StoredObject | None:
        """Open an object that is visible in *scope*; ``None`` when there is none."""
        row = await self.facts.object(digest)
        if row is None or not row.visible_in(scope, ANONYMOUS_SCOPE):
            return None
        self._uses.enter(digest)
        try:
            file = await open_whole(self._pools.read, self._layout.blob(digest), row.size_bytes)
        except BaseException:
            self._uses.leave(digest)
            raise
        if file is not None:
            return StoredObject(digest, file, row.size_bytes, self._uses)
        self._uses.leave(digest)
        await self._drop(digest, lambda: not is_whole(self._layout.blob(digest), row.size_bytes))
        return None

    async def manifest(self, repository: Repository, digest: Digest, scope: str) -> Manifest | None:
        """Return a stored manifest of a repository; the caller has checked the link."""
        if not await self.has(digest, scope):
            return None
        manifest = await self._manifests.get((repository, digest))
        if manifest is None:
            manifest = await self._load_manifest(repository, digest, scope)
        if manifest is not None and self._uses.touch(digest):
            if is_index(manifest.media_type):
                self._indexes.append((repository, scope, manifest))
            else:
                self.touch(*(link.digest for link in manifest.links))
        return manifest

    async def has(self, digest: Digest, scope: str) -> bool:
        """Return whether an object is here and visible in *scope*."""
        row = await self.facts.object(digest)
        return row is not None and row.visible_in(scope, ANONYMOUS_SCOPE)

    async def content(self, digest: Digest, scope: str) -> bytes | None:
        """Return the bytes of a small object, checked; ``None`` when it is not here."""
        stored = await self.open(digest, scope)
        if stored is None:
            return None
        with stored:
            content = await self._pools.read.run(stored.file.read)
        if await self._pools.read.run(Digest.of, content, digest.algorithm) == digest:
            return content
        await self._drop(digest, lambda: True)
        return None

    def touch(self, *digests: Digest) -> None:
        """Note that objects are used now; written in batches, once a minute for each."""
        for digest in digests:
            self._uses.touch(digest)

    # --- writing ---------------------------------------------------------------------------

    def reservation(self, upstream: str = "") -> Reservation:  # noqa: ARG002 -- a bound of its own comes
        """Return room for an object, none yet; it grows by evicting what was used longest ago."""
        return Reservation(self.space, self._evict)

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
        with self._uses.of(digest):
            if is_here or not is_by_manifest or scope != ANONYMOUS_SCOPE:
                owners = (str(source),)
                ref = BlobRef(scope, size_bytes, now, fetched=True)
                await self._pools.fill.run(self.refs.put_blob, source, digest, ref)
            await self._pools.fill.run(partial.publish)
            row = ObjectRow(size_bytes, "blob", (scope,), now, owners)
            await self._add_object(digest, row, reservation)
        new = LinkRow(size_bytes, link.media_type if link else None, now)
        await self.facts.put_link(source, digest, LinkKind.BLOB, new)

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
        seen = ObjectRow(size_bytes, "manifest", (scope,), now, (str(repository),))
        await self._keep_bytes(digest, manifest.content, seen, note)
        await self.facts.add_links(repository, manifest.links)
        row = LinkRow(size_bytes, manifest.media_type, now)
        await self.facts.put_link(repository, digest, LinkKind.MANIFEST, row)
        await self._manifests.put((repository, digest), manifest)

    async def keep_document(self, content: bytes, scope: str) -> Digest:
        """Keep a list of upstream as an object and return its address."""
        digest = Digest.of(content)
        seen = ObjectRow(len(content), "blob", (scope,), self._clock.wall())
        await self._keep_bytes(digest, content, seen, lambda: None)
        return digest

    async def keep_tag(self, repository: Repository, tag: Tag, row: TagRow) -> None:
        """Keep what a tag means; a mere confirmation is not worth an fsync each time."""
        ref = TagRef(row.digest, row.seen_at, row.confirmed_at, row.history)
        await self._pools.fill.run(self.refs.confirm_tag, repository, tag, ref)
        await self.facts.put_tag(repository, tag, row)

    # --- life ------------------------------------------------------------------------------

    async def keep_house(self) -> None:
        """Stay below the bound and write last uses, every few seconds, for ever."""
        while True:
            try:
                await self._pools.fill.run(self.partials.expire)
                await self.space.trim(self._evict)
                await self.flush()
            except OSError as error:
                _log.error("the house could not be kept", reason=str(error))
            await asyncio.sleep(_FLUSH_EVERY_SECONDS)

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
        await self._pools.index_read.run(self._index.close)
        await self._pools.index_write.run(self._index.close)
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
        self, digest: Digest, content: bytes, seen: ObjectRow, note: Callable[[], None]
    ) -> None:
        reservation = self.reservation()
        with self._uses.of(digest):
            try:
                if await self.facts.object(digest) is None:
                    await reservation.grow(len(content))
                await self._pools.fill.run(self._write_whole, digest, content, note)
                await self._add_object(digest, seen, reservation)
            finally:
                reservation.release()

    def _write_whole(self, digest: Digest, content: bytes, note: Callable[[], None]) -> None:
        note()
        path = self._layout.blob(digest)
        if not is_whole(path, len(content)):
            self._layout.replace_file(path, content)

    async def _add_object(self, digest: Digest, seen: ObjectRow, reservation: Reservation) -> None:
        """Write the row of a file in ``blobs/``; its room was reserved and is used now."""

        def account(added: tuple[ObjectRow, int]) -> None:
            self.space.stored_bytes += added[1]
            reservation.release()

        adding = self._pools.index_write.start(self._index.add_object, str(digest), seen)
        try:
            row, _ = await self._accounted(adding, account)
        except OSError:
            await self._pools.fill.run(self._layout.blob(digest).unlink, missing_ok=True)
            raise  # a file without a row would never be counted
        await self.facts.remember_object(digest, row)

    async def _accounted(self, change: "asyncio.Future[T]", account: Callable[[T], None]) -> T:
        """Wait for a change of the index; it is accounted for even if we are cancelled."""

        def settle(done: "asyncio.Future[T]") -> None:
            if not done.cancelled() and done.exception() is None:
                account(done.result())
                self._show_totals()

        change.add_done_callback(settle)
        return await asyncio.shield(change)

    async def _drop(self, digest: Digest, is_lost: Callable[[], bool]) -> None:
        """Forget an object whose file is not what it was, unless that has been put right."""

        def remove() -> bool:
            lost = is_lost()
            if lost:
                self._layout.blob(digest).unlink(missing_ok=True)
            return lost

        def account(row: ObjectRow | None) -> None:
            self.space.stored_bytes -= row.size_bytes if row else 0

        _log.warning("an object is gone from the disk", digest=str(digest))
        dropping = self._pools.index_write.start(self._index.drop_object, str(digest), if_so=remove)
        await self._accounted(dropping, account)
        await self.facts.forget_object(str(digest))

    async def _write_uses(self) -> None:
        """Write pending uses; one of an index is one of its images and their layers, too.

        A node that has the layers asks for the index only (FIELD, trap 24).
        """
        indexes, self._indexes = self._indexes, []
        for repository, scope, index in indexes:
            for child in index.links:
                with suppress(MirrorError):
                    await self.manifest(repository, child.digest, scope)
        uses = self._uses.take_pending()
        if uses:
            await self._pools.index_write.run(self._index.touch, uses)

    async def _drop_idle_partials(self, need_bytes: int) -> int:
        return await self._pools.fill.run(self.partials.drop, need_bytes)

    async def _evict(self, need_bytes: int) -> int:
        def account(victims: list[tuple[str, ObjectRow]]) -> None:
            self.space.stored_bytes -= sum(row.size_bytes for _, row in victims)

        await self._write_uses()
        freed_bytes = await self._drop_idle_partials(need_bytes)
        while freed_bytes < need_bytes:
            evicting = self._pools.index_write.start(
                self._index.evict, need_bytes - freed_bytes, self._uses.is_used, self._remove
            )
            victims = await self._accounted(evicting, account)
            if not victims:
                break
            for digest, row in victims:
                freed_bytes += row.size_bytes
                await self.facts.forget_object(digest)
                self._metrics.cache_evictions.labels("size").inc()
                self._metrics.cache_evicted_bytes.inc(row.size_bytes)
        return freed_bytes

    def _remove(self, digest: str, row: ObjectRow) -> None:
        parsed = Digest.parse(digest)
        self._layout.blob(parsed).unlink(missing_ok=True)
        for text in row.repositories:
            upstream, _, name = text.partition("/")
            self.refs.drop(Repository(upstream, name), parsed)

    def _show_totals(self) -> None:
        totals = self._index.totals
        self._metrics.cache_limit_bytes.set(self.space.limit_bytes)
        self._metrics.cache_objects.labels("blob").set(totals.blobs)
        self._metrics.cache_objects.labels("manifest").set(totals.manifests)
