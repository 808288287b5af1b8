"""The index made anew from ``blobs/`` and ``refs/``, when it is gone or cannot be read.

Deleting ``index/`` costs time, never facts (DESIGN, section 7). A marker row says that the
index is whole: a rebuild that a crash has cut short begins again.

Whose bytes they are is decided by evidence only: a fill with credentials has always written
that it fetched the blob, so bytes without such a file came anonymously. An upstream's mere
answer to a HEAD is no evidence: an attacker's registry says 200 to everything.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirror.domain.errors import MirrorError
from mirror.domain.manifests import LinkKind, Manifest, read_manifest
from mirror.domain.names import ANONYMOUS_SCOPE, Digest, Repository
from mirror.observe.logs import get_logger
from mirror.store.facts import link_key, tag_key
from mirror.store.index import Index, PickleForbiddenError
from mirror.store.layout import Layout
from mirror.store.refs import ManifestRef, Refs
from mirror.store.rows import LinkRow, ObjectRow, TagRow

_NEVER_USED: Final = 1.0
_log = get_logger("store")


def open_index(layout: Layout, refs: Refs) -> Index:
    """Return the index of a cache directory, made anew unless it is whole."""
    index = _readable(layout)
    if not index.is_whole():
        Rebuild(index, layout, refs).run()
        index.mark_whole()
    return index


def _readable(layout: Layout) -> Index:
    try:
        return Index(layout.index)
    except (sqlite3.DatabaseError, PickleForbiddenError, OSError) as error:
        _log.warning("the index cannot be read and is made anew", reason=str(error))
        shutil.rmtree(layout.index)
        layout.index.mkdir(mode=0o700)
        return Index(layout.index)


@dataclass(slots=True)
class _Known:
    """What the references say of one object."""

    is_manifest: bool = False
    linked: bool = False
    scopes: frozenset[str] = frozenset()
    repositories: tuple[str, ...] = ()


class Rebuild:
    """One pass over ``refs/`` and one over ``blobs/``."""

    def __init__(self, index: Index, layout: Layout, refs: Refs) -> None:
        self._index = index
        self._layout = layout
        self._refs = refs
        self._known: dict[str, _Known] = {}

    def run(self) -> None:
        """Write all rows."""
        tags = links = objects = 0
        for repository in self._refs.repositories():
            with self._index.transaction():
                tags += self._tags(repository)
                links += self._links(repository)
        for directory in sorted((self._layout.root / "blobs").glob("*/*")):
            with self._index.transaction():
                objects += self._objects(directory)
        if objects:
            _log.info("the index was made anew", objects=objects, links=links, tags=tags)

    def _tags(self, repository: Repository) -> int:
        count = 0
        for tag, ref in self._refs.all_tags(repository):
            row = TagRow(ref.digest, ref.seen_at, ref.confirmed_at, ref.history)
            self._index.put(tag_key(repository, tag), row)
            count += 1
        return count

    def _links(self, repository: Repository) -> int:
        rows = dict(self._manifest_links(repository))
        for digest, ref in self._refs.all_blobs(repository):
            key = link_key(repository, digest, LinkKind.BLOB)
            rows[key] = LinkRow(ref.size_bytes, None, ref.answered_at)
            known = self._known.setdefault(str(digest), _Known())
            known.linked = True
            if ref.fetched:
                known.scopes |= {ref.scope}
        self._index.put_all(list(rows.items()))
        return len(rows)

    def _manifest_links(self, repository: Repository) -> Iterator[tuple[str, LinkRow]]:
        for digest, ref in self._refs.all_manifests(repository):
            manifest = self._manifest(digest, ref)
            if manifest is None:
                continue
            known = self._known.setdefault(str(digest), _Known())
            known.is_manifest = known.linked = True
            known.scopes |= {ref.scope}
            known.repositories += (str(repository),)
            row = LinkRow(manifest.size_bytes, manifest.media_type, ref.answered_at)
            yield link_key(repository, digest, LinkKind.MANIFEST), row
            for link in manifest.links:
                if link.kind is LinkKind.BLOB:
                    self._known.setdefault(str(link.digest), _Known()).linked = True
                described = LinkRow(link.size_bytes, link.media_type, 0)
                yield link_key(repository, link.digest, link.kind), described

    def _manifest(self, digest: Digest, ref: ManifestRef) -> Manifest | None:
        try:
            content = self._layout.blob(digest).read_bytes()
            if Digest.of(content, digest.algorithm) != digest:
                return None
            return read_manifest(content, ref.media_type, digest)
        except (OSError, MirrorError):
            return None

    def _objects(self, directory: Path) -> int:
        count = 0
        for path in sorted(directory.iterdir()):
            try:
                digest = str(Digest.parse(f"{directory.parent.name}:{path.name}"))
            except MirrorError:
                continue
            known = self._known.get(digest, _Known())
            facts = path.stat()
            scopes = known.scopes or ({ANONYMOUS_SCOPE} if known.linked else set())
            row = ObjectRow(
                facts.st_size,
                "manifest" if known.is_manifest else "blob",
                tuple(sorted(scopes)),
                facts.st_mtime if known.linked else _NEVER_USED,
                known.repositories,
            )
            self._index.add_object(digest, row)
            count += 1
        return count
