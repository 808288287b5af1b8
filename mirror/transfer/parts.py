"""What a body consists of, and what whoever sends one may ask of it."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from mirror.domain.ranges import Span


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes of an open file, to be sent without passing through Python where possible."""

    file: BinaryIO
    start: int
    length_bytes: int


class Body(Protocol):
    """The content of a blob for one client; ``size_bytes`` is of the whole, if known."""

    size_bytes: int | None

    def parts(self, span: Span | None) -> AsyncGenerator[FilePart | bytes, None]:
        """Yield the bytes of *span*, or all.

        Raises:
            MirrorError: they cannot all be delivered; what was yielded is right.
        """
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...


class Arriving(Body, Protocol):
    """A body in the process that fetches it."""

    def arrivals(self) -> AsyncGenerator[int, None]:
        """Yield how many bytes are here, first those from before; ends when all are stored.

        For whoever wants the object to be here and not its bytes: none is read.

        Raises:
            MirrorError: it will not be stored.
        """
        ...


class ReadyBody:
    """A small object that is in memory."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size_bytes: int | None = len(content)

    async def parts(self, span: Span | None) -> AsyncGenerator[FilePart | bytes, None]:
        """Yield the bytes."""
        yield self.content if span is None else self.content[span.start : span.stop]

    async def arrivals(self) -> AsyncGenerator[int, None]:
        """Yield the size: all of it is here."""
        yield len(self.content)

    async def close(self) -> None:
        """There is nothing to let go of."""
