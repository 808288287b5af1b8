"""Clients that add as little as they can of their own; they run in a process of their own.

A download leaves the bytes in the kernel (``MSG_TRUNC``), so that the two cores of a small
machine are left to what is measured. ``digest`` reads and hashes; it is for checking only.
"""

from __future__ import annotations

import hashlib
import http.client
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Final
from urllib.parse import urlsplit

_PIECE_BYTES: Final = 1024 * 1024
_HEAD_MAX_BYTES: Final = 64 * 1024
_TIMEOUT_SECONDS: Final = 300
_DISCARD: Final = socket.MSG_TRUNC | socket.MSG_WAITALL


class ClientError(Exception):
    """The server did not deliver what was asked for, so there is nothing to measure."""


@dataclass(frozen=True)
class Downloads:
    """What some downloads of one thing at once came to; ``cpu_seconds`` are the client's own."""

    received_bytes: int
    wall_seconds: float
    first_byte_seconds: tuple[float, ...]
    cpu_seconds: float


def download(url: str, clients: int) -> Downloads:
    """Download *url* so many times at once, over connections that are open beforehand."""
    start = Barrier(clients + 1)
    cpu_seconds = time.process_time()
    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(_download, url, start) for _ in range(clients)]
        start.wait(_TIMEOUT_SECONDS)
        started = time.perf_counter()
        results = [one.result() for one in running]
        wall_seconds = time.perf_counter() - started
    return Downloads(
        sum(received for received, _ in results),
        wall_seconds,
        tuple(first_byte for _, first_byte in results),
        time.process_time() - cpu_seconds,
    )


def digest(url: str) -> str:
    """Return the digest of what *url* delivers."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        state = hashlib.sha256()
        while piece := answer.read(_PIECE_BYTES):
            state.update(piece)
        return f"sha256:{state.hexdigest()}"
    finally:
        connection.close()


def _download(url: str, start: Barrier) -> tuple[int, float]:
    """Return how many bytes came and after how many seconds the first one did."""
    parts = urlsplit(url)
    if parts.hostname is None or parts.port is None:
        raise ClientError(f"{url} has no host and port")
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    with socket.create_connection((parts.hostname, parts.port), _TIMEOUT_SECONDS) as connection:
        start.wait(_TIMEOUT_SECONDS)
        started = time.perf_counter()
        connection.sendall(request.encode("ascii"))
        size_bytes, received_bytes = _read_head(connection)
        if not received_bytes:
            received_bytes += connection.recv_into(bytearray(1))
        first_byte_seconds = time.perf_counter() - started
        _discard(connection, size_bytes - received_bytes)
    return size_bytes, first_byte_seconds


def _read_head(connection: socket.socket) -> tuple[int, int]:
    """Return the announced length and how much of the body came along with the head."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(_HEAD_MAX_BYTES)
        if not piece or len(data) > _HEAD_MAX_BYTES:
            raise ClientError("no answer")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if " 200 " not in status or "content-length" not in headers:
        raise ClientError(f"not a plain answer: {status} {body[:200]!r}")
    return int(headers["content-length"]), len(body)


def _discard(connection: socket.socket, count: int) -> None:
    buffer = bytearray(_PIECE_BYTES)  # nothing is written into it
    while count:
        taken = connection.recv_into(buffer, min(count, _PIECE_BYTES), _DISCARD)
        if not taken:
            raise ClientError(f"{count} bytes are missing")
        count -= taken
