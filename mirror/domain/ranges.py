"""The Range header of a request against an object of known size.

Source: RFC 9110 section 14. A range that we do not serve alone is ignored, never refused:
containers/image takes 416 for several ranges as a hard failure.
"""

import re
from dataclasses import dataclass
from typing import Final

_SINGLE: Final = re.compile(r"bytes=(\d{0,99})-(\d{0,99})", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes ``start`` up to but not including ``stop`` of an object."""

    start: int
    stop: int

    @property
    def length_bytes(self) -> int:
        """How many bytes the span has."""
        return self.stop - self.start

    def content_range(self, size_bytes: int) -> str:
        """Return the value of a Content-Range header."""
        return f"bytes {self.start}-{self.stop - 1}/{size_bytes}"


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """The range lies outside the object: 416."""


def select(range_header: str | None, size_bytes: int) -> Span | Unsatisfiable | None:
    """Return what to send of an object of *size_bytes*; ``None`` means all of it (200).

    An empty object is always sent whole: a 416 for it would fail a client that puts
    ``bytes=0-`` on every request.
    """
    if range_header is None or not size_bytes:
        return None
    match = _SINGLE.fullmatch(range_header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return _suffix(int(last), size_bytes)
    if last and int(last) < int(first):
        return None
    if int(first) >= size_bytes:
        return Unsatisfiable()
    return Span(int(first), min(int(last) + 1, size_bytes) if last else size_bytes)


def _suffix(length_bytes: int, size_bytes: int) -> Span | Unsatisfiable:
    if not length_bytes:
        return Unsatisfiable()
    return Span(max(0, size_bytes - length_bytes), size_bytes)


_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)


def parse_content_range(text: str) -> tuple[Span, int | None] | None:
    """Read a Content-Range header: the span and the whole size, which ``*`` hides.

    ``None`` when it is malformed or contradicts itself.
    """
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        return None
    span = Span(int(match[1]), int(match[2]) + 1)
    whole = None if match[3] == "*" else int(match[3])
    if span.start >= span.stop or (whole is not None and span.stop > whole):
        return None
    return span, whole
