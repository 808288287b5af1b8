"""The cache directory as the rest of the house sees it.

Order of a commit: the file (fsync, rename), then ``refs/``, then the index, then memory; so
what the index says is always true after a crash.
"""

import asyncio
import os
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from mirror.domain.manifests import LinkKind, Manifest, read_manifest
from mirror.domain.names import ANONYMOUS_SCOPE, Digest, Repository, Tag
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics
from mirror.runtime.clock import Clock
from mirror.runtime.pools import Pools
from mirror.runtime.recent import MemoryTier, Recent
from mirror.settings import Cache
from mirror.store.facts import Facts
from mirror.store.layout import Layout, sync_directory
from mirror.store.partial import Partial
from mirror.store.recovery import open_index
from mirror.store.refs import BlobRef, ManifestRef, Refs, TagRef
from mirror.store.rows import LinkRow, ObjectKind, ObjectRow, TagRow
from mirror.store.space import Space

_TOUCH_EVERY_SECONDS: Final = 60
_FLUSH_EVERY_SECONDS: Final = 10
_log = get_logger("store")


class StoredObject:
    """An object of the store, open for reading; it is not evicted while it is open."""

    def __init__(
        self, digest: Digest, file: BinaryIO, size_bytes: int, users: Counter[str]
    ) -> None:
        self.file = file
        self.size_bytes = size_bytes
        self._digest = str(digest)
        self._users = users

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        if not self.file.closed:
            self.file.close()
            leave(self._users, self._digest)


def leave(users: Counter[str], digest: str) -> None:
    """Count one user less."""
    users[digest] -= 1
    if not users[digest]:
        del users[digest]


