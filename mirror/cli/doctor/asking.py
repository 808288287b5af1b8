"""One short request to a mirror, past every proxy; blocks, so it is asked in a thread."""

import http.client
import socket
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

_READ_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Told:
    """An answer; ``body`` is what was kept of it."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    size_bytes: int

    def header(self, name: str) -> str:
        """Return a header, or the empty text."""
        return next(
            (value for key, value in self.headers.items() if key.lower() == name.lower()), ""
        )


class NoAnswerError(Exception):
    """Nobody answered, or not to the end; the message says why."""


def ask(
    url: str,
    limit_seconds: float,
    headers: Mapping[str, str] | None = None,
    *,
    keep_bytes: int = 1024 * 1024,
    see: Callable[[bytes], object] = lambda _: None,
) -> Told:
    """GET a URL; *see* is given all of the body, of which *keep_bytes* are kept.

    Raises:
        NoAnswerError: no connection, no HTTP, or an end before the announced one.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    try:
        # Not urllib, which would ask the proxy of the environment.
        with closing(kind(parts.hostname or "", parts.port, timeout=limit_seconds)) as connection:
            connection.request("GET", path, headers=dict(headers or {}))
            answer = connection.getresponse()
            kept, size_bytes = bytearray(), 0
            while chunk := answer.read(_READ_BYTES):
                see(chunk)
                size_bytes += len(chunk)
                kept += chunk[: keep_bytes - len(kept)]
            if answer.length:
                raise NoAnswerError(f"{url} ended {answer.length} bytes too early")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise NoAnswerError(f"{url}: {_reason(error)}") from None
    return Told(answer.status, answer.reason, dict(answer.getheaders()), bytes(kept), size_bytes)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError | socket.timeout):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
