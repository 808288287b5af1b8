"""A pull, measured: request by request, from the mirror or from the upstream itself."""

import asyncio
import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Final, Protocol

import msgspec

from mirror.app.direct import direct
from mirror.cli.doctor.asking import Place
from mirror.domain.errors import MirrorError
from mirror.domain.images import image_name
from mirror.domain.manifests import LinkKind, Manifest, is_index, read_manifest
from mirror.domain.media import ACCEPT_MANIFESTS
from mirror.domain.names import Digest, Reference, Repository
from mirror.domain.walking import is_chosen
from mirror.settings import Settings

_READ_BYTES: Final = 256 * 1024
_LIMIT_SECONDS: Final = 60
_WORDS: Final = (
    ("detail=passthrough", "passthrough"),
    ("collapsed", "joined"),
    ("fwd=uri-miss", "miss"),
    ("fwd=stale", "revalidated"),
    ("detail=", "stale"),
    ("hit", "hit"),
)


class Measure(msgspec.Struct, frozen=True):
    """One object: how it came, how long until its first byte and its last.

    ``result`` is ``hit``, ``miss`` and so on, by Cache-Status; ``direct`` without a mirror.
    """

    what: str
    digest: str
    size_bytes: int
    result: str
    first_byte_seconds: float
    seconds: float

    @property
    def bytes_per_second(self) -> float:
        """The speed from the request to the last byte."""
        return self.size_bytes / self.seconds if self.seconds else 0.0


class MeasureError(Exception):
    """It cannot be pulled; the message says why."""


class Source(Protocol):
    """Where a pull is measured; both may raise MeasureError."""

    def manifest(self, reference: Reference) -> tuple[Manifest, Measure]:
        """Fetch a manifest."""

    def blob(self, digest: Digest, what: str) -> Measure:
        """Fetch a blob."""


def pull(source: Source, reference: Reference, platform: str) -> Iterator[Measure]:
    """Measure each request of a pull, one after the other; raises MeasureError."""
    manifest, measure = source.manifest(reference)
    yield measure
    if is_index(manifest.media_type):
        found = [
            link
            for link in manifest.links
            if link.platform is not None and is_chosen(link.platform, (platform,))
        ]
        if not found:
            offered = ", ".join(sorted({link.platform or "?" for link in manifest.links}))
            raise MeasureError(f"there is no image for {platform}; --platform is one of: {offered}")
        manifest, measure = source.manifest(found[0].digest)
        yield measure
    for number, link in enumerate(each for each in manifest.links if each.kind is LinkKind.BLOB):
        yield source.blob(link.digest, "config" if not number else f"layer {number}")


class FromMirror:
    """Pulls through a running mirror, on one connection as clients do."""

    def __init__(self, place: Place, repository: Repository) -> None:
        self._place = place
        self._repository = repository
        self._connection = place.connection(_LIMIT_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def manifest(self, reference: Reference) -> tuple[Manifest, Measure]:
        """Fetch a manifest."""
        content = bytearray()
        answer, measure = self._get(f"manifests/{reference}", content.extend)
        digest = Digest.of(bytes(content))
        try:
            manifest = read_manifest(bytes(content), answer.headers.get("Content-Type"), digest)
        except MirrorError as error:
            raise MeasureError(str(error)) from None
        what = "index" if is_index(manifest.media_type) else "manifest"
        return manifest, msgspec.structs.replace(measure, what=what, digest=str(digest))

    def blob(self, digest: Digest, what: str) -> Measure:
        """Fetch a blob."""
        _, measure = self._get(f"blobs/{digest}", lambda _chunk: None)
        return msgspec.structs.replace(measure, what=what, digest=str(digest))

    def _get(
        self, path: str, see: Callable[[bytes], object]
    ) -> tuple[http.client.HTTPResponse, Measure]:
        name, upstream = self._repository.name, self._repository.upstream
        began, size_bytes = time.perf_counter(), 0
        try:
            self._connection.request(
                "GET",
                f"/v2/{name}/{path}?ns={upstream}",
                headers={"Accept": ACCEPT_MANIFESTS},
            )
            answer = self._connection.getresponse()
            first, chunk = None, answer.read(1)
            while chunk:
                first = first or time.perf_counter()
                size_bytes += len(chunk)
                see(chunk)
                chunk = answer.read(_READ_BYTES)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise MeasureError(f"{self._place.url}: {reason}") from None
        ended = time.perf_counter()
        if answer.status != http.client.OK:
            raise MeasureError(f"{self._place.url} answers {answer.status} to {path}")
        if answer.length:
            raise MeasureError(f"{path} was cut {answer.length} bytes before its end")
        result = _result(answer.headers.get("Cache-Status", ""))
        seconds = (first or ended) - began
        return answer, Measure("", "", size_bytes, result, seconds, ended - began)


def _result(cache_status: str) -> str:
    """Return the word for what Cache-Status says."""
    return next((word for mark, word in _WORDS if mark in cache_status), "?")


class FromUpstream:
    """Pulls from the upstream itself, with the accounts and endpoints of the configuration."""

    def __init__(self, settings: Settings, repository: Repository) -> None:
        self._repository = repository
        self._runner = asyncio.Runner()
        self._context = direct(settings)
        self._registry = self._runner.run(self._context.__aenter__()).of(repository)

    def close(self) -> None:
        """Close the connections."""
        with closing(self._runner):
            self._runner.run(self._context.__aexit__(None, None, None))

    def manifest(self, reference: Reference) -> tuple[Manifest, Measure]:
        """Fetch a manifest; its first byte is not told apart from its last."""
        return self._runner.run(self._manifest(reference))

    async def _manifest(self, reference: Reference) -> tuple[Manifest, Measure]:
        began = time.perf_counter()
        try:
            body = await self._registry.get_manifest(self._repository, reference)
            digest = Digest.of(body.content)
            manifest = read_manifest(body.content, body.content_type, digest)
        except MirrorError as error:
            name = image_name(self._repository, reference)
            raise MeasureError(f"{name} directly: {error}") from None
        seconds = time.perf_counter() - began
        what = "index" if is_index(manifest.media_type) else "manifest"
        size_bytes = len(body.content)
        return manifest, Measure(what, str(digest), size_bytes, "direct", seconds, seconds)

    def blob(self, digest: Digest, what: str) -> Measure:
        """Fetch a blob."""
        return self._runner.run(self._blob(digest, what))

    async def _blob(self, digest: Digest, what: str) -> Measure:
        began, first, size_bytes = time.perf_counter(), None, 0
        try:
            async with self._registry.open_blob(self._repository, digest) as stream:
                async for chunk in stream.chunks():
                    first = first or time.perf_counter()
                    size_bytes += len(chunk)
        except MirrorError as error:
            raise MeasureError(f"{self._repository}@{digest} directly: {error}") from None
        ended = time.perf_counter()
        first_seconds = (first or ended) - began
        return Measure(what, str(digest), size_bytes, "direct", first_seconds, ended - began)
