"""What of the cache goes into a bundle, and the bytes of it."""

import hashlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final

import msgspec

from mirror.domain.bundles import (
    CONTENTS,
    END,
    INDEX,
    LAYOUT,
    LAYOUT_CONTENT,
    VERSION,
    BundledList,
    BundledManifest,
    BundledObject,
    BundledRepository,
    BundledTag,
    Contents,
    header,
    object_path,
    oci_index,
    padding,
)
from mirror.domain.errors import MirrorError
from mirror.domain.images import image_name
from mirror.domain.manifests import Descriptor, LinkKind, Manifest, is_index, read_manifest
from mirror.domain.names import (
    ANONYMOUS_SCOPE,
    Digest,
    Reference,
    Repository,
    Tag,
    fallback_tag,
)
from mirror.domain.walking import DEPTH_MAX, NO_PLATFORM, is_chosen, signature_tags
from mirror.runtime.unreadable import UNREADABLE
from mirror.store.facts import link_key
from mirror.store.index import object_key
from mirror.store.refs import TagRef
from mirror.store.rows import LinkRow, ObjectRow
from mirror.store.store import Store
from mirror.store.whole_lists import PageMissingError, whole_list

_PIECE_BYTES: Final = 1 << 20


class ChangedError(Exception):
    """An object went, or is not what it was, while the bundle was being written."""


class PrivateError(Exception):
    """An image is not for everybody: its bytes came with credentials."""


class IncompleteError(Exception):
    """An image is not whole here."""


@dataclass(slots=True)
class _Facts:
    """What is known of one repository so far."""

    tags: dict[str, BundledTag] = field(default_factory=dict)
    manifests: dict[str, BundledManifest] = field(default_factory=dict)
    lists: dict[str, BundledList] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Tree:
    """An image with all that it needs, of one repository, and what refers to it.

    With manifests and lists stands when they came in. ``made`` are the bytes of lists that were
    put together, ``torn`` the subjects of those that are not whole here.
    """

    manifests: dict[str, tuple[BundledManifest, ObjectRow, float]] = field(default_factory=dict)
    blobs: dict[str, ObjectRow] = field(default_factory=dict)
    tags: dict[str, TagRef] = field(default_factory=dict)
    lists: dict[str, tuple[BundledList, ObjectRow, float]] = field(default_factory=dict)
    made: dict[str, bytes] = field(default_factory=dict)
    torn: set[str] = field(default_factory=set)

    def add(self, other: "_Tree") -> None:
        self.manifests.update(other.manifests)
        self.blobs.update(other.blobs)

    @property
    def changed_at(self) -> float:
        """When the last part of it came in, or was first seen."""
        times = [each[2] for each in (*self.manifests.values(), *self.lists.values())]
        return max((*times, *(each.seen_at for each in self.tags.values())), default=0)


class _Listed(msgspec.Struct):
    digest: str


class _List(msgspec.Struct):
    manifests: list[_Listed] | None = None


