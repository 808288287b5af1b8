"""The index at start: taken as it is if it is whole, else built anew from the files.

``blobs/`` says what is here; ``refs/`` says whose it is, and the manifests, read again and
checked, say what belongs to what. So a deleted or damaged index costs time, never facts. An
index that is whole is not compared with the files: that would take minutes with a million of
them.

Who may see bytes is not guessed. What ``refs/`` says was fetched with credentials is visible
to those only; what a manifest that anybody may read links, and nothing else speaks for, was
fetched by anybody; what nothing speaks for is visible to nobody and the first to go.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from mirror.domain.errors import MirrorError
from mirror.domain.manifests import LinkKind, Manifest, is_index, read_manifest
from mirror.domain.names import ANONYMOUS_SCOPE, Digest, Repository
from mirror.observe.logs import get_logger
from mirror.store.facts import link_key, manifest_links, tag_key
from mirror.store.index import Index, IndexBrokenError, object_key
from mirror.store.layout import Layout, LayoutError
from mirror.store.refs import ManifestRef, Refs
from mirror.store.removal import drop_refs
from mirror.store.rows import Commit, LinkRow, ObjectKind, ObjectRow, TagRow
from mirror.store.stored import is_whole

_ORPHANS_PER_SECOND: Final = 50_000
"""Objects of no known age: so many share a second at the head of the queue."""

_SPARE: Final = "SPARE"
_SPARE_BYTES: Final = 512 * 1024

_log = get_logger("store")


def open_index(layout: Layout, refs: Refs) -> Index:
    """Open the index; one that is missing, unfinished or damaged is built anew.

    Raises:
        LayoutError: it cannot be opened for another reason, such as its permissions.
    """
    try:
        index = _opened_with_spare(layout.index) or _built(layout, refs)
        _tidy_up(layout, refs, index)
        _set_spare_aside(layout.index)
    except OSError as error:
        raise LayoutError(
            f"the index in {layout.index} cannot be opened: {error.strerror}; "
            "check its permissions and that no other mirror uses the directory"
        ) from None
    index.close()  # the threads that use it have connections of their own
    return index


def _opened_with_spare(directory: Path) -> Index | None:
    """Open the index, on a full disk with the room that was set aside for that.

    diskcache writes a few pages whenever it is opened.
    """
    try:
        return _opened(directory)
    except IndexBrokenError as error:
        spare = directory / _SPARE
        if not error.is_full or not spare.exists():
            raise
        spare.unlink()
        _log.warning("the disk is full: what was set aside for that is used up now")
        return _opened(directory)


def _set_spare_aside(directory: Path) -> None:
    spare = directory / _SPARE
    try:
        if not spare.exists():
            spare.write_bytes(bytes(_SPARE_BYTES))
    except OSError:
        spare.unlink(missing_ok=True)


def _opened(directory: Path) -> Index | None:
    if not any(directory.iterdir()):
        return None
    try:
        index = Index(directory)
    except IndexBrokenError as error:
        if error.is_damage:
            return None
        raise
    if index.is_complete:
        return index
    index.close()
    return None


def _tidy_up(layout: Layout, refs: Refs, index: Index) -> None:
    """Bring to an end what the last process had begun: what had its name is kept."""
    while (adding := index.pending_commit()) is not None:
        key, commit = adding
        with suppress(MirrorError):
            if commit is not None and is_whole(
                layout.blob(Digest.parse(commit.digest)), commit.row.size_bytes
            ):
                index.commit(commit)
                _log.info("an object that was named last is kept", digest=commit.digest)
        index.settled([key])
    while (removing := index.pending_removal()) is not None:
        key, removal = removing
        with suppress(MirrorError):
            if removal and index.get(object_key(removal.digest), ObjectRow) is None:
                layout.blob(Digest.parse(removal.digest)).unlink(missing_ok=True)
                drop_refs(refs, removal.digest, removal.repositories)
        index.settled([key])


def _built(layout: Layout, refs: Refs) -> Index:
    for path in layout.index.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    index = Index(layout.index)
    _Rebuild(layout, refs, index).run()
    index.complete()
    return index


@dataclass(slots=True)
class _Found:
    """What was learnt of an object before its file is looked at."""

    scopes: set[str] = field(default_factory=set)
    owners: set[str] = field(default_factory=set)
    links: tuple[str, ...] = ()
    sizes: set[int] = field(default_factory=set)
    kind: ObjectKind = "blob"
    upstreams: set[str] = field(default_factory=set)
    is_public: bool = False
    used_at: float = 0.0

    @property
    def is_manifest(self) -> bool:
        return self.kind != "blob"


class _Rebuild:
    """Reads ``refs/`` and ``blobs/`` into an empty index."""

    def __init__(self, layout: Layout, refs: Refs, index: Index) -> None:
        self._layout = layout
        self._refs = refs
        self._index = index
        self._found: dict[str, _Found] = {}
        self._links = 0
        self._tags = 0
        self._orphans = 0

    def run(self) -> None:
        started = time.monotonic()
        for repository in self._refs.repositories():
            self._read_repository(repository)
        self._index.commit_all(self._objects())
        totals = self._index.totals
        if not (totals.size_bytes or self._links or self._tags):
            return  # a new cache
        _log.info(
            "the index was built anew",
            blobs=totals.blobs,
            manifests=totals.manifests,
            size_bytes=totals.size_bytes,
            unreferenced=self._orphans,
            links=self._links,
            tags=self._tags,
            seconds=round(time.monotonic() - started, 3),
        )

    # --- refs ------------------------------------------------------------------------------

    def _read_repository(self, repository: Repository) -> None:
        links: dict[str, LinkRow] = {}
        for digest, ref in self._refs.all_manifests(repository):
            manifest = self._manifest(digest, ref.media_type)
            if manifest is not None:
                self._note_manifest(repository, manifest, ref)
                for key, row in manifest_links(repository, manifest):
                    links.setdefault(key, row)
                links[link_key(repository, digest, LinkKind.MANIFEST)] = LinkRow(
                    ref.size_bytes, ref.media_type, ref.answered_at
                )
        for digest, blob in self._refs.all_blobs(repository):
            key = link_key(repository, digest, LinkKind.BLOB)
            described = links.get(key) or LinkRow(blob.size_bytes, None, 0)
            links[key] = msgspec.structs.replace(described, answered_at=blob.answered_at)
            if blob.fetched:
                found = self._note_owner(digest, repository, blob.scope)
                found.sizes.update(() if blob.size_bytes is None else (blob.size_bytes,))
        self._index.put_all(links.items())
        self._links += len(links)
        self._read_tags(repository)

    def _read_tags(self, repository: Repository) -> None:
        rows = []
        for tag, ref in self._refs.all_tags(repository):
            row = TagRow(ref.digest, ref.seen_at, ref.confirmed_at, ref.history)
            rows.append((tag_key(repository, tag), row))
            self._note_use(ref.digest, ref.confirmed_at)
        self._index.put_all(rows)
        self._tags += len(rows)

    def _manifest(self, digest: Digest, media_type: str) -> Manifest | None:
        """Return a manifest that is here and right; a wrong one is removed."""
        path = self._layout.blob(digest)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:  # what is wrong with one file must not keep all from being served
            _log.warning("a manifest cannot be read", digest=str(digest), reason=str(error))
            return None
        if Digest.of(content, digest.algorithm) != digest:
            path.unlink(missing_ok=True)
            return None
        try:
            return read_manifest(content, media_type, digest)
        except MirrorError:
            return None

    def _note_manifest(self, repository: Repository, manifest: Manifest, ref: ManifestRef) -> None:
        found = self._note_owner(manifest.digest, repository, ref.scope)
        found.kind = "index" if is_index(manifest.media_type) else "manifest"
        found.links = tuple(str(link.digest) for link in manifest.links)
        for link in manifest.links:
            linked = self._of(str(link.digest))
            linked.sizes.add(link.size_bytes)
            linked.upstreams.add(repository.upstream)
            linked.is_public |= ref.scope == ANONYMOUS_SCOPE and link.kind is LinkKind.BLOB

    def _note_owner(self, digest: Digest, repository: Repository, scope: str) -> _Found:
        found = self._of(str(digest))
        found.scopes.add(scope)
        found.owners.add(str(repository))
        found.upstreams.add(repository.upstream)
        return found

    def _note_use(self, digest: str, used_at: float) -> None:
        """Note when a tag was confirmed: then, all that it leads to was of use."""
        found = self._of(digest)
        if found.used_at < used_at:
            found.used_at = used_at
            for linked in found.links:
                self._note_use(linked, used_at)

    def _of(self, digest: str) -> _Found:
        return self._found.setdefault(digest, _Found())

    # --- blobs -----------------------------------------------------------------------------

    def _objects(self) -> Iterator[Commit]:
        """Yield what is here, manifests first: they tell what the rest is linked by."""
        for text, found in self._found.items():
            if not found.is_manifest:
                continue
            parsed = Digest.parse(text)
            if self._layout.blob(parsed).is_file():
                yield self._object(parsed, self._layout.blob(parsed), found)
        for digest, path in self._layout.objects():
            found = self._found.get(str(digest)) or _Found()
            if found.is_manifest:
                continue
            if found.sizes and path.stat().st_size not in found.sizes:
                path.unlink(missing_ok=True)  # cut short by whatever befell the disk
                continue
            yield self._object(digest, path, found)

    def _object(self, digest: Digest, path: Path, found: _Found) -> Commit:
        facts = path.stat()
        scopes = found.scopes or ({ANONYMOUS_SCOPE} if found.is_public else set())
        row = ObjectRow(
            facts.st_size,
            found.kind,
            tuple(sorted(scopes)),
            max(facts.st_mtime, found.used_at) if scopes else self._orphan_age(),
            tuple(sorted(found.owners)),
            min(found.upstreams, default=""),
        )
        return Commit(str(digest), row, children=found.links)

    def _orphan_age(self) -> float:
        self._orphans += 1
        return float(self._orphans // _ORPHANS_PER_SECOND)
