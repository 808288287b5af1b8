"""A bundle: images of a cache in one file, to be carried to where there is no network.

It is a tar that is an OCI image layout, too. Its first file says all that is in it, so that
whoever reads it knows of each next file what it is called and how long it is, and looks at
nothing else::

    mirror-bundle.json       what is in it: objects, and what repositories say of them
    mirror-bundle.json.sig   the Ed25519 signature of that file; may be missing
    oci-layout
    index.json               the images, for other programs
    blobs/sha256/<hex>       the objects that are carried, in the order of their digests

The same content makes the same bytes: there are no times of files, no owners, and one order.
"""

import tarfile
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from mirror.domain.errors import MirrorError
from mirror.domain.manifests import MANIFEST_MAX_BYTES
from mirror.domain.media import OCI_INDEX
from mirror.domain.names import ANONYMOUS_SCOPE, Digest, Repository, Tag, is_upstream_name

CONTENTS: Final = "mirror-bundle.json"
SIGNATURE: Final = "mirror-bundle.json.sig"
LAYOUT: Final = "oci-layout"
INDEX: Final = "index.json"
LAYOUT_CONTENT: Final = b'{"imageLayoutVersion":"1.0.0"}'
SIGNATURE_BYTES: Final = 64
CONTENTS_MAX_BYTES: Final = 64 << 20
BLOCK_BYTES: Final = 512
END: Final = bytes(2 * BLOCK_BYTES)
VERSION: Final = 1
_REF_NAME: Final = "org.opencontainers.image.ref.name"
_SIZE_MAX_BYTES: Final = 1 << 50
_KINDS: Final = frozenset({"index", "manifest", "blob", "document"})
_UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)


class BundleInvalidError(Exception):
    """The bundle is not what it should be; the message says where."""


class BundledObject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An object; one that is not ``carried`` has to be there already where it is imported."""

    digest: str
    size_bytes: int
    kind: str
    scopes: tuple[str, ...]
    carried: bool


class BundledTag(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tag means, and since when."""

    name: str
    digest: str
    seen_at: float


class BundledManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That a repository has a manifest, as what, and by whose credentials."""

    digest: str
    media_type: str
    scope: str


class BundledList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A list of what refers to a manifest, as upstream gave it."""

    subject: str
    digest: str
    media_type: str
    filtered: bool


