"""What is here, for people: images with their sizes, and who holds how many bytes.

All of it is read in a thread of its own, a little at a time, while the mirror goes on; so
what changes meanwhile may be counted as it was or as it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

import msgspec

from mirror.domain.errors import MirrorError
from mirror.domain.manifests import LinkKind, Manifest, is_index, read_manifest
from mirror.domain.names import Digest, Reference, Repository, Tag
from mirror.runtime.steps import in_steps
from mirror.runtime.unreadable import UNREADABLE
from mirror.store.facts import tag_key
from mirror.store.index import object_key
from mirror.store.refs import ManifestRef
from mirror.store.rows import ObjectRow, TagRow
from mirror.store.store import Store
from mirror.store.usage import Holdings, UpstreamUsage, Usage

_DEPTH_MAX: Final = 4
_CONFIG_MAX_BYTES: Final = 1 << 20
_CONFIGS: Final = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    }
)
_NOT_A_PLATFORM: Final = "unknown/unknown"


class ImageFacts(msgspec.Struct, frozen=True):
    """An image or an index; ``tag`` is null where only its digest is known.

    ``size_bytes`` is the manifest and all that it links, as far as the manifests are here to
    say so; ``stored_bytes`` is how much of it is here. ``complete`` tells that config and
    layers are, of an index: those of at least one of its platforms. ``hits`` is how often its
    manifest was served since the mirror started; null while none runs.
    """

    repository: str
    tag: str | None
    digest: str
    media_type: str | None
    size_bytes: int | None
    stored_bytes: int
    complete: bool
    platforms: tuple[str, ...]
    used_at: float | None
    pinned: bool
    hits: int | None = None


class Part(msgspec.Struct, frozen=True):
    """What a manifest links: a layer, a config, or the image of a platform with its own parts.

    ``manifests`` is how many stored manifests link it: with more than one it is shared.
    """

    digest: str
    media_type: str | None
    platform: str | None
    size_bytes: int
    stored: bool
    manifests: int = 0
    parts: tuple["Part", ...] = ()


class Meaning(msgspec.Struct, frozen=True):
    """What a tag meant, and since when (seconds since the epoch)."""

    digest: str
    since: float


class ImageDetails(msgspec.Struct, frozen=True):
    """An image with what it links, and what its tag meant over time, the latest first.

    ``tags`` are those of the repository that mean it, ``indexes`` the digests of those here
    that have it as a platform.
    """

    image: ImageFacts
    confirmed_at: float | None
    history: tuple[Meaning, ...]
    parts: tuple[Part, ...]
    tags: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Below:
    """What a manifest leads to: sizes of all that is known, digests of what is here."""

    sizes: dict[str, int] = field(default_factory=dict)
    here: set[str] = field(default_factory=set)
    platforms: list[str] = field(default_factory=list)
    complete: bool = False


class Inventory:
    """Looks through a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._layout = store.parts.layout
        self._index = store.parts.index
        self._pool = store.parts.pools.inspect

    async def images(self, *, untagged: bool = False) -> list[ImageFacts]:
        """Return the images of all tags, in order; with *untagged*, of all manifests."""
        await self._store.flush()
        memory: dict[str, _Below] = {}
        repositories = await self._pool.run(self._store.refs.repositories)
        found = chain.from_iterable(
            self._of(each, memory, untagged=untagged) for each in repositories
        )
        return [image async for image in in_steps(self._pool, found)]

    async def platforms(self) -> tuple[str, ...]:
        """Return the platforms of all images that are whole here."""
        images = await self.images()
        return tuple(sorted({each for image in images for each in image.platforms}))

    async def details(self, repository: Repository, reference: Reference) -> ImageDetails | None:
        """Return what is known of one image; ``None``: nothing."""
        await self._store.flush()
        return await self._pool.run(self._details, repository, reference)

    def totals(self) -> Usage:
        """Return how full the cache is; asks nobody."""
        space, totals = self._store.space, self._index.totals
        names = {*self._store.parts.policies, *(name for name, n in space.stored_by.items() if n)}
        return Usage(
            str(self._layout.root),
            space.limit_bytes,
            space.used_bytes,
            space.stored_bytes,
            space.reserved_bytes,
            self._store.partials.idle_bytes,
            self._store.partials.count,
            totals.blobs,
            totals.manifests,
            tuple(
                UpstreamUsage(name, space.stored_by[name], space.upstream_limit_bytes(name))
                for name in sorted(names)
            ),
        )

    async def usage(self) -> Usage:
        """Return how full the cache is, and who holds how much."""
        held = Holdings()
        async for key in in_steps(self._pool, self._index.all_keys(), 500):
            if key.startswith("l:"):
                held.link(key)
        sizes = in_steps(self._pool, self._sizes(iter(list(held.owners))))
        async for digest, size_bytes in sizes:
            held.count(digest, size_bytes)
        return msgspec.structs.replace(
            self.totals(),
            repositories=held.repositories(),
            shared_bytes=held.shared_bytes,
            unlinked_bytes=max(0, self._index.totals.size_bytes - held.linked_bytes),
        )

    # --- in the thread ---------------------------------------------------------------------

    def _sizes(self, digests: Iterator[str]) -> Iterator[tuple[str, int]]:
        for digest in digests:
            row = self._index.get(object_key(digest), ObjectRow)
            yield digest, row.size_bytes if row else 0

    def _of(
        self, repository: Repository, memory: dict[str, _Below], *, untagged: bool
    ) -> Iterator[ImageFacts]:
        refs = dict(self._store.refs.all_manifests(repository))
        named = set()
        for tag, ref in self._store.refs.all_tags(repository):
            named.add(ref.digest)
            yield from self._image(repository, tag.name, ref.digest, refs, memory)
        for digest in refs if untagged else ():
            if str(digest) not in named:
                yield from self._image(repository, None, str(digest), refs, memory)

    def _details(self, repository: Repository, reference: Reference) -> ImageDetails | None:
        row = None
        if isinstance(reference, Tag):
            row = self._index.get(tag_key(repository, reference), TagRow)
            if row is None:
                return None
        text = row.digest if row else str(reference)
        refs = dict(self._store.refs.all_manifests(repository))
        if row is None and reference not in refs:
            return None
        tag = reference.name if isinstance(reference, Tag) else None
        images = list(self._image(repository, tag, text, refs, {}))
        digest = Digest.parse(text)
        history = ((row.digest, row.seen_at), *row.history) if row else ()
        meanings = tuple(Meaning(*each) for each in history)
        return ImageDetails(
            images[0],
            row.confirmed_at if row else None,
            meanings,
            tuple(self._parts(digest, _DEPTH_MAX)),
            tuple(
                each.name
                for each, ref in self._store.refs.all_tags(repository)
                if ref.digest == text
            ),
            tuple(self._indexes_of(digest, refs)),
        )

    def _parts(self, digest: Digest, depth: int) -> Iterator[Part]:
        manifest = self._manifest(digest) if depth else None
        for link in manifest.links if manifest is not None else ():
            is_manifest = link.kind is LinkKind.MANIFEST
            yield Part(
                str(link.digest),
                link.media_type,
                link.platform,
                link.size_bytes,
                self._row(str(link.digest)) is not None,
                self._index.links_of(str(link.digest)),
                tuple(self._parts(link.digest, depth - 1)) if is_manifest else (),
            )

    def _indexes_of(self, digest: Digest, refs: dict[Digest, ManifestRef]) -> Iterator[str]:
        for each, ref in refs.items():
            manifest = self._manifest(each) if is_index(ref.media_type) else None
            if manifest is not None and any(link.digest == digest for link in manifest.links):
                yield str(each)

    def _image(
        self,
        repository: Repository,
        tag: str | None,
        text: str,
        refs: dict[Digest, ManifestRef],
        memory: dict[str, _Below],
    ) -> Iterator[ImageFacts]:
        try:
            digest = Digest.parse(text)
        except MirrorError:
            return
        below = memory.get(text)
        if below is None:
            below = memory[text] = self._below(digest, None, _DEPTH_MAX)
        row = self._index.get(object_key(text), ObjectRow)
        yield ImageFacts(
            str(repository),
            tag,
            text,
            refs[digest].media_type if digest in refs else None,
            sum(below.sizes.values()) if below.here else None,
            sum(below.sizes[each] for each in below.here),
            below.complete,
            tuple(below.platforms),
            row.used_at if row else None,
            text in self._store.pins.digests,
        )

    def _below(self, digest: Digest, platform: str | None, depth: int) -> _Below:
        manifest = self._manifest(digest)
        if manifest is None:
            return _Below()
        below = _Below({str(digest): manifest.size_bytes}, {str(digest)})
        for link in manifest.links:
            below.sizes[str(link.digest)] = link.size_bytes
        if is_index(manifest.media_type):
            self._add_children(below, manifest, depth)
            return below
        links = {str(link.digest) for link in manifest.links}
        below.here |= {each for each in links if self._row(each) is not None}
        below.complete = links <= below.here
        platform = platform or self._platform(manifest)
        below.platforms = [platform] if below.complete and platform else []
        return below

    def _add_children(self, below: _Below, index: Manifest, depth: int) -> None:
        for link in index.links:
            child = self._below(link.digest, link.platform, depth - 1) if depth else _Below()
            below.sizes |= child.sizes
            below.here |= child.here
            if child.complete and link.platform != _NOT_A_PLATFORM:
                below.complete = True
                below.platforms += [each for each in child.platforms if each]
        below.complete |= not index.links

    def _manifest(self, digest: Digest) -> Manifest | None:
        row = self._row(str(digest))
        if row is None or row.is_blob:
            return None
        try:
            return read_manifest(self._layout.blob(digest).read_bytes(), None, digest)
        except (OSError, MirrorError):
            return None

    def _platform(self, manifest: Manifest) -> str | None:
        """Return what the config of an image says that it runs on."""
        config = next((each for each in manifest.links if each.media_type in _CONFIGS), None)
        if config is None or not 0 < config.size_bytes <= _CONFIG_MAX_BYTES:
            return None
        try:
            return platform_of(self._layout.blob(config.digest).read_bytes())
        except OSError:
            return None

    def _row(self, digest: str) -> ObjectRow | None:
        return self._index.get(object_key(digest), ObjectRow)


def platform_of(config: bytes) -> str | None:
    """Return what the config of an image says that it runs on; ``None``: nothing readable."""
    try:
        found = msgspec.json.decode(config, type=_Config)
    except UNREADABLE:
        return None
    parts = [found.os, found.architecture, found.variant]
    return "/".join(part[:64] for part in parts if part) or None


class _Config(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""