class Store:
    """Verified objects, facts about them, and room for more."""

    def __init__(
        self, settings: Cache, pools: Pools, tier: MemoryTier, metrics: Metrics, clock: Clock
    ) -> None:
        self._layout = Layout(settings.directory)
        self._layout.prepare()
        self._lock = self._layout.lock()
        self.refs = Refs(self._layout)
        self._index = open_index(self._layout, self.refs)
        self._pools = pools
        self._metrics = metrics
        self._clock = clock
        self._users: Counter[str] = Counter()
        self._touched: dict[str, float] = {}
        self._pending: set[str] = set()
        self._manifests: Recent[Manifest] = Recent(
            tier, "manifest", lambda manifest: 2 * manifest.size_bytes + 1000
        )
        self.facts = Facts(self._index, pools, tier)
        self.space = Space(settings.directory, settings.max_size, settings.min_free)
        self._sweep_partials()
        self._show_totals()

    # --- reading ---------------------------------------------------------------------------

    async def open(self, digest: Digest, scope: str) -> StoredObject | None:
        """Open an object that is visible in *scope*; ``None`` when there is none."""
        row = await self.facts.object(digest)
        if row is None or not row.visible_in(scope, ANONYMOUS_SCOPE):
            return None
        self._users[str(digest)] += 1  # before the file is open: eviction must not come between
        try:
            file = await self._pools.read.run(_open, self._layout.blob(digest))
        except FileNotFoundError:
            _log.warning("an object is gone from the disk", digest=str(digest))
            await self.facts.drop_object(str(digest))
            self._show_totals()
            leave(self._users, str(digest))
            return None
        except BaseException:
            leave(self._users, str(digest))
            raise
        return StoredObject(digest, file, row.size_bytes, self._users)

    async def manifest(self, repository: Repository, digest: Digest, scope: str) -> Manifest | None:
        """Return a stored manifest of a repository; the caller has checked the link."""
        if not await self.has(digest, scope):
            return None
        manifest = await self._manifests.get((repository, digest))
        if manifest is None:
            manifest = await self._load_manifest(repository, digest, scope)
        if manifest is not None:
            self.touch(digest, *(link.digest for link in manifest.links))
        return manifest

    async def has(self, digest: Digest, scope: str) -> bool:
        """Return whether an object is here and visible in *scope*."""
        row = await self.facts.object(digest)
        return row is not None and row.visible_in(scope, ANONYMOUS_SCOPE)

    async def content(self, digest: Digest, scope: str) -> bytes | None:
        """Return the bytes of a small object; ``None`` when it is not here."""
        stored = await self.open(digest, scope)
        if stored is None:
            return None
        with stored:
            return await self._pools.read.run(stored.file.read)

    def touch(self, *digests: Digest) -> None:
        """Note that objects are used now; written in batches, once a minute for each."""
        now = self._clock.monotonic()
        for digest in map(str, digests):
            if now - self._touched.get(digest, -_TOUCH_EVERY_SECONDS) >= _TOUCH_EVERY_SECONDS:
                self._touched[digest] = now
                self._pending.add(digest)

    # --- writing ---------------------------------------------------------------------------

    async def reserve(self, size_bytes: int) -> None:
        """Set room aside, evicting what was used longest ago if needed.

        Raises:
            NoSpaceError: there is not enough room even so.
        """
        await self.space.reserve(size_bytes, self._evict)
        self._show_totals()

    def release(self, size_bytes: int) -> None:
        """Give back what ``reserve`` set aside."""
        self.space.release(size_bytes)
        self._show_totals()

    def partial(self, digest: Digest, scope: str) -> Partial:
        """Return an empty file for an object on its way in; blocks for one ``open``."""
        return Partial(digest, self._layout.partial(scope, digest), self._layout.blob(digest))

    async def commit_blob(self, partial: Partial, digest: Digest, scope: str) -> None:
        """Keep a verified blob."""
        await self._pools.fill.run(partial.publish)
        await self._add_object(digest, partial.length_bytes, "blob", scope)

    async def answered_blob(
        self,
        repository: Repository,
        digest: Digest,
        scope: str,
        size_bytes: int | None,
        *,
        fetched: bool,
    ) -> None:
        """Note that upstream answered for a blob of a repository, or sent it (*fetched*).

        A file says so where no manifest of the repository makes the link anyway, and always
        where credentials were used: it keeps the bytes private when the index is made anew.
        """
        link = await self.facts.link(repository, digest, LinkKind.BLOB)
        now = self._clock.wall()
        private = scope != ANONYMOUS_SCOPE
        if link is not None and link.answered_at and not (fetched and private):
            return
        if link is None or private:
            ref = BlobRef(scope, size_bytes, now, fetched)
            await self._pools.fill.run(self.refs.put_blob, repository, digest, ref)
        row = LinkRow(size_bytes, link.media_type if link else None, now)
        await self.facts.put_link(repository, digest, LinkKind.BLOB, row)

    async def keep_manifest(self, repository: Repository, manifest: Manifest, scope: str) -> None:
        """Keep a verified manifest that upstream sent for *repository*, and its links."""
        now = self._clock.wall()
        digest, size_bytes = manifest.digest, manifest.size_bytes
        ref = ManifestRef(manifest.media_type, scope, size_bytes, now, now)
        await self._pools.fill.run(self.refs.put_manifest, repository, digest, ref)
        await self._keep_bytes(digest, manifest.content, "manifest", scope, repository)
        await self.facts.add_links(repository, manifest.links)
        row = LinkRow(size_bytes, manifest.media_type, now)
        await self.facts.put_link(repository, digest, LinkKind.MANIFEST, row)
        await self._manifests.put((repository, digest), manifest)

    async def keep_document(self, content: bytes, scope: str) -> Digest:
        """Keep a list of upstream as an object and return its address."""
        digest = Digest.of(content)
        await self._keep_bytes(digest, content, "blob", scope, None)
        return digest

    async def keep_tag(self, repository: Repository, tag: Tag, row: TagRow) -> None:
        """Keep what a tag means; a mere confirmation is not worth an fsync."""
        before = await self.facts.tag(repository, tag)
        if before is None or before.digest != row.digest:
            ref = TagRef(row.digest, row.seen_at, row.confirmed_at, row.history)
            await self._pools.fill.run(self.refs.put_tag, repository, tag, ref)
        await self.facts.put_tag(repository, tag, row)

    # --- life ------------------------------------------------------------------------------

    async def keep_house(self) -> None:
        """Write last uses every few seconds, for ever."""
        while True:
            await asyncio.sleep(_FLUSH_EVERY_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write the last uses that are pending."""
        pending, self._pending = sorted(self._pending), set()
        now = self._clock.monotonic()
        self._touched = {
            digest: at for digest, at in self._touched.items() if now - at < _TOUCH_EVERY_SECONDS
        }
        await self._pools.index_write.run(self._index.touch, pending, self._clock.wall())
        oldest = await self._pools.index_read.run(self._index.oldest_use)
        age_seconds = 0.0 if oldest is None else max(0.0, self._clock.wall() - oldest)
        self._metrics.cache_oldest_access.set(age_seconds)

    def is_writable(self) -> bool:
        """Return whether the directory can be written."""
        return os.access(self._layout.partials, os.W_OK | os.X_OK)

    async def close(self) -> None:
        """Write what is pending and close the index."""
        await self.flush()
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
        self,
        digest: Digest,
        content: bytes,
        kind: ObjectKind,
        scope: str,
        repository: Repository | None,
    ) -> None:
        if await self.facts.object(digest) is not None:
            await self._add_object(digest, len(content), kind, scope, repository)
            return
        await self.reserve(len(content))
        try:
            await self._pools.fill.run(self._write_whole, digest, content)
            await self._add_object(digest, len(content), kind, scope, repository)
        finally:
            self.release(len(content))

    def _write_whole(self, digest: Digest, content: bytes) -> None:
        path = self._layout.blob(digest)
        scratch = self._layout.partials / f"whole-{digest.algorithm}-{digest.hex}"
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch.replace(path)
        sync_directory(path.parent)

    async def _add_object(
        self,
        digest: Digest,
        size_bytes: int,
        kind: ObjectKind,
        scope: str,
        repository: Repository | None = None,
    ) -> None:
        repositories = () if repository is None else (str(repository),)
        row = ObjectRow(size_bytes, kind, (scope,), self._clock.wall(), repositories)
        await self.facts.add_object(digest, row)
        self._show_totals()

    async def _evict(self, need_bytes: int) -> int:
        freed_bytes = 0
        while freed_bytes < need_bytes:
            victims = await self._pools.index_write.run(
                self._index.evict, need_bytes - freed_bytes, self._is_used, self._remove
            )
            if not victims:
                break
            for digest, row in victims:
                freed_bytes += row.size_bytes
                await self.facts.forget_object(digest)
                self._metrics.cache_evictions.labels("size").inc()
                self._metrics.cache_evicted_bytes.inc(row.size_bytes)
            self._show_totals()
        return freed_bytes

    def _is_used(self, digest: str) -> bool:
        return self._users[digest] > 0

    def _remove(self, digest: str, row: ObjectRow) -> None:
        parsed = Digest.parse(digest)
        self._layout.blob(parsed).unlink(missing_ok=True)
        for text in row.repositories:
            upstream, _, name = text.partition("/")
            self.refs.drop_manifest(Repository(upstream, name), parsed)

    def _sweep_partials(self) -> None:
        for path in self._layout.partials.iterdir():
            path.unlink(missing_ok=True)

    def _show_totals(self) -> None:
        totals = self._index.totals
        self.space.stored_bytes = totals.size_bytes
        self._metrics.cache_bytes.set(self.space.used_bytes)
        self._metrics.cache_limit_bytes.set(self.space.limit_bytes)
        self._metrics.cache_objects.labels("blob").set(totals.blobs)
        self._metrics.cache_objects.labels("manifest").set(totals.manifests)


def _open(path: Path) -> BinaryIO:
    return path.open("rb", buffering=0)
