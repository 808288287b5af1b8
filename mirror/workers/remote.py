"""The service floor as a worker has it: each question goes to the main process.

Except for what is hot: manifests and small blobs that were served a moment ago come from the
worker's own memory, until the main process says that they may have changed.
"""

from collections.abc import AsyncGenerator, Callable
from functools import partial as bound
from typing import BinaryIO, Final

from mirror.domain.access import Viewer
from mirror.domain.credentials import Basic
from mirror.domain.manifests import Manifest
from mirror.domain.names import Digest, Reference, Repository
from mirror.domain.pages import Query
from mirror.domain.ranges import Span
from mirror.domain.routing import Kind
from mirror.observe import tracing
from mirror.observe.metrics import Result
from mirror.runtime import via
from mirror.runtime.acting import Caller, acting_for
from mirror.service.ports import Listing
from mirror.service.served import Served
from mirror.transfer.parts import Body, FilePart, ReadyBody
from mirror.workers import messages
from mirror.workers.line import Asking, Line, note
from mirror.workers.memory import Memory

_ENTRY_BYTES: Final = 1000
_HIT: Final = Served(Result.HIT)


class RemoteManifests:
    """Manifests of the main process."""

    def __init__(self, line: Line, memory: Memory[Manifest]) -> None:
        self._line = line
        self._memory = memory

    async def resolve(
        self, repository: Repository, reference: Reference
    ) -> tuple[Manifest, Served]:
        """Return the manifest that a reference means now, without what it links.

        Raises:
            MirrorError: as in the main process.
        """
        key = repository, reference, acting_for(repository.upstream)
        kept = self._memory.get(key)
        if kept is not None:
            return kept
        asking = bound(
            messages.AskManifest,
            asker=_asker(repository),
            repository=repository,
            reference=str(reference),
        )
        found, _ = await self._line.ask(asking, messages.FoundManifest)
        note(found.led)
        manifest = Manifest(found.digest, found.media_type, found.content, links=())
        size_bytes = _ENTRY_BYTES + len(found.content)
        self._memory.put(key, manifest, found.served, found.keep_seconds, size_bytes)
        return manifest, found.served

    def at_hand(self, repository: Repository, digest: Digest) -> Manifest | None:
        """Return what ``resolve`` would as a mere hit, without asking."""
        kept = self._memory.get((repository, digest, acting_for(repository.upstream)))
        return kept[0] if kept is not None and kept[1] == _HIT else None


class RemoteBlobs:
    """Blobs of the main process."""

    def __init__(self, line: Line, memory: Memory[bytes]) -> None:
        self._line = line
        self._memory = memory

    async def open(self, repository: Repository, digest: Digest) -> tuple[Body, Served]:
        """Return a body, which the caller closes; raises as the main process does."""
        key = repository, digest, acting_for(repository.upstream)
        kept = self._memory.get(key)
        if kept is not None:
            return ReadyBody(kept[0]), kept[1]
        asking = bound(
            messages.AskBlob, asker=_asker(repository), repository=repository, digest=digest
        )
        found, file = await self._line.ask(asking, messages.FoundBlob)
        note(found.led)
        if found.content is not None:
            size_bytes = _ENTRY_BYTES + len(found.content)
            self._memory.put(key, found.content, found.served, found.keep_seconds, size_bytes)
            return ReadyBody(found.content), found.served
        if file is None:
            return ComingBody(self._line, found), found.served
        if found.size_bytes is None:
            raise TypeError("a file that is all of a blob has a length")
        return FileBody(file, found.size_bytes), found.served

    def at_hand(self, repository: Repository, digest: Digest) -> bytes | None:
        """Return a small blob that ``open`` would as a mere hit, without asking."""
        kept = self._memory.get((repository, digest, acting_for(repository.upstream)))
        return kept[0] if kept is not None and kept[1] == _HIT else None

    async def size_bytes(self, repository: Repository, digest: Digest) -> tuple[int | None, Served]:
        """Return the size of a blob without fetching it; raises as the main process does."""
        asking = bound(
            messages.AskSize, asker=_asker(repository), repository=repository, digest=digest
        )
        found, _ = await self._line.ask(asking, messages.FoundSize)
        note(found.led)
        return found.size_bytes, found.served