class Packing:
    """Gathers images; all calls are synchronous and belong in the thread that inspects."""

    def __init__(
        self,
        store: Store,
        platforms: Sequence[str] = (),
        present: frozenset[str] = frozenset(),
        *,
        with_private: bool = False,
    ) -> None:
        """Set up.

        Args:
            store: Where from.
            platforms: What is wanted of indexes; without any, all that is whole here.
            present: What need not be carried.
            with_private: Also what came with credentials.
        """
        self._index = store.parts.index
        self._layout = store.parts.layout
        self._refs = store.refs
        self._platforms = tuple(platforms)
        self._present = present
        self._with_private = with_private
        self._objects: dict[str, tuple[ObjectRow, str]] = {}
        self._facts: dict[Repository, _Facts] = defaultdict(_Facts)
        self._images: dict[str, tuple[str, str, str, int]] = {}
        self._torn = set[tuple[Repository, str]]()
        self.made: dict[str, bytes] = {}
        """The bytes of objects that the store does not have."""
        self.private = 0
        self.incomplete = 0

    def add(self, repository: Repository, reference: Reference, since: float = 0) -> bool:
        """Take an image; returns whether it is here, and not older than *since*.

        What refers to it counts, too: a new signature brings an older image along.

        Raises:
            PrivateError: it may not be carried.
            IncompleteError: something of it is missing.
        """
        ref = self._refs.tag(repository, reference) if isinstance(reference, Tag) else None
        text = ref.digest if ref is not None else str(reference)
        if isinstance(reference, Tag) and ref is None:
            return False
        tree = self._whole(repository, Digest.parse(text), DEPTH_MAX)
        if tree is None:
            raise IncompleteError(image_name(repository, reference))
        if ref is not None:
            tree.tags[str(reference)] = ref
        self._refer(repository, tree)
        if tree.changed_at < since:
            return False
        self._take(repository, tree)
        manifest, row, _ = tree.manifests[text]
        name = image_name(repository, reference)
        self._images[name] = name, text, manifest.media_type, row.size_bytes
        return True

    @property
    def torn_lists(self) -> int:
        """How many lists of referrers are not taken, since a page of them is not here."""
        return len(self._torn)

    def has(self, repository: Repository, digest: Digest) -> bool:
        """Return whether a manifest of a repository is taken already."""
        return str(digest) in self._facts[repository].manifests

    def unchosen(self, repository: Repository) -> set[Digest]:
        """Return what the indexes of a repository have, and none for a platform that is wanted."""
        chosen, others = set[Digest](), set[Digest]()
        for digest, ref in self._refs.all_manifests(repository) if self._platforms else ():
            found = self._manifest(repository, digest) if is_index(ref.media_type) else None
            for link in found[0].links if found else ():
                (chosen if self._is_meant(link) else others).add(link.digest)
        return others - chosen

    def contents(self) -> tuple[bytes, bytes, Contents]:
        """Return ``mirror-bundle.json``, ``index.json``, and what the former says."""
        index = oci_index(self._images.values())
        objects = tuple(
            BundledObject(
                digest,
                row.size_bytes,
                kind,
                row.scopes if self._with_private else (ANONYMOUS_SCOPE,),
                carried=digest not in self._present or ANONYMOUS_SCOPE not in row.scopes,
            )
            for digest, (row, kind) in sorted(self._objects.items())
        )
        found = Contents(
            VERSION,
            str(Digest.of(index)),
            objects,
            tuple(
                _repository(*each)
                for each in sorted(self._facts.items(), key=lambda one: one[0])
                if each[1].manifests
            ),
        )
        return msgspec.json.encode(found), index, found

    # --- inside ----------------------------------------------------------------------------

    def _take(self, repository: Repository, tree: _Tree) -> None:
        facts = self._facts[repository]
        for digest, (manifest, row, _) in tree.manifests.items():
            facts.manifests[digest] = manifest
            kind = "index" if is_index(manifest.media_type) else "manifest"
            self._objects[digest] = row, kind
        for digest, row in tree.blobs.items():
            self._objects.setdefault(digest, (row, "blob"))
        for name, ref in tree.tags.items():
            facts.tags[name] = BundledTag(name, ref.digest, ref.seen_at)
        for subject, (entry, row, _) in tree.lists.items():
            self._objects.setdefault(entry.digest, (row, "document"))
            facts.lists[subject] = entry
        self.made.update(tree.made)
        self._torn.update((repository, subject) for subject in tree.torn)

    def _whole(self, repository: Repository, digest: Digest, depth: int) -> _Tree | None:
        """Return all that an image needs; of an index, its images that are whole here."""
        row, manifest = self._row(digest), self._manifest(repository, digest)
        if row is None or manifest is None:
            return None
        read, entry, stored_at = manifest
        self._check(row, entry.scope)
        tree = _Tree({str(digest): (entry, row, stored_at)})
        if is_index(entry.media_type):
            return tree if self._add_children(repository, read, tree, depth) else None
        for link in read.links:
            blob = self._row(link.digest)
            if blob is None or link.kind is not LinkKind.BLOB:
                return None
            self._check(blob, entry.scope)
            if not self._may_have(repository, link.digest, entry.scope):
                return None
            tree.blobs[str(link.digest)] = blob
        return tree

    def _add_children(
        self, repository: Repository, index: Manifest, tree: _Tree, depth: int
    ) -> bool:
        """Add the images of an index; returns whether there is one, or none is meant to be."""
        found = not index.links
        for link in index.links:
            if not depth or not self._is_meant(link):
                continue
            child = self._whole(repository, link.digest, depth - 1)
            if child is not None:
                tree.add(child)
                found |= link.platform != NO_PLATFORM
        return found

    def _is_meant(self, link: Descriptor) -> bool:
        """Tell whether something of an index goes along; attestations, whatever is chosen."""
        return link.platform == NO_PLATFORM or is_chosen(link.platform, self._platforms)

    def _check(self, row: ObjectRow, scope: str) -> None:
        is_public = scope == ANONYMOUS_SCOPE and ANONYMOUS_SCOPE in row.scopes
        if not is_public and not self._with_private:
            raise PrivateError

    def _may_have(self, repository: Repository, blob: Digest, scope: str) -> bool:
        """Tell whether upstream answered for a blob: of private ones, the manifest says nothing."""
        if scope == ANONYMOUS_SCOPE:
            return True
        link = self._index.get(link_key(repository, blob, LinkKind.BLOB), LinkRow)
        return link is not None and bool(link.answered_at)

    def _manifest(
        self, repository: Repository, digest: Digest
    ) -> tuple[Manifest, BundledManifest, float] | None:
        ref = self._refs.manifest(repository, digest)
        if ref is None:
            return None
        try:
            content = self._layout.blob(digest).read_bytes()
            manifest = read_manifest(content, ref.media_type, digest)
        except (OSError, MirrorError):
            return None
        entry = BundledManifest(str(digest), manifest.media_type, ref.scope)
        return manifest, entry, ref.stored_at

    # --- what refers to it -----------------------------------------------------------------

    def _refer(self, repository: Repository, tree: _Tree) -> None:
        """Add what is here of signatures, SBOMs and attestations, and of theirs."""
        subjects, done = list(tree.manifests), set[str]()
        while subjects:
            text = subjects.pop()
            if text in done:
                continue
            done.add(text)
            subject = Digest.parse(text)
            for tag in (*signature_tags(subject), fallback_tag(subject)):
                ref = self._refs.tag(repository, tag)
                if ref is not None and (new := self._optional(repository, ref.digest, tree)):
                    tree.tags[str(tag)] = ref
                    subjects += new
            for each in self._listed(repository, subject, tree):
                subjects += self._optional(repository, each, tree)

    def _listed(self, repository: Repository, subject: Digest, tree: _Tree) -> Iterator[str]:
        try:
            found = whole_list(self._index, self._layout, repository, subject)
            listed = None if found is None else msgspec.json.decode(found.content, type=_List)
        except PageMissingError:
            tree.torn.add(str(subject))
            return
        except UNREADABLE:
            return
        if found is None or listed is None:
            return
        if not found.scopes or (ANONYMOUS_SCOPE not in found.scopes and not self._with_private):
            return
        row = ObjectRow(len(found.content), "document", found.scopes, 0)
        entry = BundledList(str(subject), found.digest, found.media_type, found.filtered)
        # That nothing refers to it is no news.
        tree.lists[str(subject)] = entry, row, found.seen_at if listed.manifests else 0
        if found.is_made:
            tree.made[found.digest] = found.content
        yield from (each.digest for each in listed.manifests or ())

    def _optional(self, repository: Repository, text: str, tree: _Tree) -> list[str]:
        """Add a manifest if it is here and may be carried; returns it and those below."""
        try:
            found = self._whole(repository, Digest.parse(text), DEPTH_MAX)
        except (MirrorError, PrivateError):
            return []
        if found is None:
            return []
        tree.add(found)
        return list(found.manifests)

    def _row(self, digest: Digest) -> ObjectRow | None:
        return self._index.get(object_key(str(digest)), ObjectRow)


