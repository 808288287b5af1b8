"""Referrers lists that we make ourselves: from the fallback tag, or filtered.

Source: distribution-spec v1.1.1, "Listing Referrers" and "Referrers tag schema".
"""

import json
from typing import Final

from mirror.domain.errors import UpstreamTroubleError

EMPTY: Final = (
    b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
)


def filtered(index: bytes, artifact_type: str) -> bytes:
    """Return an index with only the manifests of one artifact type.

    Raises:
        UpstreamTroubleError: upstream sent something that is no index.
    """
    try:
        fields = json.loads(index)
        kept = [entry for entry in _entries(fields) if entry.get("artifactType") == artifact_type]
        return json.dumps(
            {**fields, "manifests": kept}, separators=(",", ":"), allow_nan=False
        ).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UpstreamTroubleError("the referrers list is not an index") from None


def _entries(fields: dict[str, list[dict[str, object]] | None]) -> list[dict[str, object]]:
    entries = fields["manifests"]
    if entries is None:  # Go writes a slice without entries as null
        return []
    if not isinstance(entries, list):
        raise TypeError
    return entries
