"""Takes images out of the cache, with everything that nothing else needs.

First it is worked out what goes, then it is done: so a dry run tells the truth.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from mirror.domain.errors import MirrorError
from mirror.domain.images import image_name
from mirror.domain.manifests import LinkKind, Manifest, read_manifest
from mirror.domain.names import Digest, Reference, Repository, Tag
from mirror.store.facts import link_key, tag_key
from mirror.store.index import object_key
from mirror.store.rows import ObjectRow, TagRow
from mirror.store.store import Store

Image = tuple[Repository, Reference]


class Removed(msgspec.Struct, frozen=True):
    """What went, or would go: tags, objects and bytes.

    ``missing`` are images that are not here, ``pinned`` those that a pin keeps: neither is
    touched. ``busy`` are objects that somebody reads: they go as soon as room is needed.
    """

    dry_run: bool
    images: tuple[str, ...]
    tags: int
    objects: int
    freed_bytes: int
    missing: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()


@dataclass(slots=True)
class Plan:
    """What goes: tags, claims of repositories, and objects, manifests before what they link."""

    images: list[str] = field(default_factory=list)
    tags: set[tuple[Repository, Tag]] = field(default_factory=set)
    claims: set[tuple[Repository, Digest]] = field(default_factory=set)
    objects: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    pinned: list[str] = field(default_factory=list)


class Withdrawal:
    """Removes images from a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._index = store.parts.index
        self._pools = store.parts.pools

    async def run(self, images: Iterable[Image], *, dry_run: bool) -> Removed:
        """Remove images, or say what removing them would free."""
        plan = await self._pools.inspect.run(lambda: _Planning(self._store).plan(images))
        freed_bytes, busy = sum(plan.objects.values()), list[str]()
        if not dry_run:
            freed_bytes, busy = await self._do(plan)
        return Removed(
            dry_run,
            tuple(plan.images),
            len(plan.tags),
            len(plan.objects) - len(busy),
            freed_bytes,
            tuple(plan.missing),
            tuple(plan.pinned),
            tuple(busy),
        )

    async def _do(self, plan: Plan) -> tuple[int, list[str]]:
        for repository, tag in sorted(plan.tags):
            await self._store.drop_tag(repository, tag)
        for repository, digest in sorted(plan.claims):
            await self._disclaim(repository, digest)
        freed_bytes, busy = 0, []
        for text in plan.objects:
            freed = await self._store.remove(Digest.parse(text))
            freed_bytes += freed
            if not freed and plan.objects[text]:
                busy.append(text)
        return freed_bytes, busy

    async def _disclaim(self, repository: Repository, digest: Digest) -> None:
        """Forget that a repository has an object, whoever else has it."""
        keys = [link_key(repository, digest, kind) for kind in LinkKind]

        def work() -> None:
            with self._index.transaction():
                row = self._index.row(object_key(str(digest)), ObjectRow)
                if row is not None:
                    owners = tuple(each for each in row.repositories if each != str(repository))
                    changed = msgspec.structs.replace(row, repositories=owners)
                    self._index.put(object_key(str(digest)), changed)
                self._index.delete(keys)
            self._store.refs.drop(repository, digest)

        await self._pools.index_write.run(work)
        await self._store.facts.forget([*keys, object_key(str(digest))])


