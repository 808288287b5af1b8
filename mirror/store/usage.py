"""How full the cache is, and who holds how much of it."""

from collections import Counter

import msgspec


class UpstreamUsage(msgspec.Struct, frozen=True):
    """How many bytes came from an upstream, and how many may."""

    upstream: str
    stored_bytes: int
    limit_bytes: int | None


class RepositoryUsage(msgspec.Struct, frozen=True):
    """What a repository has here; ``own_bytes`` are those that no other one has, too."""

    repository: str
    objects: int
    stored_bytes: int
    own_bytes: int


class Usage(msgspec.Struct, frozen=True):
    """How full the cache is.

    ``used_bytes`` is what counts against ``limit_bytes``: stored and reserved bytes, and those
    of partials that wait. ``shared_bytes``, each object counted once, belong to more than
    one repository, ``unlinked_bytes`` to none (lists of upstream, and what nothing links
    any more); both are null when repositories were not asked for.
    """

    directory: str
    limit_bytes: int
    used_bytes: int
    stored_bytes: int
    reserved_bytes: int
    partial_bytes: int
    partials: int
    blobs: int
    manifests: int
    upstreams: tuple[UpstreamUsage, ...]
    repositories: tuple[RepositoryUsage, ...] | None = None
    shared_bytes: int | None = None
    unlinked_bytes: int | None = None


class Holdings:
    """Who has which objects; an object of several counts for each, but once in the total."""

    def __init__(self) -> None:
        self.owners: dict[str, tuple[str, ...]] = {}
        self.shared_bytes = 0
        self.linked_bytes = 0
        self._objects: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._own: Counter[str] = Counter()
        self._names: dict[str, str] = {}

    def link(self, key: str) -> None:
        """Take in the key of a link's row."""
        repository, _, digest = key.removeprefix("l:").partition(":")[2].rpartition("@")
        repository = self._names.setdefault(repository, repository)
        owners = self.owners.get(digest, ())
        if repository not in owners:
            self.owners[digest] = (*owners, repository)

    def count(self, digest: str, size_bytes: int) -> None:
        """Take in the size of an object; 0 where it is not here."""
        if not size_bytes:
            return
        owners = self.owners[digest]
        self.linked_bytes += size_bytes
        for repository in owners:
            self._objects[repository] += 1
            self._bytes[repository] += size_bytes
        if len(owners) > 1:
            self.shared_bytes += size_bytes
        else:
            self._own[owners[0]] += size_bytes

    def repositories(self) -> tuple[RepositoryUsage, ...]:
        """Return what each has, the largest first."""
        found = [
            RepositoryUsage(name, self._objects[name], self._bytes[name], self._own[name])
            for name in self._bytes
        ]
        return tuple(sorted(found, key=lambda each: (-each.stored_bytes, each.repository)))
