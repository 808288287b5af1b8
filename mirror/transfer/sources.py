"""Upstreams as downloads see them: where blobs come from, and who is not to be trusted.

An endpoint that sent wrong content for a digest is asked last for that digest for a minute.
It is not left out: it may be the only one, and a wrong byte can have come by any way.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from mirror.domain.errors import MirrorError
from mirror.domain.events import EventKind
from mirror.domain.names import Digest, Repository
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics
from mirror.upstream.streaming import BlobStream
from mirror.upstream.upstreams import Upstreams

SUSPECT_SECONDS: Final = 60.0
FILL_READ_AHEAD_BYTES: Final = 2 * 1024 * 1024
_SUSPECTS_MAX: Final = 1000
_log = get_logger("transfer")


class Sources:
    """Opens blobs at upstreams, within the time for an answer."""

    def __init__(self, upstreams: Upstreams, metrics: Metrics) -> None:
        self._upstreams = upstreams
        self._metrics = metrics
        self._suspects: dict[tuple[str, Digest], float] = {}

    @asynccontextmanager
    async def open(
        self,
        repository: Repository,
        digest: Digest,
        span: tuple[int, int | None],
        avoid: Collection[str] = (),
        read_ahead_bytes: int = FILL_READ_AHEAD_BYTES,
    ) -> AsyncIterator[BlobStream]:
        """Open a blob at its upstream from a byte on; endpoints in *avoid* are asked last.

        Raises MirrorError on entering.
        """
        registry = self._upstreams.of(repository)
        async with AsyncExitStack() as stack:
            async with registry.deadline():
                opening = registry.open_blob(repository, digest, span, read_ahead_bytes, avoid)
                stream = await stack.enter_async_context(opening)
            yield stream

    def endpoints(self, repository: Repository) -> tuple[str, ...]:
        """Return all that may be asked for a repository."""
        return self._upstreams.of(repository).endpoints

    def suspects(self, digest: Digest) -> Collection[str]:
        """Return the endpoints that sent wrong content of this digest in the last minute."""
        now = asyncio.get_running_loop().time()
        return {
            endpoint
            for (endpoint, suspected), until in self._suspects.items()
            if suspected == digest and now < until
        }

    def suspect(
        self, endpoint: str, repository: Repository, digest: Digest, error: MirrorError
    ) -> None:
        """Note that an endpoint has sent wrong content; the facts are kept, never the bytes."""
        now = asyncio.get_running_loop().time()
        self._suspects = {key: until for key, until in self._suspects.items() if now < until}
        while len(self._suspects) >= _SUSPECTS_MAX:
            del self._suspects[next(iter(self._suspects))]
        self._suspects[endpoint, digest] = now + SUSPECT_SECONDS
        self._metrics.digest_mismatches.labels(repository.upstream).inc()
        self._metrics.events.tell(
            EventKind.MISMATCH,
            str(digest),
            upstream=repository.upstream,
            repository=repository.name,
            endpoint=endpoint,
        )
        _log.error(
            "an endpoint sent wrong content",
            upstream=repository.upstream,
            endpoint=endpoint,
            repository=repository.name,
            digest=str(digest),
            reason=str(error),
        )
