"""Brings an image into the cache, whole, as clients would by pulling it.

Whoever began it looks at what grows: ``Fetched`` is true at every moment.
"""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from mirror.domain.errors import ManifestUnknownError, MirrorError, NotFoundError
from mirror.domain.images import image_name
from mirror.domain.manifests import Descriptor, LinkKind, Manifest, read_manifest
from mirror.domain.media import OCI_INDEX
from mirror.domain.names import Digest, Reference, Repository
from mirror.domain.pages import Query
from mirror.domain.walking import Walk, signature_tags
from mirror.observe.metrics import Result
from mirror.service.blobs import Blobs
from mirror.service.lists import Lists
from mirror.service.manifests import Manifests
from mirror.service.quota import Quota, QuotaKeptError

_REFERRERS_DEPTH: Final = 2
"""What refers to an image, and what refers to that: the signature of an SBOM."""
_PAGES_MAX: Final = 100


class LayerState(StrEnum):
    """How far a blob is."""

    WAITING = "waiting"
    COMING = "coming"
    HERE = "here"
    """It was here before."""
    FETCHED = "fetched"
    FAILED = "failed"


@dataclass(slots=True)
class Layer:
    """A blob of an image: a layer or a config.

    ``resumed_bytes`` were on the disk from an earlier download. One that ``is_shared`` is
    counted for another image.
    """

    digest: Digest
    size_bytes: int
    state: LayerState = LayerState.WAITING
    received_bytes: int = 0
    resumed_bytes: int = 0
    is_shared: bool = False

    @property
    def fetched_bytes(self) -> int:
        """What has come since it was asked for."""
        if self.state is LayerState.HERE or self.is_shared:
            return 0
        return max(0, self.received_bytes - self.resumed_bytes)


