"""A signed JWT that asks Google for an access token (RFC 7523).

A module of its own because cryptography takes long to import, and few need it.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
_LIFETIME_SECONDS: Final = 600


def assertion(key: Mapping[str, str], now: float) -> str:
    """Return what proves that we have the key of a service account; takes milliseconds.

    Args:
        key: The fields of Google's file that names an RSA key.
        now: In seconds since the epoch.

    Raises:
        ValueError: its private key is not one.
    """
    try:
        private_key = load_pem_private_key(key["private_key"].encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("not a private key") from None
    if not isinstance(private_key, rsa.RSAPrivateKey):
        raise ValueError("not an RSA key")  # noqa: TRY004 -- its content, not its type
    header = {"alg": "RS256", "typ": "JWT", "kid": key.get("private_key_id")}
    claims = {
        "iss": key["client_email"],
        "scope": _SCOPE,
        "aud": key["token_uri"],
        "iat": int(now),
        "exp": int(now) + _LIFETIME_SECONDS,
    }
    signed = f"{_encoded(header)}.{_encoded(claims)}"
    signature = private_key.sign(signed.encode(), padding.PKCS1v15(), SHA256())
    return f"{signed}.{_base64url(signature)}"


def _encoded(part: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(part).encode())


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