def _repository(repository: Repository, facts: _Facts) -> BundledRepository:
    return BundledRepository(
        repository.upstream,
        repository.name,
        tuple(facts.tags[each] for each in sorted(facts.tags)),
        tuple(facts.manifests[each] for each in sorted(facts.manifests)),
        tuple(facts.lists[each] for each in sorted(facts.lists)),
    )


async def packed(store: Store, packing: Packing) -> AsyncGenerator[bytes, None]:
    """Yield a bundle piece by piece; each object is hashed on its way.

    Raises:
        ChangedError: an object has gone, or is corrupt: the bundle ends in the middle.
    """
    content, index, contents = await store.parts.pools.inspect.run(packing.contents)
    for name, each in ((CONTENTS, content), (LAYOUT, LAYOUT_CONTENT), (INDEX, index)):
        yield header(name, len(each)) + each + padding(len(each))
    for entry in contents.carried:
        made = packing.made.get(entry.digest)
        if made is not None:
            yield header(object_path(entry.digest), len(made)) + made + padding(len(made))
            continue
        digest = Digest.parse(entry.digest)
        stored = await store.open(digest, entry.scopes[0])
        if stored is None or stored.size_bytes != entry.size_bytes:
            raise ChangedError(f"{digest} has gone meanwhile")
        yield header(object_path(entry.digest), entry.size_bytes)
        with stored:
            seen = digest.new_hash()

            def read(file: BinaryIO = stored.file, seen: "hashlib._Hash" = seen) -> bytes:
                piece = file.read(_PIECE_BYTES)
                seen.update(piece)
                return piece

            while piece := await store.parts.pools.read.run(read):
                yield piece
        if seen.hexdigest() != digest.hex:
            raise ChangedError(f"{digest} is corrupt on the disk")
        yield padding(entry.size_bytes)
    yield END
