"""Media types: those of manifests, what we ask upstream for, and what a client accepts."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_ARTIFACT: Final = "application/vnd.oci.artifact.manifest.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_SCHEMA1: Final = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)

INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
IMAGE_TYPES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
MANIFEST_TYPES: Final = INDEX_TYPES | IMAGE_TYPES | {OCI_ARTIFACT}

ACCEPT_MANIFESTS: Final = ", ".join(
    [
        OCI_INDEX,
        OCI_MANIFEST,
        DOCKER_LIST,
        DOCKER_MANIFEST,
        f"{OCI_ARTIFACT};q=0.9",
        "application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.5",
        "application/vnd.docker.distribution.manifest.v1+json;q=0.4",
        "*/*;q=0.1",
    ]
)
"""Asked of upstream whatever the client accepts, so that one cached answer serves all.

ghcr.io and distribution answer 404 to a narrower one.
"""

_REMEMBERED_MAX_CHARS: Final = 2048
_NO_WEIGHT: Final = re.compile(r"q\s*=\s*0(\.0*)?")
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*")


def bare_type(content_type: str | None) -> str | None:
    """Return the media type of a Content-Type header without its parameters.

    ``None`` when there is none or when it is not a media type at all: it goes out in a
    header of ours later, so only what matches the grammar comes in.
    """
    if content_type is None:
        return None
    bare = content_type.partition(";")[0].strip().lower()
    return bare if _MEDIA_TYPE.fullmatch(bare) else None


def accepts(accept_lines: Iterable[str], media_type: str) -> bool:
    """Return whether the Accept lines of a request allow *media_type*.

    No line at all allows everything. All lines count: Docker and podman send six. The most
    specific range decides, so ``a/b;q=0, */*`` refuses ``a/b``.

    Source: RFC 9110 section 12.5.1.
    """
    lines = tuple(accept_lines)
    if sum(map(len, lines)) > _REMEMBERED_MAX_CHARS:
        return _read(lines, media_type)
    return _remembered(lines, media_type)


def _read(accept_lines: tuple[str, ...], media_type: str) -> bool:
    ranges = [part for line in accept_lines for part in line.split(",") if part.strip()]
    if not ranges:
        return True
    words = [_range(text) for text in ranges]
    for name in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        allowed = [is_allowed for given, is_allowed in words if given == name]
        if allowed:
            return any(allowed)
    return False


_remembered: Final = lru_cache(maxsize=1024)(_read)
"""A client always sends the same lines."""


def _range(text: str) -> tuple[str, bool]:
    """Return the name of a media range, and whether its weight is more than nothing."""
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    return name, not any(_NO_WEIGHT.fullmatch(parameter) for parameter in parameters)
