"""Lists of tags and of referrers, page by page."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode

from tests.fakes.answers import Answer
from tests.fakes.content import OCI_INDEX, Descriptor, Manifest, digest_of
from tests.fakes.wire import Recorded


@dataclass(frozen=True, slots=True)
class Page:
    """Some entries, and the query of the page after them."""

    entries: Sequence[object]
    next_query: str | None = None


def tag_page(names: Sequence[str], asked: str | None, last: str | None, limit: int | None) -> Page:
    """Return what ``n`` and ``last`` ask for, with at most *limit* tags."""
    rest = [name for name in names if last is None or name > last]
    sizes = [size for size in (int(asked) if asked else None, limit) if size is not None]
    size = min(sizes, default=None)
    if asked == "0":
        return Page([])
    if size is None or len(rest) <= size:
        return Page(rest)
    return Page(rest[:size], urlencode({"n": size, "last": rest[size - 1]}))


def referrers_page(found: Sequence[Descriptor], request: Recorded, limit: int | None) -> Page:
    """Return the page that the private parameter ``page`` asks for."""
    start = int(request.parameter("page") or 0)
    if limit is None or len(found) <= start + limit:
        return Page(found[start:])
    others = [(key, value) for key, value in request.parameters if key != "page"]
    return Page(found[start : start + limit], urlencode([*others, ("page", start + limit)]))


def referrers_index(entries: Sequence[object]) -> Answer:
    return Answer(headers=[("Content-Type", OCI_INDEX)], body=_index(entries))


def _index(entries: Sequence[object]) -> bytes:
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}
    return json.dumps(document, separators=(",", ":")).encode()


def fallback_tag(digest: str) -> str:
    """Return the tag under which clients keep referrers that a registry does not know."""
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm[:32]}-{encoded[:64]}"


@dataclass(slots=True)
class Referrers:
    """Which manifests name which subject."""

    _found: dict[tuple[str, str], dict[str, Descriptor]] = field(default_factory=dict)

    def learn(self, repository: str, manifest: Manifest) -> None:
        try:
            document = json.loads(manifest.content)
        except ValueError:
            return
        subject = document.get("subject") if isinstance(document, dict) else None
        if not isinstance(subject, dict):
            return
        config = document.get("config") or {}
        more = {"artifactType": document.get("artifactType") or config.get("mediaType", "")}
        if "annotations" in document:
            more["annotations"] = document["annotations"]
        entries = self._found.setdefault((repository, str(subject["digest"])), {})
        entries[manifest.digest] = manifest.descriptor(**more)

    def forget(self, repository: str, digest: str) -> None:
        for (holder, _), entries in self._found.items():
            if holder == repository:
                entries.pop(digest, None)

    def of(self, repository: str, digest: str, artifact_type: str | None) -> list[Descriptor]:
        entries = self._found.get((repository, digest), {}).values()
        return [e for e in entries if artifact_type in {None, e["artifactType"]}]

    def fallback_tags(self, repository: str) -> dict[str, Manifest]:
        tags = {}
        for (holder, subject), entries in self._found.items():
            if holder == repository:
                content = _index(list(entries.values()))
                tags[fallback_tag(subject)] = Manifest(
                    content=content, media_type=OCI_INDEX, digest=digest_of(content)
                )
        return tags
