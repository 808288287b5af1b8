"""The facts that the index keeps. Times are seconds since the epoch."""

from typing import Literal

import msgspec

ObjectKind = Literal["blob", "manifest"]


class ObjectRow(msgspec.Struct, frozen=True, array_like=True):
    """An object that stands in ``blobs/``.

    ``scopes`` tells with whose credentials the bytes came: the anonymous scope makes them
    visible through every link, any other only through links of that upstream.
    ``repositories`` are those whose ``refs/`` say that they brought it.
    """

    size_bytes: int
    kind: ObjectKind
    scopes: tuple[str, ...]
    used_at: float
    repositories: tuple[str, ...] = ()

    def merged(self, other: "ObjectRow") -> "ObjectRow":
        """Return this row with the scopes and repositories of another one, too."""
        return ObjectRow(
            self.size_bytes,
            self.kind,
            tuple(sorted({*self.scopes, *other.scopes})),
            max(self.used_at, other.used_at),
            tuple(sorted({*self.repositories, *other.repositories})),
        )

    def visible_in(self, scope: str, anonymous: str) -> bool:
        """Return whether a link of *scope* may serve these bytes."""
        return anonymous in self.scopes or scope in self.scopes


class LinkRow(msgspec.Struct, frozen=True, array_like=True):
    """That a repository has an object (DESIGN, invariant 13).

    ``answered_at`` is when upstream said so for this repository; 0 means that only a
    verified manifest of the repository refers to it.
    """

    size_bytes: int | None
    media_type: str | None
    answered_at: float


class TagRow(msgspec.Struct, frozen=True, array_like=True):
    """What a tag means: since when, last confirmed when, and what it meant before."""

    digest: str
    seen_at: float
    confirmed_at: float
    history: tuple[tuple[str, float], ...] = ()


class DocumentRow(msgspec.Struct, frozen=True, array_like=True):
    """A tags or referrers list of upstream; the bytes are an object of the store."""

    digest: str
    media_type: str | None
    next_query: tuple[tuple[str, str], ...] | None
    filtered: bool
    confirmed_at: float


class Totals(msgspec.Struct, frozen=True, array_like=True):
    """What stands in ``blobs/`` all together."""

    size_bytes: int = 0
    blobs: int = 0
    manifests: int = 0

    def plus(self, row: ObjectRow, sign: int) -> "Totals":
        """Return the totals with an object more (+1) or less (-1)."""
        is_blob = row.kind == "blob"
        return Totals(
            self.size_bytes + sign * row.size_bytes,
            self.blobs + sign * is_blob,
            self.manifests + sign * (not is_blob),
        )
