"""A client that keeps every byte it got, so that a broken body can be judged, too."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.fakes.content import OCI_INDEX, OCI_MANIFEST

_BUFFER_BYTES: Final = 256 * 1024
_TIMEOUT_SECONDS: Final = 60
ACCEPT: Final = f"{OCI_MANIFEST}, {OCI_INDEX}"


@dataclass(frozen=True)
class Got:
    """What came; a status of 0 is no answer at all."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    announced_bytes: int = 0
    trouble: str = ""

    def __str__(self) -> str:
        size = f"{len(self.body)} of {self.announced_bytes} bytes"
        said = self.body[:160].decode(errors="replace") if self.status >= 400 else ""
        return f"{self.status}, {size}, {self.headers.get('cache-status')} {self.trouble}{said}"

    @property
    def is_whole(self) -> bool:
        """Whether a client would believe that it has everything."""
        return self.status in {200, 206} and len(self.body) == self.announced_bytes

    @property
    def is_hit(self) -> bool:
        """Whether the mirror says that it had it."""
        return "; hit" in self.headers.get("cache-status", "")


def ask(
    port: int,
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    limit_bytes: int | None = None,
) -> Got:
    """Ask a mirror on loopback; with *limit_bytes* hang up after so much of the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        answer = connection.getresponse()
        body, trouble = _read(answer, limit_bytes)
    except (OSError, http.client.HTTPException) as error:
        return Got(trouble=repr(error))
    finally:
        connection.close()
    names = {name.lower(): value for name, value in answer.getheaders()}
    announced_bytes = 0 if method == "HEAD" else int(names.get("content-length", "-1"))
    return Got(answer.status, names, body, announced_bytes, trouble)


def _read(answer: http.client.HTTPResponse, limit_bytes: int | None) -> tuple[bytes, str]:
    body = bytearray()
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    try:
        while count := answer.readinto(buffer):
            body += buffer[:count]
            if limit_bytes is not None and len(body) >= limit_bytes:
                break
    except (OSError, http.client.HTTPException) as error:
        return bytes(body), repr(error)
    return bytes(body), ""