@dataclass(slots=True)
class Fetched:
    """How far an image is.

    ``objects`` counts the manifests and blobs that were not here, ``platforms`` are those that
    the image has.
    """

    digest: Digest | None = None
    objects: int = 0
    platforms: tuple[str, ...] = ()
    layers: dict[Digest, Layer] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """The bytes of blobs that have been fetched."""
        return sum(layer.fetched_bytes for layer in self.layers.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is wanted of an image, and at whose cost.

    ``kept_share`` of the pulls is left to clients; ``None``: it may take all.
    ``slots`` bounds how many blobs come at a time. ``counted`` are the blobs of all images
    that are fetched together: each counts for one of them.
    """

    platforms: tuple[str, ...] = ()
    with_referrers: bool = False
    kept_share: float | None = None
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    counted: set[Digest] = field(default_factory=set)


class Fetching:
    """Fetches what is missing by the rules of all pulls, and shares downloads with them."""

    def __init__(self, manifests: Manifests, blobs: Blobs, lists: Lists, quota: Quota) -> None:
        self._manifests = manifests
        self._blobs = blobs
        self._lists = lists
        self._quota = quota

    async def image(
        self,
        repository: Repository,
        reference: Reference,
        wish: Wish,
        fetched: Fetched | None = None,
    ) -> Fetched:
        """Fetch an image, or those of its platforms that are named.

        What cannot be had does not stop the rest.

        Args:
            repository: Where it is.
            reference: What it is called.
            wish: What is wanted of it.
            fetched: Grows as it goes; the same is returned.

        Raises:
            MirrorError: something of it cannot be had.
            OSError: the disk does not take it.
        """
        fetched = Fetched() if fetched is None else fetched
        errand = _Errand(self, repository, wish, fetched)
        await errand.run(reference)
        return fetched

    async def manifest(
        self, repository: Repository, reference: Reference, wish: Wish
    ) -> tuple[Manifest, Result]:
        """Return a manifest; what is here will do when pulls are to be left to others."""
        if wish.kept_share is None:
            manifest, served = await self._manifests.resolve(repository, reference)
            return manifest, served.result
        async with self._quota.turn(repository):
            try:
                self._quota.check(repository, wish.kept_share)
            except QuotaKeptError:
                case = await self._manifests.case(repository, reference)
                if case.held is None:
                    raise
                return case.held.value, Result.HIT
            manifest, served = await self._manifests.resolve(repository, reference)
            return manifest, served.result

    async def referrers(self, repository: Repository, subject: Digest) -> list[Manifest]:
        """Return the lists of what refers to a manifest, a page each."""
        query: Query = ()
        pages: list[Manifest] = []
        while len(pages) < _PAGES_MAX:
            listing, _ = await self._lists.referrers(repository, subject, query)
            digest = Digest.of(listing.content)
            pages.append(read_manifest(listing.content, OCI_INDEX, digest))
            if listing.next_query is None:
                break
            query = listing.next_query
        return pages

    async def blob(self, repository: Repository, layer: Layer) -> None:
        """Fetch a blob and wait until it is stored."""
        body, served = await self._blobs.open(repository, layer.digest)
        try:
            if served.result is Result.HIT:
                layer.state, layer.received_bytes = LayerState.HERE, layer.size_bytes
                return
            layer.state, is_first = LayerState.COMING, True
            async with aclosing(body.arrivals()) as arrivals:
                async for count in arrivals:
                    if is_first:
                        layer.resumed_bytes, is_first = count, False
                    layer.received_bytes = count
            layer.state = LayerState.FETCHED
        finally:
            await body.close()


class _Errand:
    """One image on its way."""

    def __init__(
        self, fetching: Fetching, repository: Repository, wish: Wish, fetched: Fetched
    ) -> None:
        self._fetching = fetching
        self._repository = repository
        self._wish = wish
        self._fetched = fetched
        self._walk = Walk(wish.platforms, with_attestations=wish.with_referrers)
        self._errors: list[MirrorError | OSError] = []
        self._subjects: list[Digest] = []

    async def run(self, reference: Reference) -> None:
        manifest = await self._read(reference)
        self._fetched.digest = manifest.digest
        async with asyncio.TaskGroup() as tasks:
            await self._descend(manifest, tasks)
            if self._wish.with_referrers:
                await self._refer(tasks)
        if self._walk.found_nothing:
            name = image_name(self._repository, reference)
            self._errors.append(
                ManifestUnknownError(
                    f"{name} has no image for {', '.join(self._wish.platforms)}; it has: "
                    f"{', '.join(self._walk.offered)}"
                )
            )
        if self._errors:
            raise self._errors[0].with_traceback(None)

    async def _read(self, reference: Reference) -> Manifest:
        manifest, result = await self._fetching.manifest(self._repository, reference, self._wish)
        self._fetched.objects += result is Result.MISS
        self._subjects.append(manifest.digest)
        return manifest

    async def _descend(self, manifest: Manifest, tasks: asyncio.TaskGroup) -> None:
        for link in self._walk.enter(manifest):
            if link.kind is LinkKind.BLOB:
                if layer := self._wanted(link):
                    tasks.create_task(self._blob(layer))
                continue
            try:
                child = await self._read(link.digest)
            except (MirrorError, OSError) as error:
                self._errors.append(error)
            else:
                await self._descend(child, tasks)
        self._fetched.platforms = self._walk.offered

    def _wanted(self, link: Descriptor) -> Layer | None:
        """Return the layer to be fetched; ``None``: an earlier try has it."""
        known = self._fetched.layers.get(link.digest)
        if known is None:
            is_shared = link.digest in self._wish.counted
            self._wish.counted.add(link.digest)
            known = Layer(link.digest, link.size_bytes, is_shared=is_shared)
            self._fetched.layers[link.digest] = known
        elif known.state is not LayerState.FAILED:
            return None
        known.state = LayerState.WAITING
        return known

    async def _blob(self, layer: Layer) -> None:
        async with self._wish.slots:
            try:
                await self._fetching.blob(self._repository, layer)
            except (MirrorError, OSError) as error:
                layer.state = LayerState.FAILED
                self._errors.append(error)
        self._fetched.objects += layer.state is LayerState.FETCHED

    # --- what refers to it -----------------------------------------------------------------

    async def _refer(self, tasks: asyncio.TaskGroup) -> None:
        for subject in tuple(self._subjects):
            await self._signatures(subject, tasks)
        done: set[Digest] = set()
        for _ in range(_REFERRERS_DEPTH):
            for subject in [each for each in self._subjects if each not in done]:
                done.add(subject)
                try:
                    pages = await self._fetching.referrers(self._repository, subject)
                except (MirrorError, OSError) as error:
                    self._errors.append(error)
                    continue
                for page in pages:
                    await self._descend(page, tasks)

    async def _signatures(self, subject: Digest, tasks: asyncio.TaskGroup) -> None:
        for tag in signature_tags(subject):
            try:
                manifest = await self._read(tag)
            except NotFoundError:
                continue
            except (MirrorError, OSError) as error:
                self._errors.append(error)
                continue
            await self._descend(manifest, tasks)