class RemoteLists:
    """Lists of the main process."""

    def __init__(self, line: Line) -> None:
        self._line = line

    async def tags(self, repository: Repository, query: Query) -> tuple[Listing, Served]:
        """Return a page of a repository's tags; raises as the main process does."""
        asking = bound(
            messages.AskTags, asker=_asker(repository), repository=repository, query=query
        )
        return await self._found(asking)

    async def referrers(
        self, repository: Repository, subject: Digest, query: Query
    ) -> tuple[Listing, Served]:
        """Return the manifests that refer to *subject*; raises as the main process does."""
        asking = bound(
            messages.AskReferrers,
            asker=_asker(repository),
            repository=repository,
            digest=subject,
            query=query,
        )
        return await self._found(asking)

    async def catalog(self, query: Query, viewer: Viewer) -> Listing:
        """Return a page of the repositories that are cached and that somebody may see."""
        asking = bound(messages.AskCatalog, asker=_asker(None), query=query, viewer=viewer)
        return (await self._found(asking))[0]

    async def _found(self, asking: Asking) -> tuple[Listing, Served]:
        found, _ = await self._line.ask(asking, messages.FoundList)
        note(found.led)
        listing = Listing(found.content, found.media_type, found.next_query, found.filtered)
        return listing, found.served


class RemoteVerifier:
    """The registries that check callers themselves, by the main process."""

    def __init__(self, line: Line, upstreams: Callable[[], frozenset[str]]) -> None:
        self._line = line
        self._upstreams = upstreams

    @property
    def upstreams(self) -> frozenset[str]:
        """The upstreams that this is for."""
        return self._upstreams()

    async def admit(
        self, repository: Repository, kind: Kind, reference: Reference | None, shown: Basic | None
    ) -> Caller | None:
        """Return as whom upstream is asked for a request; raises as the main process does."""
        asking = bound(
            messages.AskAdmit,
            asker=_asker(repository),
            repository=repository,
            kind=kind,
            reference=None if reference is None else str(reference),
            shown=shown,
        )
        found, _ = await self._line.ask(asking, messages.FoundCaller)
        note(found.led)
        return found.caller


def _asker(repository: Repository | None) -> messages.Asker:
    caller = None if repository is None else acting_for(repository.upstream)
    return messages.Asker(via.incoming.get(), caller, tracing.headers())


# --- bodies ------------------------------------------------------------------------------------


class FileBody:
    """A stored blob: the file and, with it, the lock that keeps it from being evicted."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self.size_bytes: int | None = size_bytes
        self._length_bytes = size_bytes
        self._file = file

    async def parts(self, span: Span | None) -> AsyncGenerator[FilePart | bytes, None]:
        """Yield one part of the file."""
        chosen = span or Span(0, self._length_bytes)
        yield FilePart(self._file, chosen.start, chosen.length_bytes)

    async def close(self) -> None:
        """Close the file."""
        self._file.close()


class ComingBody:
    """A blob that the main process is fetching: each part is asked for when it is needed."""

    def __init__(self, line: Line, found: messages.FoundBlob) -> None:
        self.size_bytes = found.size_bytes
        self._number = found.number
        self._line = line
        self._file: BinaryIO | None = None

    async def parts(self, span: Span | None) -> AsyncGenerator[FilePart | bytes, None]:
        """Yield parts of the file as it grows, or bytes; raises as the main process does."""
        wanted = None if span is None else (span.start, span.stop)
        question = messages.AskPart(self._number, wanted)
        while True:
            part, file = await self._line.request(self._number, question)
            if file is not None:
                self._replace(file)
            match part:
                case messages.End():
                    return
                case messages.NextBytes(_, content):
                    yield content
                case messages.NextFilePart(_, start, length_bytes) if self._file is not None:
                    yield FilePart(self._file, start, length_bytes)
                case _:
                    raise TypeError(f"{type(part).__name__} is no part of a body, or has no file")

    def _replace(self, file: BinaryIO) -> None:
        if self._file is not None:
            self._file.close()
        self._file = file

    async def close(self) -> None:
        """Stop reading; the download goes on."""
        self._line.leave(self._number)
        if self._file is not None:
            self._file.close()
