"""What a tag or digest means, and the manifest it names."""

import asyncio
from functools import partial as bound
from typing import Final

from mirror.domain.decisions import Gone
from mirror.domain.errors import NotFoundError, TroubleError
from mirror.domain.freshness import IMMUTABLE, Lifetime
from mirror.domain.images import image_name
from mirror.domain.manifests import LinkKind, Manifest
from mirror.domain.names import Digest, Reference, Repository, Tag
from mirror.observe.metrics import Metrics, Result
from mirror.runtime.acting import acting_for
from mirror.runtime.clock import Clock
from mirror.runtime.recent import MemoryTier, Recent
from mirror.runtime.single_flight import SingleFlight
from mirror.service.completeness import Completeness
from mirror.service.freshening import (
    Asking,
    Case,
    Held,
    Terms,
    freshened,
    incomplete,
    is_settled,
)
from mirror.service.manifest_intake import ManifestIntake
from mirror.service.policies import Policies
from mirror.service.served import Served
from mirror.store.store import Store
from mirror.upstream.upstreams import Upstreams

_SEEN_ALIVE_SECONDS: Final = 30.0
_FOR_EVER: Final = Lifetime(fresh_seconds=IMMUTABLE, stale_if_error_seconds=0)

_NOBODY: Final = b""

Key = tuple[str, bytes, Repository, Reference]


