"""Which upstream, repository and object a request means, whatever shape its URL has.

The shapes, and the order of the rules, are in ``docs/request-handling.md``.
The world is closed: ``ns``, path prefix and Host are keys of a table, never an address.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode

from mirror.domain.errors import NameUnknownError
from mirror.domain.names import Digest, Reference, Repository, parse_reference

_FORBIDDEN_IN_PATH: Final = re.compile(r"%2f|%5c|%00|%0[ad]|\\|//", re.IGNORECASE)
_OBJECT: Final = re.compile(
    r"(?P<name>.+)/(?:(?P<kind>manifests|blobs|referrers)/(?P<reference>[^/]+)|tags/list)"
)
_API: Final = re.compile(r"(?P<prefix>(?:/[^/]+)*?)/v2(?:/(?P<rest>.*))?", re.DOTALL)
_HUB: Final = "docker.io"
_ROUTES_MAX: Final = 4096
_KEY_MAX_CHARS: Final = 1024


class Kind(StrEnum):
    """What a request is for; a label of the metrics."""

    PING = "ping"
    MANIFEST = "manifest"
    BLOB = "blob"
    TAGS = "tags"
    REFERRERS = "referrers"
    CATALOG = "catalog"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Route:
    """One parsed request.

    ``repository`` is set for all kinds but ping and catalog; ``reference`` is a tag or a
    digest for manifests, a digest for blobs and referrers. ``path`` and ``namespace``
    are what a ``Link`` to the next page has to repeat.
    """

    kind: Kind
    reference: Reference | None = None
    repository: Repository | None = None
    path: str = ""
    namespace: str | None = None
    query: tuple[tuple[str, str], ...] = ()

    def link(self, query: Sequence[tuple[str, str]]) -> str:
        """Return the URL, path and query, of this list with another query."""
        names = [("ns", self.namespace)] if self.namespace is not None else []
        return f"{self.path}?{urlencode([*query, *names])}"


@dataclass(frozen=True, slots=True)
class Table:
    """All names that a request may use for an upstream, and the upstream they mean."""

    names: Mapping[str, str]
    hosts: Mapping[str, str] = field(default_factory=dict)
    default: str = _HUB

    def parse(self, raw_path: str, raw_query: str, host: str) -> Route:
        """Read the path and query of a request as they came, still percent-encoded.

        Raises:
            NameUnknownError: no such route or upstream.
            NameInvalidError, TagInvalidError, DigestInvalidError: the grammar is broken.
        """
        prefix, rest = _split(raw_path, raw_query)
        query = _fields(raw_query)
        namespace = _single(query, "ns")
        upstream = self._named(namespace, prefix)
        if not rest:
            return Route(Kind.PING)
        if rest == "_catalog":
            return Route(Kind.CATALOG, path=raw_path, query=query)
        match = _OBJECT.fullmatch(rest)
        if match is None:
            raise NameUnknownError("there is nothing at this path")
        return Route(
            *_reference(match["kind"], match["reference"]),
            repository=self._repository(match["name"], upstream, host),
            path=raw_path,
            namespace=namespace,
            query=tuple((key, value) for key, value in query if key != "ns"),
        )

    def repository(self, name: str, host: str = "") -> Repository:
        """Return the repository that a path without anything else would name.

        Raises:
            NameUnknownError, NameInvalidError: there is none.
        """
        return self._repository(name, None, host)

    def _named(self, namespace: str | None, prefix: str) -> str | None:
        """Return the upstream that a request names: ``ns`` wins, both have to be known."""
        by_prefix = self._known(prefix) if prefix else None
        return by_prefix if namespace is None else self._known(namespace)

    def _known(self, name: str) -> str:
        upstream = self.names.get(name.lower())
        if upstream is None:
            raise NameUnknownError(f"this mirror has no upstream {name[:256]!r}")
        return upstream

    def _repository(self, name: str, upstream: str | None, host: str) -> Repository:
        first, _, rest = name.partition("/")
        leading = self.names.get(first) if rest else None
        if upstream is None:
            upstream = leading or self._unnamed(first, rest, host)
        if leading == upstream:
            name = rest
        if upstream == _HUB and "/" not in name:
            name = f"library/{name}"
        return Repository(upstream, name)

    def _unnamed(self, first: str, rest: str, host: str) -> str:
        # A host in front that we do not know is never part of a repository's name:
        # registry.corp.example/team/app must not be asked of Docker Hub.
        if rest and ("." in first or ":" in first or first == "localhost"):
            raise NameUnknownError(f"this mirror has no upstream {first[:256]!r}")
        host = host.lower()
        return self.hosts.get(host) or self.hosts.get(host.rpartition(":")[0]) or self.default


class Routes:
    """What has been parsed lately: nodes ask for the same few things over and over."""

    def __init__(self) -> None:
        self._table: Table | None = None
        self._known: dict[tuple[str, str, str], Route] = {}

    def of(self, table: Table, raw_path: str, raw_query: str, host: str) -> Route:
        """Return, and raise, what ``table.parse`` does."""
        if table is not self._table or len(self._known) >= _ROUTES_MAX:
            self._table, self._known = table, {}
        key = raw_path, raw_query, host
        route = self._known.get(key)
        if route is None:
            route = table.parse(raw_path, raw_query, host)
            if len(raw_path) + len(raw_query) + len(host) <= _KEY_MAX_CHARS:
                self._known[key] = route
        return route


def _split(raw_path: str, raw_query: str) -> tuple[str, str]:
    """Return what stands before and behind ``/v2``, decoded."""
    api = _API.fullmatch(raw_path)
    is_ascii = raw_path.isascii() and raw_query.isascii()  # RFC 3986; all else is encoded
    if api is None or not is_ascii or _FORBIDDEN_IN_PATH.search(raw_path):
        raise NameUnknownError("there is nothing at this path")
    return unquote(api["prefix"].lstrip("/")), unquote(api["rest"] or "")


def _fields(raw_query: str) -> tuple[tuple[str, str], ...]:
    try:
        return tuple(parse_qsl(raw_query, keep_blank_values=True, max_num_fields=64))
    except ValueError:
        raise NameUnknownError("the query has too many fields") from None


def _single(query: Sequence[tuple[str, str]], name: str) -> str | None:
    values = [value for key, value in query if key == name]
    if len(values) > 1:
        raise NameUnknownError(f"{name} is given more than once")
    return values[0] if values else None


def _reference(kind: str | None, text: str | None) -> tuple[Kind, Reference | None]:
    if kind is None or text is None:  # tags/list
        return Kind.TAGS, None
    if kind == "manifests":
        return Kind.MANIFEST, parse_reference(text)
    digest = Digest.parse(text)
    return (Kind.BLOB if kind == "blobs" else Kind.REFERRERS), digest
