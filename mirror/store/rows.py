"""The facts that the index keeps. Times are seconds since the epoch."""

from typing import Literal

import msgspec

from mirror.domain.names import ANONYMOUS_SCOPE

ObjectKind = Literal["index", "manifest", "blob", "document"]
"""A document is a list of upstream, which nothing links."""


class ObjectRow(msgspec.Struct, frozen=True, array_like=True):
    """An object that stands in ``blobs/``.

    ``scopes`` tells with whose credentials the bytes came: the anonymous scope makes them
    visible through every link, any other only through links of that upstream.
    ``repositories`` are those whose ``refs/`` say that they brought it; ``upstream`` is
    whose bytes they are when an upstream may hold so many only. ``place`` is the key of its
    entry in the order of eviction.
    """

    size_bytes: int
    kind: ObjectKind
    scopes: tuple[str, ...]
    used_at: float
    repositories: tuple[str, ...] = ()
    upstream: str = ""
    place: str = ""

    def merged(self, other: "ObjectRow") -> "ObjectRow":
        """Return this row with the scopes and repositories of another one, too."""
        return ObjectRow(
            self.size_bytes,
            other.kind if self.is_blob else self.kind,
            tuple(sorted({*self.scopes, *other.scopes})),
            max(self.used_at, other.used_at),
            tuple(sorted({*self.repositories, *other.repositories})),
            self.upstream or other.upstream,
            self.place,
        )

    @property
    def is_blob(self) -> bool:
        """Whether it links nothing itself."""
        return self.kind in {"blob", "document"}

    def visible_in(self, scope: str) -> bool:
        """Return whether a link of *scope* may serve these bytes."""
        return ANONYMOUS_SCOPE in self.scopes or scope in self.scopes


class LinkRow(msgspec.Struct, frozen=True, array_like=True):
    """That a repository has an object (invariant 12).

    ``answered_at`` is when upstream said so for this repository; 0 means that only a
    verified manifest of the repository refers to it.
    """

    size_bytes: int | None
    media_type: str | None
    answered_at: float

    def opens(self, scope: str) -> bool:
        """Return whether bytes of *scope* may be served by it, or only asked for."""
        return bool(self.answered_at) or scope == ANONYMOUS_SCOPE


class TagRow(msgspec.Struct, frozen=True, array_like=True):
    """What a tag means: since when, last confirmed when, and what it meant before."""

    digest: str
    seen_at: float
    confirmed_at: float
    history: tuple[tuple[str, float], ...] = ()


class DocumentRow(msgspec.Struct, frozen=True, array_like=True):
    """A tags or referrers list of upstream; the bytes are an object of the store.

    ``seen_at`` is since when it is as it is, and ``confirmed_at`` when that was heard last.
    """

    digest: str
    media_type: str | None
    next_query: tuple[tuple[str, str], ...] | None
    filtered: bool
    confirmed_at: float
    seen_at: float = 0.0


class Totals(msgspec.Struct, frozen=True, array_like=True):
    """What stands in ``blobs/`` all together, and how many bytes of each upstream."""

    size_bytes: int = 0
    blobs: int = 0
    manifests: int = 0
    upstreams: dict[str, int] = {}

    def plus(self, row: ObjectRow, sign: int) -> "Totals":
        """Return the totals with an object more (+1) or less (-1)."""
        of_upstream = self.upstreams.get(row.upstream, 0) + sign * row.size_bytes
        return Totals(
            self.size_bytes + sign * row.size_bytes,
            self.blobs + sign * row.is_blob,
            self.manifests + sign * (not row.is_blob),
            {**self.upstreams, row.upstream: of_upstream},
        )


class CountRow(msgspec.Struct, frozen=True, array_like=True):
    """How many stored manifests link an object, whether it is here or not."""

    count: int


class Commit(msgspec.Struct, frozen=True, array_like=True):
    """All that the index learns when an object gets its name: written at once, or not at all.

    ``own_link`` is the repository's link to the object and replaces one that is there;
    ``links`` are those that a manifest makes and do not. ``children`` are the digests that
    a manifest links.
    """

    digest: str
    row: ObjectRow
    own_link: tuple[str, LinkRow] | None = None
    links: tuple[tuple[str, LinkRow], ...] = ()
    children: tuple[str, ...] = ()


class Removal(msgspec.Struct, frozen=True, array_like=True):
    """An object that has no row any more, and whose files are about to go."""

    digest: str
    repositories: tuple[str, ...]
