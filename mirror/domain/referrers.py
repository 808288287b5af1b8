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
        kept = [entry for entry in fields["manifests"] if _type_of(entry) == artifact_type]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UpstreamTroubleError("the referrers list is not an index") from None
    return json.dumps({**fields, "manifests": kept}, separators=(",", ":")).encode()


def _type_of(entry: dict[str, object]) -> object:
    return entry.get("artifactType")
