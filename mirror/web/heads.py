"""Heads of requests as they come, before anybody has read them."""

import re
from typing import Final

HEAD_MAX_BYTES: Final = 2048
"""Longer heads are not remembered."""
_MORE: Final = re.compile(
    rb"[\r\n][ \t]*(?:content-length|transfer-encoding|upgrade|expect)", re.IGNORECASE
)
"""What may come behind a head and belong to the request."""


def is_one_head(data: bytes) -> bool:
    """Return whether this is the head of one request, all of it, and nothing can follow."""
    return (
        data.startswith((b"GET ", b"HEAD "))
        and data.find(b"\r\n\r\n") == len(data) - 4
        and data.count(b"\n") == data.count(b"\r\n")  # another reader might end it there
        and _MORE.search(data) is None
    )
