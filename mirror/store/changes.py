"""Changes of what is stored: the index, the accounts, the memory and the metrics agree.

Whoever begins a change may be cancelled; the change itself goes on to its end, and is
accounted for.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO, Final, TypeVar

from mirror.domain.events import EventKind
from mirror.domain.names import Digest
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics
from mirror.runtime.clock import Clock
from mirror.runtime.pools import Pools
from mirror.runtime.together import Together
from mirror.settings import Cache, Policy
from mirror.store.facts import Facts
from mirror.store.index import Demand, Evicted, Grown, Index, IndexBrokenError, object_key
from mirror.store.layout import Layout
from mirror.store.partials import Partials
from mirror.store.removal import Removals
from mirror.store.rows import Commit, ObjectRow
from mirror.store.space import Reservation, Space

T = TypeVar("T")
_AT_ONCE: Final = 50
"""So many objects share a transaction of the index at most; a manifest has hundreds of rows."""
_log = get_logger("store")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a change touches.

    ``under_way`` are the digests that are being given their names; whoever removes or tidies
    up leaves them alone.
    """

    layout: Layout
    index: Index
    facts: Facts
    space: Space
    partials: Partials
    removals: Removals
    pools: Pools
    metrics: Metrics
    clock: Clock
    policies: dict[str, Policy]
    under_way: Counter[str]


