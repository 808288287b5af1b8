"""Whether a manifest's objects are here, too (invariant 17).

Clients take all blobs from where they got the manifest, some without any fallback: a
manifest whose blobs cannot be had is worse than none. The answer is worked
out from what is stored and remembered until something is removed, so it cannot be wrong
after a crash.
"""

from typing import Final

from mirror.domain.errors import MirrorError
from mirror.domain.manifests import Descriptor, Manifest, is_index, read_manifest
from mirror.domain.names import Digest, Repository
from mirror.store.store import Store

_NOT_A_PLATFORM: Final = "unknown/unknown"
"""What builders call the attestations that they put beside the images of an index."""
_DEPTH_MAX: Final = 4
_REMEMBERED_MAX: Final = 10_000


class Completeness:
    """Answers for one repository's view of a manifest."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._complete: dict[tuple[Repository, Digest], int] = {}

    async def of(self, repository: Repository, manifest: Manifest, scope: str) -> bool:
        """Tell whether config and layers are here, or an image of at least one platform."""
        key, losses = (repository, manifest.digest), self._store.facts.losses
        if self._complete.get(key) == losses:
            return True
        is_complete = await self._look(repository, manifest, scope, _DEPTH_MAX)
        if is_complete:
            if len(self._complete) >= _REMEMBERED_MAX:
                self._complete.clear()
            self._complete[key] = losses
        return is_complete

    async def _look(
        self, repository: Repository, manifest: Manifest, scope: str, depth: int
    ) -> bool:
        if not is_index(manifest.media_type):
            for link in manifest.links:
                if not await self._is_here(repository, link, scope):
                    return False
            return True
        images = [link for link in manifest.links if link.platform != _NOT_A_PLATFORM]
        for link in images:
            if depth and await self._is_whole(repository, link, scope, depth - 1):
                return True
        return not manifest.links

    async def _is_whole(
        self, repository: Repository, link: Descriptor, scope: str, depth: int
    ) -> bool:
        if not await self._is_here(repository, link, scope):
            return False
        content = await self._store.content(link.digest, scope)
        if content is None:
            return False
        try:
            child = read_manifest(content, link.media_type, link.digest)
        except MirrorError:
            return False
        return await self._look(repository, child, scope, depth)

    async def _is_here(self, repository: Repository, link: Descriptor, scope: str) -> bool:
        """Tell whether an object could be served now without asking anybody."""
        row = await self._store.facts.link(repository, link.digest, link.kind)
        if row is None or not row.opens(scope):
            return False
        return await self._store.has(link.digest, scope)