class _Planning:
    """Works out what goes; synchronous, reads a lot, changes nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._index = store.parts.index
        self._plan = Plan()
        self._unlinked: Counter[str] = Counter()
        self._tags: dict[str, set[tuple[Repository, Tag]]] = {}
        self._manifests: dict[Repository, dict[Digest, tuple[str, ...]]] = {}

    def plan(self, images: Iterable[Image]) -> Plan:
        for repository in self._store.refs.repositories():
            for tag, ref in self._store.refs.all_tags(repository):
                self._tags.setdefault(ref.digest, set()).add((repository, tag))
        roots = []
        for repository, reference in dict.fromkeys(images):
            digest = self._meant(repository, reference)
            if digest is None:
                self._plan.missing.append(image_name(repository, reference))
                continue
            names = self._taken(repository, reference, digest)
            if self._is_pinned(repository, {reference, *(tag for _, tag in names)}):
                self._plan.pinned.append(image_name(repository, reference))
                continue
            self._plan.images.append(image_name(repository, reference))
            self._plan.tags |= names
            roots.append((repository, digest))
        for repository, digest in roots:
            self._withdraw(repository, digest)
        return self._plan

    def _meant(self, repository: Repository, reference: Reference) -> Digest | None:
        if isinstance(reference, Tag):
            row = self._index.get(tag_key(repository, reference), TagRow)
            return Digest.parse(row.digest) if row else None
        is_here = str(repository) in self._owners(reference)
        return reference if is_here or self._named_in(repository, reference) else None

    def _is_pinned(self, repository: Repository, names: set[Reference]) -> bool:
        return any(pin.names(repository, each) for pin in self._store.pins.all for each in names)

    def _named_in(self, repository: Repository, digest: Digest) -> set[tuple[Repository, Tag]]:
        return {each for each in self._tags.get(str(digest), ()) if each[0] == repository}

    def _withdraw(self, repository: Repository, digest: Digest) -> None:
        """Take an object from a repository, and out of the cache if nobody else has it."""
        if (repository, digest) in self._plan.claims or self._is_needed_in(repository, digest):
            return
        self._plan.claims.add((repository, digest))
        links = self._links_from(digest)
        row = self._row(str(digest))
        if row is not None and self._is_free(digest):
            self._plan.objects[str(digest)] = row.size_bytes
            self._unlinked.update(links)
        for each in links:
            self._withdraw(repository, Digest.parse(each))

    def _is_needed_in(self, repository: Repository, digest: Digest) -> bool:
        """Tell whether a tag, a manifest or a pin of the repository still wants an object."""
        if self._named_in(repository, digest) - self._plan.tags:
            return True
        if str(digest) in self._store.pins.digests and self._store.pins.concern(repository):
            return True
        return any(
            str(digest) in links and (repository, parent) not in self._plan.claims
            for parent, links in self._manifests_of(repository).items()
        )

    def _is_free(self, digest: Digest) -> bool:
        """Tell whether nobody else, here or in another repository, has an object."""
        text = str(digest)
        claimed = {str(each) for each, of in self._plan.claims if of == digest}
        return not (
            self._tags.get(text, set()) - self._plan.tags
            or self._index.links_of(text) - self._unlinked[text] > 0
            or text in self._store.pins.digests
            or self._owners(digest) - claimed
            or text in self._plan.objects
        )

    def _taken(
        self, repository: Repository, reference: Reference, digest: Digest
    ) -> set[tuple[Repository, Tag]]:
        """Return the tag that goes, or with a digest all tags of the repository that mean it."""
        if isinstance(reference, Tag):
            return {(repository, reference)}
        return self._named_in(repository, digest)

    # --- reading ---------------------------------------------------------------------------

    def _manifests_of(self, repository: Repository) -> dict[Digest, tuple[str, ...]]:
        """Return what each manifest of a repository links."""
        if repository not in self._manifests:
            refs = self._store.refs.all_manifests(repository)
            self._manifests[repository] = {each: self._links_from(each) for each, _ in refs}
        return self._manifests[repository]

    def _links_from(self, digest: Digest) -> tuple[str, ...]:
        manifest = self._manifest(digest)
        links = manifest.links if manifest else ()
        return tuple(dict.fromkeys(str(link.digest) for link in links))

    def _owners(self, digest: Digest) -> set[str]:
        row = self._row(str(digest))
        return set(row.repositories) if row else set()

    def _row(self, digest: str) -> ObjectRow | None:
        return self._index.get(object_key(digest), ObjectRow)

    def _manifest(self, digest: Digest) -> Manifest | None:
        row = self._row(str(digest))
        if row is None or row.is_blob:
            return None
        try:
            content = self._store.parts.layout.blob(digest).read_bytes()
            return read_manifest(content, None, digest)
        except (OSError, MirrorError):
            return None
