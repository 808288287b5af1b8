"""Makes rows anew of ``refs/`` and the manifests, and files under ``refs/`` anew of rows."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from mirror.domain.errors import MirrorError
from mirror.domain.manifests import LinkKind, Manifest, is_index, read_manifest
from mirror.domain.names import ANONYMOUS_SCOPE, Digest, Repository, Tag
from mirror.store.facts import link_key, manifest_links, tag_key
from mirror.store.index import object_key
from mirror.store.refs import BlobRef, ManifestRef, TagRef, read_ref, repository_of
from mirror.store.rows import Commit, LinkRow, ObjectKind, ObjectRow, TagRow
from mirror.store.store import Store

_READABLE: Final[dict[str, Callable[[Path], bool]]] = {
    "_tags": lambda path: read_ref(path, TagRef) is not None,
    "_manifests": lambda path: read_ref(path, ManifestRef) is not None,
    "_blobs": lambda path: read_ref(path, BlobRef) is not None,
}


class Restoring:
    """Repairs single facts; nobody is shown more than before (invariant 12)."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._refs = store.refs
        self._layout = store.parts.layout
        self._index = store.parts.index
        self._public: dict[str, Repository] | None = None

    # --- rows ------------------------------------------------------------------------------

    async def restore(self, digest: Digest) -> bool:
        """Write the row of an object whose file is right; False: nothing says whose it is."""
        pools = self._store.parts.pools
        if self._public is None:
            self._public = await pools.inspect.run(lambda: dict(self._linked_by_public()))
        commits = await pools.inspect.run(self._commits, digest)
        try:
            for commit in commits:
                await self._store.adopt(commit)
        except FileNotFoundError:
            return False  # somebody has removed it meanwhile
        return bool(commits)

    def _linked_by_public(self) -> Iterator[tuple[str, Repository]]:
        """Yield what manifests link that anybody may read: it came to anybody, too."""
        for repository in self._refs.repositories():
            for digest, ref in self._refs.all_manifests(repository):
                manifest = self._manifest(digest) if ref.scope == ANONYMOUS_SCOPE else None
                for link in manifest.links if manifest else ():
                    if link.kind is LinkKind.BLOB:
                        yield str(link.digest), repository

    def _commits(self, digest: Digest) -> list[Commit]:
        """Return one commit for each repository that brought the object."""
        found = []
        for repository in self._refs.repositories():
            ref = read_ref(self._layout.manifest_ref(repository, digest), ManifestRef)
            manifest = self._manifest(digest) if ref is not None else None
            if ref is not None and manifest is not None:
                found.append(self._of_manifest(repository, manifest, ref))
            blob = read_ref(self._layout.blob_ref(repository, digest), BlobRef)
            if blob is not None and blob.fetched:
                found.append(self._of_blob(repository, digest, blob.scope, (str(repository),)))
        public = (self._public or {}).get(str(digest))
        if not found and public is not None:
            found.append(self._of_blob(public, digest, ANONYMOUS_SCOPE, ()))
        return found

    def _of_manifest(self, repository: Repository, manifest: Manifest, ref: ManifestRef) -> Commit:
        kind: ObjectKind = "index" if is_index(manifest.media_type) else "manifest"
        own = LinkRow(manifest.size_bytes, ref.media_type, ref.answered_at)
        return Commit(
            str(manifest.digest),
            ObjectRow(
                manifest.size_bytes,
                kind,
                (ref.scope,),
                ref.stored_at,
                (str(repository),),
                repository.upstream,
            ),
            (link_key(repository, manifest.digest, LinkKind.MANIFEST), own),
            tuple(manifest_links(repository, manifest)),
            tuple(str(link.digest) for link in manifest.links),
        )

    def _of_blob(
        self, repository: Repository, digest: Digest, scope: str, owners: tuple[str, ...]
    ) -> Commit:
        facts = self._layout.blob(digest).stat()
        row = ObjectRow(
            facts.st_size, "blob", (scope,), facts.st_mtime, owners, repository.upstream
        )
        return Commit(str(digest), row)

    def _manifest(self, digest: Digest) -> Manifest | None:
        try:
            content = self._layout.blob(digest).read_bytes()
            return read_manifest(content, None, digest)
        except (OSError, MirrorError):
            return None

    # --- refs ------------------------------------------------------------------------------

    def unreadable(self) -> Iterator[Path]:
        """Yield the files under ``refs/`` that cannot be read."""
        root = self._layout.root / "refs"
        for kind, is_readable in _READABLE.items():
            for directory in root.rglob(kind):
                for path in directory.iterdir():
                    if path.is_file() and not is_readable(path) and path.exists():
                        yield path

    async def rewrite(self, path: Path) -> bool:
        """Write such a file anew from what the index says, or remove it; tells which."""
        return await self._store.parts.pools.index_write.run(self._rewritten, path)

    def _rewritten(self, path: Path) -> bool:
        ref = self._from_index(path)
        if ref is None:
            path.unlink(missing_ok=True)
            return False
        self._layout.replace_file(path, msgspec.json.encode(ref))
        return True

    def _from_index(self, path: Path) -> TagRef | ManifestRef | BlobRef | None:
        repository = repository_of(path.parent.parent, self._layout.root / "refs")
        if repository is None:
            return None
        try:
            if path.parent.name == "_tags":
                return self._tag(repository, Tag(path.name))
            digest = Digest.parse(path.name)
        except MirrorError:
            return None
        kind = LinkKind.MANIFEST if path.parent.name == "_manifests" else LinkKind.BLOB
        link = self._index.get(link_key(repository, digest, kind), LinkRow)
        row = self._index.get(object_key(str(digest)), ObjectRow)
        if link is None or row is None or str(repository) not in row.repositories:
            return None
        # Of several scopes the narrower one: nobody is shown more than before.
        scope = max(row.scopes, key=lambda each: each != ANONYMOUS_SCOPE)
        if kind is LinkKind.BLOB:
            return BlobRef(scope, row.size_bytes, link.answered_at, fetched=True)
        media_type = link.media_type or ""
        return ManifestRef(media_type, scope, row.size_bytes, link.answered_at, link.answered_at)

    def _tag(self, repository: Repository, tag: Tag) -> TagRef | None:
        row = self._index.get(tag_key(repository, tag), TagRow)
        if row is None:
            return None
        return TagRef(row.digest, row.seen_at, row.confirmed_at, row.history)
