"""Manifests and indexes: what they are, and what they refer to.

The bytes are upstream's and stay as they are; this only reads them. The checks close the
type confusion of CVE-2021-41190 and the parser differentials of cases S8 and S11.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mirror.domain.errors import (
    DigestInvalidError,
    DigestUnsupportedError,
    ManifestInvalidError,
)
from mirror.domain.media import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    IMAGE_TYPES,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_ARTIFACT,
    OCI_INDEX,
    OCI_MANIFEST,
    bare_type,
)
from mirror.domain.names import Digest

MANIFEST_MAX_BYTES: Final = 4 * 1024 * 1024
"""Clients refuse more: containers/image above this, containerd above 4,393,216."""

_FIELDS: Final = (
    "schemaVersion", "mediaType", "config", "layers", "manifests", "blobs", "subject",
    "fsLayers", "digest", "size", "urls", "artifactType",
)  # fmt: skip
_BY_FOLDED_CASE: Final = {field.casefold(): field for field in _FIELDS}
_SIZE_MAX_BYTES: Final = 2**63 - 1
"""What the int64 of the image specification can hold."""


class LinkKind(StrEnum):
    """As what a repository may ask for a digest (invariant 12)."""

    BLOB = "blob"
    MANIFEST = "manifest"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says of an object that it refers to.

    ``platform`` is of the children of an index, in the form ``linux/arm/v7``.
    """

    digest: Digest
    size_bytes: int
    media_type: str
    kind: LinkKind
    platform: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A verified manifest or index: upstream's bytes and what they refer to.

    ``links`` are the objects that the repository may be asked for because of it: config
    and layers (blobs) or children (manifests); foreign layers and the subject are not.
    """

    digest: Digest
    media_type: str
    content: bytes
    links: tuple[Descriptor, ...]

    @property
    def size_bytes(self) -> int:
        """The length of the manifest itself."""
        return len(self.content)


def read_manifest(content: bytes, content_type: str | None, digest: Digest) -> Manifest:
    """Check bytes that upstream sent as a manifest.

    Args:
        content: The bytes; *digest* must be theirs, which the caller has checked.
        content_type: Upstream's Content-Type, if any. Where it is missing or is not a
            manifest type, the type comes from the manifest itself.
        digest: The address under which the manifest will be known.

    Raises:
        ManifestInvalidError: it is none, or one that could be taken for two things.
    """
    fields = _parse(content)
    media_type = _media_type(fields, bare_type(content_type))
    return Manifest(digest, media_type, content, tuple(_links(fields, media_type)))


def _parse(content: bytes) -> Mapping[str, object]:
    if len(content) > MANIFEST_MAX_BYTES:
        raise ManifestInvalidError(f"it has more than {MANIFEST_MAX_BYTES} bytes")
    try:
        fields = json.loads(
            content.decode(), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise ManifestInvalidError(f"it is not JSON: {str(error)[:200]}") from None
    return _object(fields, "the manifest")


def _no_constant(name: str) -> object:
    raise ManifestInvalidError(f"it is not JSON: {name} is only known to JavaScript")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ManifestInvalidError("a key stands twice in one object")
    return fields


def _object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ManifestInvalidError(f"{what} is not an object")
    for key in value:
        # Go's decoder folds the case of keys, beyond ASCII too (U+017F is an s to it): what
        # we skip, a client would read.
        if _BY_FOLDED_CASE.get(key.casefold(), key) != key:
            raise ManifestInvalidError(f"{what} has the key {key[:64]!r} in the wrong case")
    return value


def _list(fields: Mapping[str, object], name: str) -> list[object]:
    value = fields.get(name)
    if value is None:  # Go writes a slice without entries as null
        return []
    if not isinstance(value, list):
        raise ManifestInvalidError(f"{name} is not a list")
    return value


def _media_type(fields: Mapping[str, object], stated: str | None) -> str:
    inner = _text(fields, "mediaType")
    if stated in DOCKER_SCHEMA1 or "fsLayers" in fields:
        raise ManifestInvalidError("schema 1 manifests cannot be verified by their digest")
    if stated not in MANIFEST_TYPES:
        stated = inner or _type_by_shape(fields)
    if inner and inner != stated:
        raise ManifestInvalidError(f"Content-Type is {stated}, mediaType is {inner[:128]!r}")
    if stated not in MANIFEST_TYPES:
        raise ManifestInvalidError(f"its type is {stated[:128]!r}")
    _check_shape(fields, stated)
    return stated


def _text(fields: Mapping[str, object], name: str) -> str:
    """Return a string, empty where there is none, as in Go."""
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not value.isascii():
        raise ManifestInvalidError(f"{name} is not a string of ASCII")
    return value


def _type_by_shape(fields: Mapping[str, object]) -> str:
    if "manifests" in fields:
        return OCI_INDEX
    config = fields.get("config")
    config_type = config.get("mediaType") if isinstance(config, dict) else None
    if config_type == "application/vnd.docker.container.image.v1+json":
        return DOCKER_MANIFEST
    return OCI_ARTIFACT if "blobs" in fields else OCI_MANIFEST


def _check_shape(fields: Mapping[str, object], media_type: str) -> None:
    is_index = media_type in INDEX_TYPES
    if is_index and {"config", "layers", "blobs"} & fields.keys():
        raise ManifestInvalidError("it is an index and an image at once")
    if not is_index and "manifests" in fields:
        raise ManifestInvalidError("it is an image and an index at once")
    if is_index and "manifests" not in fields:
        raise ManifestInvalidError("it is an index without manifests")
    if media_type in IMAGE_TYPES and not {"config", "layers"} <= fields.keys():
        raise ManifestInvalidError("it is an image without config or layers")


def _links(fields: Mapping[str, object], media_type: str) -> Iterator[Descriptor]:
    if media_type in INDEX_TYPES:
        for entry in _list(fields, "manifests"):
            yield from _descriptor(entry, LinkKind.MANIFEST)
        return
    if media_type in IMAGE_TYPES:
        yield from _descriptor(fields["config"], LinkKind.BLOB)
    for name in ("layers", "blobs"):
        for entry in _list(fields, name):
            yield from _descriptor(entry, LinkKind.BLOB)


def _descriptor(entry: object, kind: LinkKind) -> Iterator[Descriptor]:
    fields = _object(entry, "a descriptor")
    media_type, size = _text(fields, "mediaType"), fields.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _SIZE_MAX_BYTES:
        raise ManifestInvalidError("a descriptor has no valid size")
    is_foreign = bool(_list(fields, "urls"))
    try:
        digest = Digest.parse(_text(fields, "digest"))
    except DigestUnsupportedError:
        return  # a client may know the algorithm; we could not verify the object
    except DigestInvalidError as error:
        raise ManifestInvalidError(str(error)) from None
    if kind is LinkKind.BLOB and is_foreign:
        return  # a foreign layer is elsewhere (CVE-2020-15157): it links nothing here
    yield Descriptor(digest, size, media_type, kind, _platform(fields.get("platform")))


def _platform(value: object) -> str | None:
    """Return what an image runs on; nobody is refused for how it is written."""
    if not isinstance(value, dict):
        return None
    parts = [value.get(name) for name in ("os", "architecture", "variant")]
    return "/".join(part[:64] for part in parts if isinstance(part, str) and part) or None


def is_index(media_type: str) -> bool:
    """Return whether a manifest of this type refers to manifests rather than blobs."""
    return media_type in {OCI_INDEX, DOCKER_LIST}