class Changes:
    """Commits, evictions and removals."""

    def __init__(self, parts: Parts, write_uses: Callable[[], Awaitable[None]]) -> None:
        """Set up; *write_uses* brings the last uses into the index before it is asked."""
        self._parts = parts
        self._write_uses = write_uses
        self._commits: set[asyncio.Task[None]] = set()
        self._unsettled: list[str] = []
        write, index = parts.pools.index_write, parts.index
        self._announcing = Together(write, index.announce_all, _AT_ONCE)
        self._adding = Together(write, index.commit_announced, _AT_ONCE)
        self._show_totals()

    def reload(self, settings: Cache, policies: Mapping[str, Policy]) -> None:
        """Go over to new bounds and expiries, and show them."""
        self._parts.space.rebound(settings.max_size, settings.min_free, policies)
        self._parts.policies.clear()
        self._parts.policies.update(policies)
        self._show_totals()

    def reservation(self, upstream: str) -> Reservation:
        """Return room for an object, none yet; it grows by evicting what was used longest ago."""
        return Reservation(self._parts.space, upstream, self.evict)

    async def commit(
        self, commit: Commit, publish: Callable[[], BinaryIO | None], reservation: Reservation
    ) -> None:
        """Give an object its name and its row; what is begun is ended, whoever is cancelled."""
        task = asyncio.create_task(self._committed(commit, publish, reservation))
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)
        await asyncio.shield(task)

    async def _committed(
        self, commit: Commit, publish: Callable[[], BinaryIO | None], reservation: Reservation
    ) -> None:
        def account(added: tuple[ObjectRow, Grown]) -> None:
            self._parts.space.stored_by.update(added[1])  # a Counter adds up
            reservation.release()

        under_way = self._parts.under_way
        under_way[commit.digest] += 1
        try:
            await self._named(commit, publish, account)
        finally:
            under_way -= Counter([commit.digest])  # of the same object, which others read

    async def _named(
        self,
        commit: Commit,
        publish: Callable[[], BinaryIO | None],
        account: Callable[[tuple[ObjectRow, Grown]], None],
    ) -> None:
        entry = await self._announcing.start(commit)
        try:
            file = await self._parts.pools.fill.run(publish)
        except BaseException:
            self._unsettled.append(entry)
            await self.settle()
            raise
        try:
            row, _ = await self._accounted(self._adding.start((commit, entry)), account)
        except OSError:
            if await self._parts.pools.index_write.run(self._remove_uncounted, commit.digest):
                self._unsettled.append(entry)
            raise
        finally:
            if file is not None:
                file.close()
        await self._parts.facts.remember(commit, row)

    def _remove_uncounted(self, digest: str) -> bool:
        """Remove a file that has no row: it would never be counted against the bound.

        Returns ``False`` where the index does not say whether it has one: then the file stays,
        and with its entry in the journal the next start finds out.
        """
        try:
            row = self._parts.index.read(object_key(digest), ObjectRow)
        except IndexBrokenError:
            return False
        if row is None:
            self._parts.layout.blob(Digest.parse(digest)).unlink(missing_ok=True)
        return True

    async def settle(self) -> None:
        """Take out of the journal what did not come to pass, if need be at a later time."""
        entries, self._unsettled = self._unsettled, []
        try:
            if entries:
                await self._parts.pools.index_write.run(self._parts.index.settled, entries)
        except OSError:
            self._unsettled += entries

    async def close(self) -> None:
        """Wait for what is being committed."""
        await asyncio.gather(*self._commits, return_exceptions=True)
        await self.settle()

    async def evict(self, need_bytes: int, upstream: str | None = None) -> int:
        """Free so many bytes, of one upstream or of all; returns how many it could."""
        await self._write_uses()
        freed_bytes = 0
        if upstream is None:
            freed_bytes = await self._parts.pools.fill.run(self._parts.partials.drop, need_bytes)
        demand = Demand(need_bytes - freed_bytes, self._parts.clock.wall(), upstream)
        reason = "size" if upstream is None else "upstream_size"
        return freed_bytes + await self._evicted(demand, reason)

    async def expire(self) -> None:
        """Remove what nobody asked for since ``policy.expire_after``."""
        await self._parts.pools.fill.run(self._parts.partials.expire)
        for upstream, policy in tuple(self._parts.policies.items()):  # a reload may come between
            if policy.expire_after_seconds is not None:
                await self._write_uses()
                now = self._parts.clock.wall()
                oldest = now - policy.expire_after_seconds
                await self._evicted(Demand(2**62, now, upstream, oldest), "expired")

    async def _evicted(self, demand: Demand, reason: str) -> int:
        """Evict step by step, so that other changes of the index come between."""

        def account(step: Evicted) -> None:
            for _, _, row in step.victims:
                self._parts.space.stored_by[row.upstream] -= row.size_bytes
                self._note_gone(row, reason)

        freed_bytes, kept, has_orphans = 0, set[str](), False
        while freed_bytes < demand.need_bytes or has_orphans:
            rest = replace(
                demand,
                need_bytes=demand.need_bytes - freed_bytes,
                kept=kept,
                has_orphans=has_orphans,
            )
            evicting = self._parts.pools.index_write.start(self._parts.removals.evict, rest)
            step = await self._accounted(evicting, account)
            for _, digest, row in step.victims:
                self._tell_gone(digest, row, reason)
                await self._parts.facts.forget_object(digest)
            freed_bytes += step.freed_bytes
            kept, has_orphans = step.kept, step.has_orphans
            if step.is_exhausted:
                break
        return freed_bytes

    def _tell_gone(self, digest: str, row: ObjectRow, reason: str) -> None:
        self._parts.metrics.events.tell(
            EventKind.EVICTED,
            digest,
            kind=row.kind,
            size_bytes=row.size_bytes,
            upstream=row.upstream,
            reason=reason,
        )

    def _note_gone(self, row: ObjectRow, reason: str) -> None:
        self._parts.metrics.cache_evictions.labels(reason).inc()
        self._parts.metrics.cache_evicted_bytes.inc(row.size_bytes)

    async def remove(self, digest: Digest) -> int:
        """Remove an object unless it is in use or pinned; returns the bytes that it freed."""

        def account(row: ObjectRow | None) -> None:
            if row is not None:
                self._parts.space.stored_by[row.upstream] -= row.size_bytes
                self._note_gone(row, "removed")

        removing = self._parts.pools.index_write.start(self._parts.removals.remove, str(digest))
        row = await self._accounted(removing, account)
        await self._parts.facts.forget_object(str(digest))
        return row.size_bytes if row else 0

    async def drop(self, digest: Digest, is_lost: Callable[[], bool]) -> bool:
        """Forget an object whose file is not what it was, unless that is being put right."""

        def remove() -> bool:
            lost = str(digest) not in self._parts.under_way and is_lost()
            if lost:
                self._parts.layout.blob(digest).unlink(missing_ok=True)
            return lost

        def account(row: ObjectRow | None) -> None:
            if row is not None:
                self._parts.space.stored_by[row.upstream] -= row.size_bytes
                _log.warning("an object is gone from the disk", digest=str(digest))

        dropping = self._parts.pools.index_write.start(
            self._parts.index.drop_object, str(digest), if_so=remove
        )
        row = await self._accounted(dropping, account)
        await self._parts.facts.forget_object(str(digest))
        return row is not None

    async def _accounted(self, change: "asyncio.Future[T]", account: Callable[[T], None]) -> T:
        """Wait for a change of the index; it is accounted for even if we are cancelled."""

        def settle(done: "asyncio.Future[T]") -> None:
            if not done.cancelled() and done.exception() is None:
                account(done.result())
                self._show_totals()

        change.add_done_callback(settle)
        return await asyncio.shield(change)

    def _show_totals(self) -> None:
        totals = self._parts.index.totals
        self._parts.metrics.cache_limit_bytes.set(self._parts.space.limit_bytes)
        self._parts.metrics.cache_objects.labels("blob").set(totals.blobs)
        self._parts.metrics.cache_objects.labels("manifest").set(totals.manifests)