class BundledRepository(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a repository says of the objects."""

    upstream: str
    name: str
    tags: tuple[BundledTag, ...]
    manifests: tuple[BundledManifest, ...]
    lists: tuple[BundledList, ...]

    @property
    def repository(self) -> Repository:
        """The name as a value."""
        return Repository(self.upstream, self.name)


class Contents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that is in a bundle; ``index`` is the digest of its ``index.json``."""

    version: int
    index: str
    objects: tuple[BundledObject, ...]
    repositories: tuple[BundledRepository, ...]

    @property
    def carried(self) -> Iterator[BundledObject]:
        """The objects whose bytes are in it, in order."""
        return (each for each in self.objects if each.carried)

    @property
    def carried_bytes(self) -> int:
        """The size of all objects whose bytes are in it."""
        return sum(each.size_bytes for each in self.carried)


class StoredInventory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a cache has that anybody may see: the digests, in order."""

    version: int
    objects: tuple[str, ...]


def read_contents(content: bytes) -> Contents:
    """Read and check ``mirror-bundle.json``.

    Raises:
        BundleInvalidError: it is none, or one that contradicts itself.
    """
    try:
        found = msgspec.json.decode(content, type=Contents)
    except _UNREADABLE as error:
        raise BundleInvalidError(f"{CONTENTS} cannot be read: {str(error)[:200]}") from None
    if found.version != VERSION:
        raise BundleInvalidError(f"{CONTENTS} is of version {found.version}, not {VERSION}")
    try:
        _check(found)
    except MirrorError as error:
        raise BundleInvalidError(f"{CONTENTS}: {error}") from None
    return found


def _check(contents: Contents) -> None:
    Digest.parse(contents.index)
    kinds = {each.digest: each.kind for each in contents.objects}
    if list(kinds) != sorted(kinds) or len(kinds) != len(contents.objects):
        raise BundleInvalidError(f"{CONTENTS}: the objects are not in order")
    for each in contents.objects:
        _check_object(each)
    names = [(each.upstream, each.name) for each in contents.repositories]
    if len(set(names)) != len(names):
        raise BundleInvalidError(f"{CONTENTS}: a repository stands twice in it")
    for repository in contents.repositories:
        _check_repository(repository, kinds)


def _check_object(stored: BundledObject) -> None:
    Digest.parse(stored.digest)
    limit = _SIZE_MAX_BYTES if stored.kind == "blob" else MANIFEST_MAX_BYTES
    if stored.kind not in _KINDS or not 0 <= stored.size_bytes <= limit:
        raise BundleInvalidError(f"{CONTENTS}: {stored.digest} has no valid kind and size")
    if not stored.scopes:
        raise BundleInvalidError(f"{CONTENTS}: {stored.digest} has no scope")
    for scope in stored.scopes:
        _check_scope(scope)


def _check_scope(scope: str) -> None:
    if scope != ANONYMOUS_SCOPE and not is_upstream_name(scope.removesuffix("~")):
        raise BundleInvalidError(f"{CONTENTS}: {scope[:64]!r} is not a scope")


def _check_repository(repository: BundledRepository, kinds: dict[str, str]) -> None:
    name = repository.repository
    if not is_upstream_name(repository.upstream):
        raise BundleInvalidError(f"{CONTENTS}: {repository.upstream[:64]!r} is not an upstream")
    manifests = {each.digest for each in repository.manifests}
    for manifest in repository.manifests:
        if kinds.get(manifest.digest) not in {"index", "manifest"}:
            raise BundleInvalidError(f"{CONTENTS}: {name} has a manifest that is not in it")
        own = {ANONYMOUS_SCOPE, name.upstream, f"{name.upstream}~"}
        if manifest.scope not in own:
            raise BundleInvalidError(f"{CONTENTS}: {name} has a manifest of another upstream")
    for tag in repository.tags:
        Tag(tag.name)
        if tag.digest not in manifests or not tag.seen_at >= 0:
            raise BundleInvalidError(f"{CONTENTS}: {name}:{tag.name} means what is not in it")
    for each in repository.lists:
        Digest.parse(each.subject)
        if each.digest not in kinds or kinds[each.digest] == "blob":
            raise BundleInvalidError(f"{CONTENTS}: {name} has a list that is not in it")


def read_inventory(content: bytes) -> frozenset[str]:
    """Read what ``mirror cache inventory`` wrote; raises BundleInvalidError."""
    try:
        found = msgspec.json.decode(content, type=StoredInventory)
    except _UNREADABLE as error:
        raise BundleInvalidError(f"it is not an inventory: {str(error)[:200]}") from None
    if found.version != VERSION:
        raise BundleInvalidError(f"the inventory is of version {found.version}, not {VERSION}")
    return frozenset(found.objects)


def oci_index(images: Iterable[tuple[str, str, str, int]]) -> bytes:
    """Return ``index.json`` of images: name, digest, media type and size of each."""
    manifests = [
        {
            "mediaType": media_type,
            "digest": digest,
            "size": size_bytes,
            # The second is where containerd looks.
            "annotations": {_REF_NAME: name, "io.containerd.image.name": name},
        }
        for name, digest, media_type, size_bytes in sorted(images)
    ]
    fields = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    return msgspec.json.encode(fields)


def object_path(digest: str) -> str:
    """Return what the file of an object is called in a bundle."""
    return f"blobs/{digest.replace(':', '/')}"


def header(name: str, size_bytes: int) -> bytes:
    """Return what stands in the tar before a file."""
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    return info.tobuf(tarfile.GNU_FORMAT, "ascii", "strict")


def padding(size_bytes: int) -> bytes:
    """Return what stands in the tar behind a file."""
    return bytes(-size_bytes % BLOCK_BYTES)


def read_size(block: bytes, name: str, max_bytes: int) -> int:
    """Return how long a file is, which must be the one of that name.

    Raises:
        BundleInvalidError: it is another file, or too long.
    """
    try:
        size_bytes = tarfile.TarInfo.frombuf(block, "ascii", "surrogateescape").size
    except (tarfile.TarError, ValueError):
        raise BundleInvalidError(f"there is no header of a tar where {name} should be") from None
    if not 0 <= size_bytes <= max_bytes:
        raise BundleInvalidError(f"{name} is too long")
    if block != header(name, size_bytes):
        raise BundleInvalidError(f"the file {name} is not where it should be")
    return size_bytes
