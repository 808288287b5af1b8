"""Keyed hashes of secrets: what is remembered of a credential instead of the credential.

The key lives as long as the process and is written nowhere, so what is remembered is of no use
to whoever gets hold of it.
"""

import hashlib
import hmac
import secrets
from typing import Final

_KEY_BYTES: Final = 32


class Fingerprints:
    """Hashes with one key; processes that share what they remember share the key."""

    def __init__(self, key: bytes | None = None) -> None:
        self.key = key or secrets.token_bytes(_KEY_BYTES)

    def of(self, *parts: str) -> bytes:
        """Return the hash of texts, which no other texts have."""
        mac = hmac.new(self.key, digestmod=hashlib.sha256)
        for part in parts:
            encoded = part.encode("utf-8", "surrogatepass")
            mac.update(len(encoded).to_bytes(8, "big") + encoded)
        return mac.digest()
