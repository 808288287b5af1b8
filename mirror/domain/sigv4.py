"""AWS Signature Version 4 for requests whose body is at hand.

Source: AWS, "Create a signed AWS API request" (IAM User Guide); the vectors of its test suite
are in the tests.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class AwsKey:
    """What signs: an access key, and the token of its session if it is a temporary one."""

    key_id: str = field(repr=False)
    secret: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class SigningScope:
    """For what a signature is good: the region and the service, by the names of AWS."""

    region: str
    service: str

    def text(self, day: str) -> str:
        """Return the credential scope of one day."""
        return f"{day}/{self.region}/{self.service}/aws4_request"


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A request before it is signed; its URL is encoded and has no dots in its path."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""


def signed_headers(
    request: Unsigned, key: AwsKey, scope: SigningScope, at: datetime
) -> dict[str, str]:
    """Return the headers of *request* and those that sign it, made at the time *at* (UTC)."""
    stamp = at.strftime("%Y%m%dT%H%M%SZ")
    day = stamp[:8]
    headers = {name.lower(): " ".join(value.split()) for name, value in request.headers.items()}
    headers |= {"host": urlsplit(request.url).netloc, "x-amz-date": stamp}
    if key.session_token is not None:
        headers["x-amz-security-token"] = key.session_token
    names = ";".join(sorted(headers))
    canonical = _canonical(request, headers)
    to_sign = "\n".join([_ALGORITHM, stamp, scope.text(day), _hex(canonical.encode())])
    signature = hmac.new(signing_key(key.secret, day, scope), to_sign.encode(), "sha256")
    headers["authorization"] = (
        f"{_ALGORITHM} Credential={key.key_id}/{scope.text(day)}, "
        f"SignedHeaders={names}, Signature={signature.hexdigest()}"
    )
    return headers


def signing_key(secret: str, day: str, scope: SigningScope) -> bytes:
    """Return the key of one day (``YYYYMMDD``), region and service."""
    key = f"AWS4{secret}".encode()
    for part in (day, scope.region, scope.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _canonical(request: Unsigned, headers: Mapping[str, str]) -> str:
    parts = urlsplit(request.url)
    query = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    )
    return "\n".join(
        [
            request.method,
            parts.path or "/",
            "&".join(f"{name}={value}" for name, value in query),
            *(f"{name}:{headers[name]}" for name in sorted(headers)),
            "",
            ";".join(sorted(headers)),
            _hex(request.body),
        ]
    )


def _hex(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
