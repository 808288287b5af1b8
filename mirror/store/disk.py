"""What the index may hold: strings as keys and bytes as values, never a pickle.

diskcache pickles what it does not know and unpickles whatever stands in the database, which
runs code (CVE-2025-69872). Here neither can happen.
"""

from typing import Any

import diskcache
from diskcache.core import MODE_RAW


class PickleForbiddenError(Exception):
    """A row of the index was not written by this program, or could not be read by it."""


class NoPickleDisk(diskcache.Disk):
    """Keys are strings and values are bytes; nothing else goes in or comes out."""

    def put(self, key: Any) -> Any:  # noqa: ANN401 -- diskcache's signature
        """Refuse keys that diskcache would pickle."""
        if not isinstance(key, str):
            raise PickleForbiddenError(f"not a string: {type(key)}")
        return super().put(key)

    def get(self, key: Any, raw: bool) -> Any:  # noqa: ANN401, FBT001 -- diskcache's signature
        """Refuse keys that were pickled."""
        if not raw or not isinstance(key, str):
            raise PickleForbiddenError("a key is not a string")
        return super().get(key, raw)

    def store(self, value: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 -- as above
        """Refuse values that diskcache would pickle."""
        if not isinstance(value, bytes):
            raise PickleForbiddenError(f"not bytes: {type(value)}")
        return super().store(value, *args, **kwargs)

    def fetch(self, mode: Any, filename: Any, value: Any, read: Any) -> Any:  # noqa: ANN401 -- as above
        """Refuse values that were pickled, and those that stand in other files."""
        if mode != MODE_RAW or not isinstance(value, bytes):
            raise PickleForbiddenError("a value is not bytes")
        return super().fetch(mode, filename, value, read)
