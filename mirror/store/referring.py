"""What is known here to refer to an image: signatures, attestations, bills of materials.

Nobody is asked: it is what clients have asked for so far, by the referrers API or by the tags
that stand in for it.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from mirror.domain.media import bare_type
from mirror.domain.names import Digest, Repository, Tag, fallback_tag
from mirror.runtime.unreadable import UNREADABLE
from mirror.store.facts import document_key
from mirror.store.index import object_key
from mirror.store.rows import DocumentRow, ObjectRow
from mirror.store.store import Store

_COSIGN: Final = {"sig": "signature", "att": "attestation", "sbom": "bill of materials"}
_LISTED_MAX: Final = 1000


class Referrer(msgspec.Struct, frozen=True):
    """A manifest that refers to an image; ``tag`` is how it is named where there is no list."""

    digest: str
    artifact_type: str
    size_bytes: int | None
    tag: str | None
    stored: bool


class _Entry(msgspec.Struct):
    digest: str
    size: int | None = None
    artifact_type: str | None = msgspec.field(name="artifactType", default=None)
    media_type: str | None = msgspec.field(name="mediaType", default=None)


class _List(msgspec.Struct):
    manifests: list[_Entry] | None = None


class Referring:
    """Looks for referrers in a store; all of it in a thread of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._index = store.parts.index
        self._pool = store.parts.pools.inspect

    async def to(self, repository: Repository, subject: Digest) -> list[Referrer]:
        """Return the manifests of a repository that are known to refer to *subject*."""
        return await self._pool.run(self._known, repository, subject)

    def _known(self, repository: Repository, subject: Digest) -> list[Referrer]:
        found = {each.digest: each for each in self._tagged(repository, subject)}
        found |= {each.digest: each for each in self._listed(repository, subject)}
        return list(found.values())[:_LISTED_MAX]

    def _listed(self, repository: Repository, subject: Digest) -> Iterator[Referrer]:
        row = self._index.get(document_key(repository, f"referrers/{subject}", ()), DocumentRow)
        digests = [] if row is None else [row.digest]
        fallback = self._store.refs.tag(repository, fallback_tag(subject))
        for digest in [*digests, *([] if fallback is None else [fallback.digest])]:
            for each in self._entries(digest):
                kind = each.artifact_type or bare_type(each.media_type) or "unknown"
                yield Referrer(each.digest, kind, each.size, None, self._has(each.digest))

    def _entries(self, digest: str) -> list[_Entry]:
        if not self._has(digest):
            return []
        try:
            content = self._store.parts.layout.blob(Digest.parse(digest)).read_bytes()
            return msgspec.json.decode(content, type=_List).manifests or []
        except (OSError, *UNREADABLE):
            return []

    def _tagged(self, repository: Repository, subject: Digest) -> Iterator[Referrer]:
        for suffix, kind in _COSIGN.items():
            tag = Tag(f"{fallback_tag(subject)}.{suffix}")
            ref = self._store.refs.tag(repository, tag)
            if ref is not None:
                yield Referrer(ref.digest, f"cosign {kind}", None, str(tag), self._has(ref.digest))

    def _has(self, digest: str) -> bool:
        return self._index.get(object_key(digest), ObjectRow) is not None
