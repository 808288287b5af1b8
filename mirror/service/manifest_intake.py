"""Brings manifests here: asks upstream, checks what comes, links and keeps it."""

from typing import Final

from mirror.domain.errors import (
    ContentMismatchError,
    MirrorError,
    NotFoundError,
    OverloadedError,
    RateLimitedError,
    UpstreamTroubleError,
)
from mirror.domain.events import EventKind
from mirror.domain.manifests import MANIFEST_MAX_BYTES, LinkKind, Manifest, read_manifest
from mirror.domain.names import Digest, Reference, Repository, Tag
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics
from mirror.runtime.clock import Clock
from mirror.service.policies import Policies
from mirror.store.rows import TagRow
from mirror.store.store import Store
from mirror.upstream.reading import ManifestBody
from mirror.upstream.upstreams import Upstreams

_HISTORY_MAX_ENTRIES: Final = 100
_log = get_logger("service")


class ManifestIntake:
    """What is here of manifests, and how more of them come."""

    def __init__(
        self,
        *,
        store: Store,
        upstreams: Upstreams,
        policies: Policies,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._store = store
        self._upstreams = upstreams
        self._policies = policies
        self._metrics = metrics
        self._clock = clock

    async def local(self, repository: Repository, digest: Digest) -> Manifest | None:
        """Return a stored manifest that a link of this repository allows to be served."""
        scope = self._upstreams.scope(repository)
        link = await self._store.facts.link(repository, digest, LinkKind.MANIFEST)
        if link is None or not link.opens(scope):
            return None
        return await self._store.manifest(repository, digest, scope)

    def is_short_of_pulls(self, repository: Repository) -> bool:
        """Return whether what upstream still lets us pull is kept for other repositories."""
        budget = self._upstreams.of(repository).budget(repository)
        if budget is None:
            return False
        return self._policies.is_sparing(repository, budget.share(self._clock.wall()))

    async def by_digest(self, repository: Repository, digest: Digest) -> Manifest:
        """Return a manifest of upstream that no link opens yet; raises MirrorError."""
        if await self._store.has(digest, self._upstreams.scope(repository)):
            # Another repository has brought the bytes; this one has to ask all the same.
            head = await self._upstreams.of(repository).head_manifest(repository, digest)
            if head is not None:
                manifest = await self._adopted(repository, digest, head.media_type)
                if manifest is not None:
                    return manifest
        return await self._fetch(repository, digest)

    async def meaning(self, repository: Repository, tag: Tag) -> Manifest:
        """Return what a tag means upstream, and remember it; raises MirrorError.

        A HEAD is asked first: it costs nothing of Docker Hub's budget.
        """
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
            held = await self.local(repository, first)
            return held or await self._fetch(repository, first)
        except NotFoundError:
            return None  # upstream has it no more: its word is all there is

    async def _named(
        self, repository: Repository, tag: Tag, digest: Digest, media_type: str | None
    ) -> Manifest:
        """Return the manifest that upstream's HEAD has named, from here if it is here."""
        manifest = await self.local(repository, digest)
        manifest = manifest or await self._adopted(repository, digest, media_type)
        if manifest is not None:
            return manifest
        try:
            return await self._fetch(repository, digest)
        except NotFoundError:
            return await self._fetch(repository, tag)  # the tag moved in between

    async def _adopted(
        self, repository: Repository, digest: Digest, media_type: str | None
    ) -> Manifest | None:
        """Link bytes that are here to a repository for which upstream has just answered."""
        scope = self._upstreams.scope(repository)
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
        if reserve and self.is_short_of_pulls(repository):
            _log.warning(
                "a pull is left to policy.rate_limit.reserve", what=f"{repository} {reference}"
            )
            raise RateLimitedError(repository.upstream)
        body = await self._upstreams.of(repository).get_manifest(repository, reference)
        digest = self._verified(repository, reference, body)
        manifest = read_manifest(body.content, body.content_type, digest)
        await self._keep(repository, manifest, self._upstreams.scope(repository))
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
