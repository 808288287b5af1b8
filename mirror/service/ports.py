"""What the registry listener asks of the service floor, whichever process that is in."""

from dataclasses import dataclass
from typing import Protocol

from mirror.domain.access import Viewer
from mirror.domain.credentials import Basic
from mirror.domain.manifests import Manifest
from mirror.domain.names import Digest, Reference, Repository
from mirror.domain.pages import Query
from mirror.domain.routing import Kind
from mirror.runtime.acting import Caller
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

    def at_hand(self, repository: Repository, digest: Digest) -> Manifest | None:
        """Return what ``resolve`` would as a mere hit, if nothing has to be waited for."""
        ...


class BlobSource(Protocol):
    """Has blobs."""

    async def open(self, repository: Repository, digest: Digest) -> tuple[Body, Served]:
        """Return a body, which the caller closes; raises MirrorError."""
        ...

    def at_hand(self, repository: Repository, digest: Digest) -> bytes | None:
        """Return a small blob that ``open`` would as a mere hit, if nothing is waited for."""
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


class Verifier(Protocol):
    """Checks callers where their registry says who may pull (``policy.access: verify``)."""

    @property
    def upstreams(self) -> frozenset[str]:
        """The upstreams that this is for."""
        ...

    async def admit(
        self, repository: Repository, kind: Kind, reference: Reference | None, shown: Basic | None
    ) -> Caller | None:
        """Return as whom upstream is asked for a request; ``None``: as a stranger.

        What is asked of the other ports for this request goes with it (``runtime.acting``).

        Raises:
            CredentialNeededError: no credential was shown, and one is needed.
            MirrorError: it may not pass, or that cannot be told now.
        """
        ...