class Manifests:
    """Resolves references and fetches manifests, each once however many ask."""

    def __init__(
        self,
        *,
        store: Store,
        upstreams: Upstreams,
        policies: Policies,
        tier: MemoryTier,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._store = store
        self._upstreams = upstreams
        self._policies = policies
        self._clock = clock
        self._intake = ManifestIntake(
            store=store, upstreams=upstreams, policies=policies, metrics=metrics, clock=clock
        )
        self._completeness = Completeness(store)
        self._flights: SingleFlight[Key, Manifest] = SingleFlight()
        self._missing: Recent[NotFoundError] = Recent(tier, "missing", lambda _: 500)

    async def resolve(
        self, repository: Repository, reference: Reference
    ) -> tuple[Manifest, Served]:
        """Return the manifest that a reference means now.

        Raises:
            MirrorError: upstream's own word, or trouble without a usable copy.
        """
        self._policies.check(repository)
        missing = self._missing.peek(self._key(repository, reference))
        if missing is not None:
            raise missing.with_traceback(None)
        try:
            if isinstance(reference, Digest):
                return await self._by_digest(repository, reference)
            return await self._by_tag(repository, reference)
        except NotFoundError as error:
            if self._policies.is_offline(repository):
                raise  # what is imported is there at once
            ttl_seconds = self._policies.of(repository).negative_ttl_seconds
            await self._missing.put(
                self._key(repository, reference), error, ttl_seconds=ttl_seconds
            )
            raise

    def at_hand(self, repository: Repository, digest: Digest) -> Manifest | None:
        """Return what ``resolve`` would as a mere hit, if nothing has to be waited for.

        For those who are not asked who they are.
        """
        if self._upstreams.of(repository).silent_seconds > _SEEN_ALIVE_SECONDS:
            return None  # what it refers to has to be looked for
        if not self._policies.allows(repository):
            return None
        scope = self._scope(repository)
        if self._missing.peek((scope, _NOBODY, repository, digest)) is not None:
            return None
        link = self._store.facts.link_at_hand(repository, digest, LinkKind.MANIFEST)
        if link is None or not link.opens(scope):
            return None
        return self._store.manifest_at_hand(repository, digest, scope)

    async def close(self) -> None:
        """Stop asking upstreams."""
        await self._flights.close()

    # --- by digest ---------------------------------------------------------------------------

    async def _by_digest(self, repository: Repository, digest: Digest) -> tuple[Manifest, Served]:
        held = await self._intake.local(repository, digest)
        if held is not None and await self._is_whole(repository, held):
            return held, Served(Result.HIT)
        if held is not None and self._policies.is_offline(repository):
            raise incomplete(None, f"{repository}@{digest}")
        asking = self._ask(repository, digest)
        try:
            async with self._upstreams.of(repository).deadline():
                manifest = await asyncio.shield(asking.task)
        except TroubleError as error:
            if held is None:
                raise
            raise incomplete(error, f"{repository}@{digest}") from None
        if held is not None:
            return manifest, Served(Result.REVALIDATED, forwarded="stale")
        result = Result.JOINED if asking.joined else Result.MISS
        return manifest, Served(result, forwarded="uri-miss")

    async def _is_whole(self, repository: Repository, manifest: Manifest) -> bool:
        """Tell whether all that a manifest refers to can be had (invariant 17).

        What is not here will be asked for next: upstream has just been seen alive, or it is
        not promised.
        """
        if self._upstreams.of(repository).silent_seconds <= _SEEN_ALIVE_SECONDS:
            return True
        return await self._completeness.of(repository, manifest, self._scope(repository))

    # --- by tag ------------------------------------------------------------------------------

    async def _by_tag(self, repository: Repository, tag: Tag) -> tuple[Manifest, Served]:
        held_at = self._store.pins.held_at(repository, tag)
        if held_at is not None:
            return await self._by_digest(repository, held_at)
        ask = bound(self._ask, repository, tag)
        return await freshened(await self.case(repository, tag), ask, ask)

    async def case(self, repository: Repository, reference: Reference) -> Case[Manifest]:
        """Return what is here, and on what terms it would be served now."""
        held: Held[Manifest] | None = None
        if isinstance(reference, Tag):
            held = await self._held(repository, reference)
        else:
            manifest = await self._intake.local(repository, reference)
            if manifest is not None:
                held = Held(manifest, 0, await self._is_whole(repository, manifest))
        return Case(held, self._terms(repository, reference), image_name(repository, reference))

    async def refresh(self, repository: Repository, tag: Tag) -> Manifest:
        """Ask upstream what a tag means, however fresh it is; raises as ``resolve`` does."""
        self._policies.check(repository)
        await self._missing.drop(self._key(repository, tag))
        key = self._key(repository, tag)
        return await self._flights.do(key, lambda: self._meaning(repository, tag))

    def _terms(self, repository: Repository, reference: Reference) -> Terms:
        policy = self._policies.of(repository)
        keeps = policy.on_upstream_gone == "serve" or self._store.pins.has(repository, reference)
        lifetime = (
            self._lifetime(repository, reference) if isinstance(reference, Tag) else _FOR_EVER
        )
        return Terms(
            lifetime=lifetime,
            timeouts=policy.timeouts,
            trouble=self._upstreams.of(repository).trouble(repository),
            is_offline=self._policies.is_offline(repository),
            gone=Gone.SERVE if keeps else Gone.TELL,
        )

    def _lifetime(self, repository: Repository, tag: Tag) -> Lifetime:
        """Return for how long a tag may be used: longer while few pulls are left."""
        lifetime = self._policies.tag(repository, tag)
        if not self._intake.is_short_of_pulls(repository):
            return lifetime
        return lifetime.stretched(self._policies.of(repository).rate_limit.stretch)

    async def _held(self, repository: Repository, tag: Tag) -> Held[Manifest] | None:
        row = await self._store.facts.tag(repository, tag)
        if row is None:
            return None
        manifest = await self._intake.local(repository, Digest.parse(row.digest))
        if manifest is None:
            return None
        is_whole = await self._is_whole(repository, manifest)
        return Held(manifest, self._clock.wall() - row.confirmed_at, is_whole)

    # --- asking upstream ---------------------------------------------------------------------

    def _scope(self, repository: Repository) -> str:
        return self._upstreams.scope(repository)

    def _key(self, repository: Repository, reference: Reference) -> Key:
        """Return what a question is joined by: nobody gets the answer to a caller but himself."""
        caller = acting_for(repository.upstream)
        mark = _NOBODY if caller is None else caller.mark
        return self._scope(repository), mark, repository, reference

    def _ask(self, repository: Repository, reference: Reference) -> Asking[Manifest]:
        key = self._key(repository, reference)
        joined = self._flights.is_running(key)
        if isinstance(reference, Tag):
            return Asking(
                self._flights.start(key, lambda: self._tag(repository, reference)), joined
            )
        return Asking(self._flights.start(key, lambda: self._digest(repository, reference)), joined)

    async def _digest(self, repository: Repository, digest: Digest) -> Manifest:
        held = await self._intake.local(repository, digest)
        if held is not None and await self._is_whole(repository, held):
            return held  # it came while the caller looked
        async with self._upstreams.of(repository).deadline():
            manifest = await self._intake.by_digest(repository, digest)
        await self._missing.drop(self._key(repository, digest))
        return manifest

    async def _tag(self, repository: Repository, tag: Tag) -> Manifest:
        held = await self._held(repository, tag)
        if held is not None and is_settled(held, self._lifetime(repository, tag)):
            return held.value
        return await self._meaning(repository, tag)

    async def _meaning(self, repository: Repository, tag: Tag) -> Manifest:
        manifest = await self._intake.meaning(repository, tag)
        await self._missing.drop(self._key(repository, manifest.digest))
        return manifest
