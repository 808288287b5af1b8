"""Brings an image into the cache, whole, as clients would by pulling it."""

from dataclasses import dataclass

from mirror.domain.manifests import LinkKind, Manifest, is_index
from mirror.domain.names import Digest, Reference, Repository
from mirror.observe.metrics import Result
from mirror.service.blobs import Blobs
from mirror.service.manifests import Manifests
from mirror.store.pins import is_chosen

_DEPTH_MAX = 4


@dataclass(slots=True)
class Fetched:
    """What was fetched: manifests and blobs that were not here, and the bytes of the blobs."""

    objects: int = 0
    size_bytes: int = 0


class Fetching:
    """Fetches what is missing, one object after the other, by the rules of all pulls."""

    def __init__(self, manifests: Manifests, blobs: Blobs) -> None:
        self._manifests = manifests
        self._blobs = blobs

    async def image(
        self, repository: Repository, reference: Reference, platforms: tuple[str, ...] = ()
    ) -> Fetched:
        """Fetch an image, or those of its platforms that are named.

        Raises:
            MirrorError: something of it cannot be had.
        """
        fetched = Fetched()
        await self._manifest(repository, reference, platforms, fetched, _DEPTH_MAX)
        return fetched

    async def _manifest(
        self,
        repository: Repository,
        reference: Reference,
        platforms: tuple[str, ...],
        fetched: Fetched,
        depth: int,
    ) -> None:
        manifest, served = await self._manifests.resolve(repository, reference)
        fetched.objects += served.result is Result.MISS
        for link in manifest.links:
            if link.kind is LinkKind.BLOB:
                continue
            if depth and _is_wanted(manifest, link.platform, platforms):
                await self._manifest(repository, link.digest, platforms, fetched, depth - 1)
        for link in manifest.links:
            if link.kind is LinkKind.BLOB:
                await self._blob(repository, link.digest, fetched)

    async def _blob(self, repository: Repository, digest: Digest, fetched: Fetched) -> None:
        body, served = await self._blobs.open(repository, digest)
        try:
            if served.result is Result.HIT:
                return
            async for _part in body.parts(None):
                pass  # they are on disk when they come
        finally:
            await body.close()
        fetched.objects += 1
        fetched.size_bytes += body.size_bytes or 0


def _is_wanted(manifest: Manifest, platform: str | None, platforms: tuple[str, ...]) -> bool:
    return not is_index(manifest.media_type) or is_chosen(platform, platforms)
