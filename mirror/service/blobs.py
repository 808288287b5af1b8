"""A blob for a repository: from the store, from a fill, or past the cache."""

import asyncio
from typing import Final, Literal

from mirror.domain.errors import MirrorError, OverloadedError, UpstreamTimeoutError
from mirror.domain.manifests import LinkKind
from mirror.domain.names import Digest, Repository
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Result
from mirror.runtime.recent import MemoryTier, Recent
from mirror.runtime.single_flight import SingleFlight
from mirror.service.policies import Policies
from mirror.service.served import Served
from mirror.store.rows import LinkRow, ObjectRow
from mirror.store.space import NoSpaceError
from mirror.store.store import Store, StoredObject
from mirror.transfer.bodies import FillBody, StoredBody
from mirror.transfer.bypass import PassthroughBody
from mirror.transfer.fills import Fills
from mirror.transfer.parts import Arriving, ReadyBody
from mirror.upstream.upstreams import Upstreams

SMALL_BYTES: Final = 64 * 1024
"""Up to this size objects are kept in memory while they are hot."""
_log = get_logger("service")


class Blobs:
    """Decides where a blob comes from; a digest alone opens nothing (invariant 12)."""

    def __init__(
        self,
        *,
        store: Store,
        upstreams: Upstreams,
        fills: Fills,
        policies: Policies,
        tier: MemoryTier,
        range_wait_seconds: float,
    ) -> None:
        self._store = store
        self._upstreams = upstreams
        self._fills = fills
        self._policies = policies
        self.range_wait_seconds = range_wait_seconds
        self._flights: SingleFlight[tuple[str, Repository, Digest], int | None] = SingleFlight()
        self._small: Recent[bytes] = Recent(tier, "small", lambda content: len(content) + 200)

    async def open(self, repository: Repository, digest: Digest) -> tuple[Arriving, Served]:
        """Return a body whose size is known if it can be; the caller closes it.

        Raises:
            MirrorError: it cannot be had, or not within the time for an answer.
        """
        self._policies.check(repository)
        scope = self._upstreams.scope(repository)
        link, row = await self._store.facts.about(repository, digest, LinkKind.BLOB)
        if _counts(link, scope) and row is not None:
            content = await self._in_memory(digest, scope, row)
            if content is not None:
                self._store.touch(digest)
                return ReadyBody(content), Served(Result.HIT)
            stored = await self._store.open(digest, scope)
            if stored is not None:
                return self._from_store(stored, digest)
        seconds = self._policies.of(repository).timeouts.response_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._fetched(repository, digest, scope, link)
        except TimeoutError:
            raise self._too_late(repository, digest, scope) from None

    def at_hand(self, repository: Repository, digest: Digest) -> bytes | None:
        """Return a small blob that ``open`` would as a mere hit, if nothing is waited for."""
        if not self._policies.allows(repository):
            return None
        scope = self._upstreams.scope(repository)
        link = self._store.facts.link_at_hand(repository, digest, LinkKind.BLOB)
        row = self._store.facts.object_at_hand(digest)
        if not _counts(link, scope) or row is None:
            return None
        if not row.visible_in(scope):
            return None
        content = self._small.peek(digest)
        if content is not None:
            self._store.touch(digest)
        return content

    async def size_bytes(self, repository: Repository, digest: Digest) -> tuple[int | None, Served]:
        """Return the size of a blob without fetching it; raises as ``open`` does."""
        self._policies.check(repository)
        scope = self._upstreams.scope(repository)
        link = await self._store.facts.link(repository, digest, LinkKind.BLOB)
        if _counts(link, scope):
            row = await self._store.facts.object(digest)
            if row is not None and row.visible_in(scope):
                self._store.touch(digest)
                return row.size_bytes, Served(Result.HIT)
            fill = self._fills.running(scope, digest)
            if fill is not None and fill.size_bytes is not None:
                return fill.size_bytes, Served(Result.JOINED, forwarded="uri-miss")
        joined = self._flights.is_running((scope, repository, digest))
        size_bytes = await self._ask(repository, digest)
        result = Result.JOINED if joined else Result.MISS
        return size_bytes, Served(result, forwarded="uri-miss", kept=False)

    async def close(self) -> None:
        """Stop asking upstreams."""
        await self._flights.close()

    # --- asking ------------------------------------------------------------------------------

    async def _is_here_or_coming(self, digest: Digest, scope: str) -> bool:
        here = await self._store.has(digest, scope)
        return here or self._fills.running(scope, digest) is not None

    async def _ask(self, repository: Repository, digest: Digest) -> int | None:
        """Ask upstream whether this repository has the blob, once for all who want to know."""
        async with self._upstreams.of(repository).deadline():
            return await self._flights.do(
                (self._upstreams.scope(repository), repository, digest),
                lambda: self._ask_upstream(repository, digest),
            )

    async def _ask_upstream(self, repository: Repository, digest: Digest) -> int | None:
        registry, scope = self._upstreams.of(repository), self._upstreams.scope(repository)
        link = await self._store.facts.link(repository, digest, LinkKind.BLOB)
        described_bytes = None if link is None else link.size_bytes
        async with registry.deadline():
            head = await registry.head_blob(repository, digest)
            size_bytes = None if head is None else head.size_bytes
            if size_bytes is None:
                size_bytes = described_bytes
            if head is None and size_bytes is not None and _counts(link, scope):
                return size_bytes  # the manifest's word will do where there is no HEAD
            if head is None or size_bytes is None:
                size_bytes = await self._probe(repository, digest, size_bytes)
        await self._note_answer(repository, digest, scope, size_bytes)
        return size_bytes

    async def _probe(self, repository: Repository, digest: Digest, known: int | None) -> int | None:
        """Ask by a GET that is closed after its head, for upstreams whose HEAD does not tell."""
        opening = self._upstreams.of(repository).open_blob(repository, digest)
        async with opening as stream:
            return stream.size_bytes if stream.size_bytes is not None else known

    async def _note_answer(
        self, repository: Repository, digest: Digest, scope: str, size_bytes: int | None
    ) -> None:
        """Note that upstream answered, if there is room; its answer is good either way."""
        try:
            await self._store.answered_blob(repository, digest, scope, size_bytes)
        except OSError as error:
            _log.error("an answer could not be kept", repository=str(repository), reason=str(error))

    async def _in_memory(self, digest: Digest, scope: str, row: ObjectRow) -> bytes | None:
        """Return the bytes of a small object that is here: configurations above all."""
        if not 0 < row.size_bytes <= SMALL_BYTES:
            return None
        if not row.visible_in(scope):
            return None
        content = self._small.peek(digest)
        if content is None:
            content = await self._store.content(digest, scope)
            if content is not None:
                await self._small.put(digest, content)
        return content

    # --- bodies ------------------------------------------------------------------------------

    def _from_store(self, stored: StoredObject, digest: Digest) -> tuple[Arriving, Served]:
        self._store.touch(digest)
        return StoredBody(stored), Served(Result.HIT)

    async def _fetched(
        self, repository: Repository, digest: Digest, scope: str, link: LinkRow | None
    ) -> tuple[Arriving, Served]:
        """Return a blob that could not be opened at once, after asking if need be."""
        may_have = _counts(link, scope)
        if not may_have and await self._is_here_or_coming(digest, scope):
            await self._ask(repository, digest)
            may_have = True
            stored = await self._store.open(digest, scope)
            if stored is not None:
                return self._from_store(stored, digest)
        # No await from the look at the fills up to boarding one: else a repository without
        # a link could board what another one has begun meanwhile.
        return await self._from_fill(
            repository, digest, scope, link.size_bytes if link else None, may_have=may_have
        )

    async def _from_fill(
        self,
        repository: Repository,
        digest: Digest,
        scope: str,
        expected_bytes: int | None,
        *,
        may_have: bool,
    ) -> tuple[Arriving, Served]:
        fill, started = self._fills.board(scope, digest, repository, expected_bytes)
        body = FillBody(fill, repository, self._fills.direct, self.range_wait_seconds)
        try:
            await body.head()
            if not may_have and fill.first_byte_at is None:
                # Another repository's fill ended a moment ago: these are its bytes.
                await self._ask(repository, digest)
        except NoSpaceError:
            await body.close()
            return await self._past_the_cache(repository, digest, expected_bytes)
        except BaseException:
            await body.close()
            raise
        result: Literal[Result.MISS, Result.JOINED] = Result.MISS if started else Result.JOINED
        return body, Served(result, forwarded="uri-miss")

    def _too_late(self, repository: Repository, digest: Digest, scope: str) -> MirrorError:
        fill = self._fills.running(scope, digest)
        waits = self._fills.slots.is_full if fill is None else not fill.has_slot
        if waits and (fill is None or not fill.has_head):
            return OverloadedError("too many downloads (fill.max_concurrent)")
        return UpstreamTimeoutError(f"{repository}@{digest}")

    async def _past_the_cache(
        self, repository: Repository, digest: Digest, expected_bytes: int | None
    ) -> tuple[Arriving, Served]:
        body = PassthroughBody(self._fills.direct, repository, digest)
        try:
            await body.head(expected_bytes)
        except BaseException:
            await body.close()
            raise
        return body, Served(Result.PASSTHROUGH, forwarded="uri-miss")


def _counts(link: LinkRow | None, scope: str) -> bool:
    """Tell whether bytes of this scope may be served without asking upstream (invariant 12)."""
    return link is not None and link.opens(scope)
