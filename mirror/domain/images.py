"""Images as people name them at the command line: ``alpine:3.20``, ``ghcr.io/a/b@sha256:…``."""

from typing import Final
from urllib.parse import quote

from mirror.domain.errors import NameUnknownError
from mirror.domain.freshness import matches
from mirror.domain.names import Digest, Reference, Repository, Tag
from mirror.domain.routing import Table

_HUB: Final = "docker.io"
_OFFICIAL: Final = "library/"
_WILD: Final = ("*", "?")


def parse_image(text: str, table: Table) -> tuple[Repository, Reference]:
    """Read the name of an image by the rules that hold for requests, aliases and all.

    Without a tag it is ``latest``; with a tag and a digest, the digest counts.

    Raises:
        NameUnknownError: no such upstream.
        NameInvalidError, TagInvalidError, DigestInvalidError: the grammar is broken.
    """
    name, at, digest = text.partition("@")
    name, tag = _split(name)
    reference = digest if at else "latest" if tag is None else tag
    path = f"/v2/{quote(name, safe='/:')}/manifests/{quote(reference, safe=':')}"
    route = table.parse(path, "", "")
    if route.repository is None or route.reference is None:
        raise NameUnknownError(f"{text[:256]!r} does not name an image")
    return route.repository, route.reference


def parse_pin(text: str, table: Table) -> tuple[Repository, Reference, Digest | None]:
    """Read what is to be kept: with a tag and a digest, the tag and what it is held at.

    Raises as ``parse_image`` does.
    """
    repository, reference = parse_image(text, table)
    if not isinstance(reference, Digest) or not names_tag(text):
        return repository, reference, None
    _, tag = parse_image(text.partition("@")[0], table)
    return repository, tag, reference


def names_tag(text: str) -> bool:
    """Return whether the name of an image has a tag."""
    return _split(text.partition("@")[0])[1] is not None


def _split(name: str) -> tuple[str, str | None]:
    """Return name and tag; a colon before a slash belongs to a port."""
    rest, colon, tag = name.rpartition(":")
    return (rest, tag) if colon and "/" not in tag else (name, None)


def image_name(repository: Repository, reference: Reference) -> str:
    """Return the whole name of an image."""
    mark = "@" if isinstance(reference, Digest) else ":"
    return f"{repository}{mark}{reference}"


def is_pattern(text: str) -> bool:
    """Return whether a text may mean several images."""
    return any(each in text for each in _WILD)


def image_matches(
    pattern: str, repository: Repository, tag: Tag | None, digest: str, default: str
) -> bool:
    """Return whether a glob means an image.

    It may leave out what the name of an image may leave out: the upstream when it is the
    *default*, ``library/`` of Docker Hub, and tag and digest, which then are any.
    """
    return any(
        matches(pattern, name)
        for short in _names(repository, default)
        for name in (short, f"{short}@{digest}", *([] if tag is None else [f"{short}:{tag}"]))
    )


def _names(repository: Repository, default: str) -> list[str]:
    names, official = [str(repository)], repository.name.removeprefix(_OFFICIAL)
    is_official = repository.upstream == _HUB and official != repository.name
    if is_official:
        names.append(f"{_HUB}/{official}")
    if repository.upstream == default:
        names += [repository.name, official] if is_official else [repository.name]
    return names
