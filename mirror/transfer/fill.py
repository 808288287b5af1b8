"""One download of one digest, as everybody sees it who reads it while it grows.

The download (``download.py``) is a task of its own and belongs to nobody: who asked first may
leave, who comes late reads what is there and goes on with the rest. Readers never get the
last bytes before the digest is checked, so nobody has the whole of a wrong object.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import BinaryIO, Final, Self

from mirror.domain.errors import ContentMismatchError, MirrorError
from mirror.domain.names import Digest, Repository
from mirror.observe import tracing
from mirror.store.partial import Former, Partial
from mirror.store.store import StoredObject

HOLD_BACK_BYTES: Final = 64 * 1024
"""What readers do not get before the digest is checked."""
_READ_BYTES: Final = 1024 * 1024


class Fill:
    """A blob on its way in, readable while it grows.

    ``size_bytes`` is the length of the whole, once known; ``visible_bytes`` is how much may
    be read; ``is_verified`` tells that this is the whole and right. Enter it to be a reader;
    the last one to leave closes the file.
    """

    def __init__(
        self, digest: Digest, scope: str, source: Repository, expected_bytes: int | None
    ) -> None:
        self.digest = digest
        self.scope = scope
        self.expected_bytes = expected_bytes
        self.active_source = source
        self.size_bytes: int | None = None
        self.visible_bytes = 0
        self.received_bytes = 0
        self.resumed_bytes = 0
        self.has_head = False
        self.is_verified = False
        self.finished = False
        self.has_slot = False
        self.is_too_large = False
        self.span = tracing.NOTHING
        self.readers = 0
        self.forwarded_ranges = 0
        self.first_byte_at: float | None = None
        self.on_readers_changed: Callable[[], None] = lambda: None
        self._aboard = 0
        self._sources = [source]
        self._refused: dict[Repository, MirrorError] = {}
        self._failure: MirrorError | None = None
        self._news = asyncio.Event()
        self._content: Partial | StoredObject | None = None
        self._formers: list[Former] = []
        self._left_behind: list[Partial] = []

    # --- for readers -----------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._aboard += 1
        self.readers += 1
        self.on_readers_changed()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.readers -= 1
        self.on_readers_changed()
        self._leave()

    @property
    def file(self) -> BinaryIO:
        """The file to read from, up to ``visible_bytes``."""
        if self._content is None:
            raise RuntimeError("a fill has no file before its head")
        return self._content.file

    def hash_of_first(self, length_bytes: int) -> "hashlib._Hash":
        """Hash what a reader has got so far; in a thread.

        Raises:
            OSError: the disk does not give it back.
        """
        hasher, offset = self.digest.new_hash(), 0
        while offset < length_bytes:
            count = min(_READ_BYTES, length_bytes - offset)
            data = os.pread(self.file.fileno(), count, offset)
            if not data:
                raise OSError(None, "a partial is shorter than it was")
            hasher.update(data)
            offset += len(data)
        return hasher

    def add_source(self, source: Repository) -> None:
        """Name another repository that may be asked, should the first ones not have it."""
        if source not in self._sources:
            self._sources.append(source)

    async def head(self, source: Repository) -> int | None:
        """Wait for upstream's answer; returns the size of the whole if it is known.

        An object that is wholly held back is waited for to its end, so that a wrong one
        is answered with a clean error instead of a broken body.

        Raises:
            MirrorError: why *source* cannot be served.
        """
        while not self.has_head:
            await self._hear(self._refused.get(source) or self._failure)
        while self._is_held_back_whole():
            await self._hear(self._failure)
        return self.size_bytes

    @property
    def beginnings(self) -> int:
        """How often it was begun anew so far; a reader notes that with its first byte."""
        return len(self._left_behind)

    async def beyond(
        self, offset: int, limit_seconds: float | None, since: int | None = None
    ) -> int:
        """Wait until more than *offset* bytes may be read; returns how many.

        Returns early when *limit_seconds* are over, and at the end of the object.

        Args:
            offset: Where the reader is.
            limit_seconds: How long it waits at most.
            since: The ``beginnings`` when it got its first byte; ``None``: it has none yet.

        Raises:
            MirrorError: the fill failed, or what the reader has got of it was wrong.
        """
        try:
            async with asyncio.timeout(limit_seconds):
                while self.visible_bytes <= offset and not self.is_verified:
                    await self._hear(self._failure or self._disagreement(offset, since))
        except TimeoutError:
            pass
        if error := self._disagreement(offset, since):
            raise error
        return self.visible_bytes

    @property
    def has_come(self) -> bool:
        """Whether it came in by this fill, and had not been stored before."""
        return self.first_byte_at is not None or self.resumed_bytes > 0

    async def ended(self) -> None:
        """Wait until the object is stored; raises MirrorError if it will not be."""
        while not self.finished:
            await self._hear(None)
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    def _disagreement(self, offset: int, since: int | None) -> MirrorError | None:
        """Return why a reader that has *offset* bytes cannot go on with other content."""
        if since is None:
            return None
        for former in self._formers[since:]:
            if former.differs and offset > former.agreed_bytes:
                where = f"from byte {former.agreed_bytes} on"
                return ContentMismatchError(f"{self.digest} was wrong {where}")
        return None

    def _is_held_back_whole(self) -> bool:
        is_small = self.size_bytes is not None and self.size_bytes <= HOLD_BACK_BYTES
        return is_small and not self.is_verified

    async def _hear(self, error: MirrorError | None) -> None:
        if error is not None:
            raise error.with_traceback(None)  # one error, many readers
        await self._news.wait()

    # --- for the download ------------------------------------------------------------------

    @contextmanager
    def aboard(self) -> Iterator[None]:
        """Keep the file open without being a reader."""
        self._aboard += 1
        try:
            yield
        finally:
            self._leave()

    def source(self) -> Repository:
        """Return the repository to ask next; the last refusal is raised if there is none."""
        for source in self._sources:
            if source not in self._refused:
                self.active_source = source
                return source
        raise self._refused[self.active_source].with_traceback(None)

    @property
    def has_source(self) -> bool:
        """Whether there is a repository left to ask."""
        return any(source not in self._refused for source in self._sources)

    def refuse(self, source: Repository, error: MirrorError) -> None:
        """Tell the readers of *source*, and only them, that it does not have the object."""
        self._refused[source] = error
        self._tell()

    def postpone(self, source: Repository) -> None:
        """Ask all others before *source* is asked again."""
        self._sources.remove(source)
        self._sources.append(source)

    def adopt(self, stored: StoredObject) -> None:
        """Serve what another fill has committed since the caller looked."""
        self._content = stored
        self.size_bytes = self.visible_bytes = stored.size_bytes
        self.has_head = self.is_verified = True
        self._tell()

    def complete(self, partial: Partial) -> None:
        """Serve what was here already, whole and right, but for its name."""
        self._content = partial
        self.size_bytes = self.visible_bytes = partial.length_bytes
        self.has_head = self.is_verified = True
        self._tell()

    def begin(self, partial: Partial, size_bytes: int | None) -> None:
        """Let readers know that it comes, and how long it will be."""
        self._content = partial
        self.size_bytes = size_bytes
        self.first_byte_at = asyncio.get_running_loop().time()
        self.has_head = True
        self._tell()

    def start_over(self, partial: Partial) -> None:
        """Go on with a new download from its first byte, since what came so far is wrong.

        Readers keep their offset: whose bytes were right so far does not notice.
        """
        former = self._content
        if not isinstance(former, Partial):
            raise TypeError("nothing is begun yet")
        self._left_behind.append(former)
        self._formers = [partial.replaces(each) for each in self._left_behind]
        self._content = partial
        self.visible_bytes = self.received_bytes = 0
        self._tell()

    def show(self, length_bytes: int) -> None:
        """Let readers have what is on disk, but for the last bytes."""
        end_bytes = length_bytes if self.size_bytes is None else self.size_bytes
        visible_bytes = min(length_bytes, end_bytes - HOLD_BACK_BYTES)
        if visible_bytes > self.visible_bytes or self._formers:
            self.visible_bytes = max(self.visible_bytes, visible_bytes)
            self._tell()

    def verified(self, size_bytes: int) -> None:
        """Let readers have all of it."""
        self.size_bytes = self.visible_bytes = size_bytes
        self.is_verified = True
        self._tell()

    def end(self, failure: MirrorError | None) -> None:
        """Tell the readers that nothing more comes, and why."""
        if not self.finished:
            self._failure = failure
            self.finished = True
            self._tell()

    def _leave(self) -> None:
        self._aboard -= 1
        if not self._aboard and self._content is not None:
            for content in (self._content, *self._left_behind):
                content.close()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
