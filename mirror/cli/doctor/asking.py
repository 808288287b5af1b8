"""One short request to a mirror, past every proxy; blocks, so it is asked in a thread."""

import http.client
import ssl
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from mirror.cli.admin_connection import admin_connection
from mirror.settings import ListenAddress, ServerTls

_READ_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """Where a mirror listens: one of this configuration, or one at some URL."""

    url: str
    """Without a path."""
    address: ListenAddress | None = None
    tls: ServerTls | None = None
    """Of the configuration: the very certificate in it is believed, whatever its name."""
    insecure: bool = False

    @classmethod
    def here(cls, address: ListenAddress, tls: ServerTls | None) -> "Place":
        """Return the place of a listener of this machine."""
        local = address.local()
        return cls(f"{'http' if tls is None else 'https'}://{local}", local, tls)

    def connection(self, limit_seconds: float) -> http.client.HTTPConnection:
        """Return a connection that is not open yet, and goes past every proxy."""
        if self.address is not None:
            return admin_connection(self.address, self.tls, limit_seconds)
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme != "https":
            return http.client.HTTPConnection(host, port, timeout=limit_seconds)
        context = ssl.create_default_context()
        if self.insecure:  # no secret is sent, and what comes back is checked by its digest
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(host, port, timeout=limit_seconds, context=context)


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
    place: Place,
    path: str,
    limit_seconds: float,
    headers: Mapping[str, str] | None = None,
    *,
    keep_bytes: int = 1024 * 1024,
    see: Callable[[bytes], object] = lambda _: None,
) -> Told:
    """GET a path; *see* is given all of the body, of which *keep_bytes* are kept.

    Raises:
        NoAnswerError: no connection, no HTTP, or an end before the announced one.
    """
    url = f"{place.url}{path}"
    try:
        with closing(place.connection(limit_seconds)) as connection:
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
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
