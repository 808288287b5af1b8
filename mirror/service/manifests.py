"""What a tag or digest means, and the manifest it names."""

import asyncio
from functools import partial as bound
from typing import Final

from mirror.domain.decisions import Gone
from mirror.domain.errors import (
    ContentMismatchError,
    MirrorError,
    NotFoundError,
    OverloadedError,
    RateLimitedError,
    TroubleError,
    UpstreamTroubleError,
)
from mirror.domain.events import EventKind
from mirror.domain.freshness import IMMUTABLE, Lifetime
from mirror.domain.images import image_name
from mirror.domain.manifests import MANIFEST_MAX_BYTES, LinkKind, Manifest, read_manifest
from mirror.domain.names import Digest, Reference, Repository, Tag
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics, Result
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
from mirror.service.policies import Policies
from mirror.service.served import Served
from mirror.store.rows import TagRow
from mirror.store.store import Store
from mirror.upstream.reading import ManifestBody
from mirror.upstream.upstreams import Upstreams

_SEEN_ALIVE_SECONDS: Final = 30.0
_HISTORY_MAX_ENTRIES: Final = 100
_FOR_EVER: Final = Lifetime(fresh_seconds=IMMUTABLE, stale_if_error_seconds=0)
_log = get_logger("service")

Key = tuple[str, Repository, Reference]


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
        self._metrics = metrics
        self._clock = clock
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
        """Return what ``resolve`` would as a mere hit, if nothing has to be waited for."""
        if self._upstreams.of(repository).silent_seconds > _SEEN_ALIVE_SECONDS:
            return None  # what it refers to has to be looked for
        if not self._policies.allows(repository):
            return None
        scope = self._scope(repository)
        if self._missing.peek((scope, repository, digest)) is not None:
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
        held = await self._local(repository, digest)
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

    async def _local(self, repository: Repository, digest: Digest) -> Manifest | None:
        """Return a stored manifest that a link of this repository allows to be served."""
        scope = self._scope(repository)
        link = await self._store.facts.link(repository, digest, LinkKind.MANIFEST)
        if link is None or not link.opens(scope):
            return None
        return await self._store.manifest(repository, digest, scope)

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
            held, lifetime = await self._held(repository, reference), None
        else:
            manifest, lifetime = await self._local(repository, reference), _FOR_EVER
            if manifest is not None:
                held = Held(manifest, 0, await self._is_whole(repository, manifest))
        terms = self._terms(repository, reference, lifetime)
        return Case(held, terms, image_name(repository, reference))

    async def refresh(self, repository: Repository, tag: Tag) -> Manifest:
        """Ask upstream what a tag means, however fresh it is; raises as ``resolve`` does."""
        self._policies.check(repository)
        await self._missing.drop(self._key(repository, tag))
        key = self._key(repository, tag)
        return await self._flights.do(key, lambda: self._meaning(repository, tag))

    def _terms(
        self, repository: Repository, reference: Reference, lifetime: Lifetime | None
    ) -> Terms:
        policy = self._policies.of(repository)
        keeps = policy.on_upstream_gone == "serve" or self._store.pins.has(repository, reference)
        if isinstance(reference, Tag):
            lifetime = self._lifetime(repository, reference)
        return Terms(
            lifetime=lifetime or _FOR_EVER,
            timeouts=policy.timeouts,
            trouble=self._upstreams.of(repository).trouble(repository),
            is_offline=self._policies.is_offline(repository),
            gone=Gone.SERVE if keeps else Gone.TELL,
        )

    def _lifetime(self, repository: Repository, tag: Tag) -> Lifetime:
        """Return for how long a tag may be used: longer while few pulls are left."""
        lifetime = self._policies.tag(repository, tag)
        if not self._is_short_of_pulls(repository):
            return lifetime
        return lifetime.stretched(self._policies.of(repository).rate_limit.stretch)

    def _is_short_of_pulls(self, repository: Repository) -> bool:
        budget = self._upstreams.of(repository).budget(repository)
        if budget is None:
            return False
        return self._policies.is_sparing(repository, budget.share(self._clock.wall()))

    async def _held(self, repository: Repository, tag: Tag) -> Held[Manifest] | None:
        row = await self._store.facts.tag(repository, tag)
        if row is None:
            return None
        manifest = await self._local(repository, Digest.parse(row.digest))
        if manifest is None:
            return None
        is_whole = await self._is_whole(repository, manifest)
        return Held(manifest, self._clock.wall() - row.confirmed_at, is_whole)

    # --- asking upstream ---------------------------------------------------------------------

    def _scope(self, repository: Repository) -> str:
        return self._upstreams.scope(repository)

    def _key(self, repository: Repository, reference: Reference) -> Key:
        """Return what a question is joined by: strangers never get the answer to a caller."""
        return self._scope(repository), repository, reference

    def _ask(self, repository: Repository, reference: Reference) -> Asking[Manifest]:
        key = self._key(repository, reference)
        joined = self._flights.is_running(key)
        if isinstance(reference, Tag):
            return Asking(
                self._flights.start(key, lambda: self._tag(repository, reference)), joined
            )
        return Asking(self._flights.start(key, lambda: self._digest(repository, reference)), joined)

    async def _digest(self, repository: Repository, digest: Digest) -> Manifest:
        held = await self._local(repository, digest)
        if held is not None and await self._is_whole(repository, held):
            return held  # it came while the caller looked
        async with self._upstreams.of(repository).deadline():
            return await self._fetch_digest(repository, digest, head_first=True)

    async def _tag(self, repository: Repository, tag: Tag) -> Manifest:
        """Ask what a tag means: a HEAD costs nothing of Docker Hub's budget."""
        held = await self._held(repository, tag)
        if held is not None and is_settled(held, self._lifetime(repository, tag)):
            return held.value
        return await self._meaning(repository, tag)

    async def _meaning(self, repository: Repository, tag: Tag) -> Manifest:
        registry = self._upstreams.of(repository)
        async with registry.deadline():
            head = await registry.head_manifest(repository, tag)
            if head is None or head.digest is None:
                manifest = await self._fetch(repository, tag)
            else:
                first = await self._seen_first(repository, tag, head.digest)
                manifest = first or await self._named(repository, tag, head.digest, head.media_type)
        await self._remember(repository, tag, manifest.digest)
        return manifest

    async def _seen_first(
        self, repository: Repository, tag: Tag, digest: Digest
    ) -> Manifest | None:
        """Return what an immutable tag meant first, if it has moved and that can be had."""
        row = await self._store.facts.tag(repository, tag)
        is_immutable = self._policies.tag(repository, tag).is_immutable
        if row is None or row.digest == str(digest) or not is_immutable:
            return None
        self._metrics.immutable_tag_moved.labels(repository.upstream).inc()
        _log.warning(
            "an immutable tag has moved upstream; it is served as first seen",
            what=f"{repository}:{tag}",
            first=row.digest,
            moved_to=str(digest),
        )
        first = Digest.parse(row.digest)
        try:
            held = await self._local(repository, first)
            return held or await self._fetch_digest(repository, first, head_first=False)
        except NotFoundError:
            return None  # upstream has it no more: its word is all there is

    async def _named(
        self, repository: Repository, tag: Tag, digest: Digest, media_type: str | None
    ) -> Manifest:
        """Return the manifest that upstream's HEAD has named, from here if it is here."""
        manifest = await self._local(repository, digest)
        manifest = manifest or await self._adopted(repository, digest, media_type)
        if manifest is not None:
            return manifest
        try:
            return await self._fetch_digest(repository, digest, head_first=False)
        except NotFoundError:
            return await self._fetch(repository, tag)  # the tag moved in between

    async def _fetch_digest(
        self, repository: Repository, digest: Digest, *, head_first: bool
    ) -> Manifest:
        if head_first and await self._store.has(digest, self._scope(repository)):
            # Another repository has brought the bytes; this one has to ask all the same.
            head = await self._upstreams.of(repository).head_manifest(repository, digest)
            if head is not None:
                manifest = await self._adopted(repository, digest, head.media_type)
                if manifest is not None:
                    return manifest
        return await self._fetch(repository, digest)

    async def _adopted(
        self, repository: Repository, digest: Digest, media_type: str | None
    ) -> Manifest | None:
        """Link bytes that are here to a repository for which upstream has just answered."""
        scope = self._scope(repository)
        row = await self._store.facts.object(digest)
        if row is None or row.size_bytes > MANIFEST_MAX_BYTES:
            return None  # a blob of any size, which upstream now calls a manifest
        content = await self._store.content(digest, scope)
        if content is None:
            return None
        manifest = read_manifest(content, media_type, digest)
        await self._keep(repository, manifest, scope)
        return manifest

    async def _fetch(self, repository: Repository, reference: Reference) -> Manifest:
        reserve = self._policies.of(repository).rate_limit.reserve
        if reserve and self._is_short_of_pulls(repository):
            _log.warning(
                "a pull is left to policy.rate_limit.reserve", what=f"{repository} {reference}"
            )
            raise RateLimitedError(repository.upstream)
        body = await self._upstreams.of(repository).get_manifest(repository, reference)
        digest = self._verified(repository, reference, body)
        manifest = read_manifest(body.content, body.content_type, digest)
        await self._keep(repository, manifest, self._scope(repository))
        return manifest

    def _verified(self, repository: Repository, reference: Reference, body: ManifestBody) -> Digest:
        """Return the digest of what came; it must be what was asked for and what was said."""
        wanted = reference if isinstance(reference, Digest) else _stated(body)
        digest = Digest.of(body.content, wanted.algorithm if wanted else "sha256")
        if wanted is not None and digest != wanted:
            self._metrics.digest_mismatches.labels(repository.upstream).inc()
            self._metrics.events.tell(
                EventKind.MISMATCH,
                str(wanted),
                upstream=repository.upstream,
                repository=repository.name,
                endpoint="",
            )
            raise ContentMismatchError(f"{repository}: {digest} instead of {wanted}")
        return digest

    async def _keep(self, repository: Repository, manifest: Manifest, scope: str) -> None:
        """Keep a manifest if there is room; it can be served either way."""
        await self._missing.drop(self._key(repository, manifest.digest))
        try:
            await self._store.keep_manifest(repository, manifest, scope)
        except (OSError, OverloadedError) as error:
            _log.error(
                "a manifest could not be kept", repository=str(repository), reason=str(error)
            )
            return
        self._metrics.events.tell(
            EventKind.CACHED,
            str(manifest.digest),
            kind="manifest",
            size_bytes=manifest.size_bytes,
            upstream=repository.upstream,
            repository=repository.name,
        )

    async def _remember(self, repository: Repository, tag: Tag, digest: Digest) -> None:
        now, text = self._clock.wall(), str(digest)
        row = await self._store.facts.tag(repository, tag)
        if row is None:
            new = TagRow(text, now, now)
        elif row.digest == text:
            new = TagRow(text, row.seen_at, now, row.history)
        else:
            history = ((row.digest, row.seen_at), *row.history)[:_HISTORY_MAX_ENTRIES]
            new = TagRow(text, now, now, history)
        try:
            await self._store.keep_tag(repository, tag, new)
        except OSError as error:
            _log.error("a tag could not be kept", repository=str(repository), reason=str(error))


def _stated(body: ManifestBody) -> Digest | None:
    if body.stated_digest is None:
        return None
    try:
        return Digest.parse(body.stated_digest)
    except MirrorError:
        raise UpstreamTroubleError("Docker-Content-Digest is not a digest") from None
