"""Referrers lists that we make ourselves: from the fallback tag, filtered, or of several.

Source: distribution-spec v1.1.1, "Listing Referrers" and "Referrers tag schema".
"""

import json
from typing import Final

from mirror.domain.errors import UpstreamTroubleError

EMPTY: Final = (
    b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
)

_UNREADABLE: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def filtered(index: bytes, artifact_type: str) -> bytes:
    """Return an index with only the manifests of one artifact type.

    Raises:
        UpstreamTroubleError: upstream sent something that is no index.
    """
    try:
        fields = json.loads(index)
        kept = [entry for entry in _entries(fields) if entry.get("artifactType") == artifact_type]
        return _written(fields, kept)
    except _UNREADABLE:
        raise UpstreamTroubleError("the referrers list is not an index") from None


def merged(index: bytes, other: bytes) -> bytes:
    """Return an index with the manifests of another one, too; as it is if it has them all.

    Raises:
        UpstreamTroubleError: one of them is no index.
    """
    try:
        fields = json.loads(index)
        entries = _entries(fields)
        known = {entry["digest"] for entry in entries}
        more = [entry for entry in _entries(json.loads(other)) if entry["digest"] not in known]
        return _written(fields, [*entries, *more]) if more else index
    except _UNREADABLE:
        raise UpstreamTroubleError("the referrers list is not an index") from None


def _written(fields: dict[str, list[dict[str, object]] | None], entries: object) -> bytes:
    whole = {**fields, "manifests": entries}
    return json.dumps(whole, separators=(",", ":"), allow_nan=False).encode()


def _entries(fields: dict[str, list[dict[str, object]] | None]) -> list[dict[str, object]]:
    entries = fields["manifests"]
    if entries is None:  # Go writes a slice without entries as null
        return []
    if not isinstance(entries, list):
        raise TypeError
    return entries
