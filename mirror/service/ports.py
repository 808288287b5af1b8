"""What the registry listener asks of the service floor, whichever process that is in."""

from dataclasses import dataclass
from typing import Protocol

from mirror.domain.access import Viewer
from mirror.domain.manifests import Manifest
from mirror.domain.names import Digest, Reference, Repository
from mirror.domain.pages import Query
from mirror.service.served import Served
from mirror.transfer.parts import Body


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of a list: its bytes, and the query of the next page if there is one."""

    content: bytes
    media_type: str
    next_query: Query | None = None
    filtered: bool = False


class ManifestSource(Protocol):
    """Has manifests."""

    async def resolve(
        self, repository: Repository, reference: Reference
    ) -> tuple[Manifest, Served]:
        """Return the manifest that a reference means now; raises MirrorError."""
        ...


class BlobSource(Protocol):
    """Has blobs."""

    async def open(self, repository: Repository, digest: Digest) -> tuple[Body, Served]:
        """Return a body, which the caller closes; raises MirrorError."""
        ...

    async def size_bytes(self, repository: Repository, digest: Digest) -> tuple[int | None, Served]:
        """Return the size of a blob without fetching it; raises MirrorError."""
        ...


class ListSource(Protocol):
    """Has lists."""

    async def tags(self, repository: Repository, query: Query) -> tuple[Listing, Served]:
        """Return a page of a repository's tags; raises MirrorError."""
        ...

    async def referrers(
        self, repository: Repository, subject: Digest, query: Query
    ) -> tuple[Listing, Served]:
        """Return the manifests that refer to *subject*; raises MirrorError."""
        ...

    async def catalog(self, query: Query, viewer: Viewer) -> Listing:
        """Return a page of the repositories that are cached and that *viewer* may see."""
        ...


class Patience(Protocol):
    """Knows who may be told to wait."""

    def waits(self, upstream: str) -> bool:
        """Return whether clients are told to wait when an upstream limits our rate."""
        ...
