"""Clients that add as little as they can of their own; they run in a process of their own.

A download leaves the bytes in the kernel (``MSG_TRUNC``), so that the two cores of a small
machine are left to what is measured; over TLS the bytes are not even decrypted. ``digest`` reads
and hashes; it is for checking only.
"""

from __future__ import annotations

import hashlib
import http.client
import selectors
import socket
import ssl
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier, Event
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

_PIECE_BYTES: Final = 1024 * 1024
_HEAD_MAX_BYTES: Final = 64 * 1024
_TIMEOUT_SECONDS: Final = 300
_TICK_SECONDS: Final = 0.25


class ClientError(Exception):
    """The server did not deliver what was asked for, so there is nothing to measure."""


@dataclass(frozen=True)
class Downloads:
    """What some downloads at once came to; ``cpu_seconds`` are the client's own."""

    received_bytes: int
    wall_seconds: float
    first_byte_seconds: tuple[float, ...]
    cpu_seconds: float


def download(url: str, clients: int, size_bytes: int = 0) -> Downloads:
    """Download *url* so many times at once, over connections that are open beforehand.

    Over TLS, where no length can be read, *size_bytes* says when it is enough.
    """
    return download_all([url] * clients, size_bytes)


def download_all(urls: Sequence[str], size_bytes: int = 0) -> Downloads:
    """Download each of *urls* at once, over connections that are open beforehand."""
    start = Barrier(len(urls) + 1)
    cpu_seconds = time.process_time()
    with ThreadPoolExecutor(len(urls)) as pool:
        running = [pool.submit(_download, url, start, size_bytes) for url in urls]
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
    connection = _connection(parts)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise ClientError(f"{url}: {answer.status} {answer.read(200)!r}")
        state = hashlib.sha256()
        while piece := answer.read(_PIECE_BYTES):
            state.update(piece)
        return f"sha256:{state.hexdigest()}"
    finally:
        connection.close()


def answers(url: str) -> bool:
    """Return whether a server answers requests; some listen before they can."""
    connection = _connection(urlsplit(url))
    try:
        connection.request("GET", "/v2/")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def _connection(parts: SplitResult) -> http.client.HTTPConnection:
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT_SECONDS)
    return http.client.HTTPSConnection(parts.netloc, timeout=_TIMEOUT_SECONDS, context=_trusting())


def _trusting() -> ssl.SSLContext:
    """Return the rules for a server that is ours: its certificate is not looked at."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _request(parts: SplitResult) -> bytes:
    head = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    return head.encode("ascii")


def _connected(parts: SplitResult) -> socket.socket:
    if parts.hostname is None or parts.port is None:
        raise ClientError(f"{parts.geturl()} has no host and port")
    return socket.create_connection((parts.hostname, parts.port), _TIMEOUT_SECONDS)


def _download(url: str, start: Barrier, enough_bytes: int) -> tuple[int, float]:
    """Return how many bytes came and after how many seconds the first one did."""
    parts = urlsplit(url)
    with _connected(parts) as connection:
        if parts.scheme == "https":
            return _download_sealed(connection, parts, start, enough_bytes)
        start.wait(_TIMEOUT_SECONDS)
        started = time.perf_counter()
        connection.sendall(_request(parts))
        size_bytes, received_bytes = _read_head(connection)
        if not received_bytes:
            received_bytes += connection.recv_into(bytearray(1))
        first_byte_seconds = time.perf_counter() - started
        _discard(connection, size_bytes - received_bytes)
    return size_bytes, first_byte_seconds


def _download_sealed(
    connection: socket.socket, parts: SplitResult, start: Barrier, enough_bytes: int
) -> tuple[int, float]:
    """Download over TLS and throw the records away as they are; returns their length.

    The end of the connection is not waited for: a server waits for us to say good-bye.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = _trusting().wrap_bio(incoming, outgoing, server_hostname=parts.hostname)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            connection.sendall(outgoing.read())
            incoming.write(connection.recv(_HEAD_MAX_BYTES))
    tls.write(_request(parts))
    start.wait(_TIMEOUT_SECONDS)
    started = time.perf_counter()
    connection.sendall(outgoing.read())
    received_bytes, first_byte_seconds = 0, 0.0
    buffer = bytearray(_PIECE_BYTES)
    while received_bytes < enough_bytes:
        taken = connection.recv_into(buffer, _PIECE_BYTES, socket.MSG_TRUNC)
        if not taken:
            raise ClientError(f"{enough_bytes - received_bytes} bytes are missing")
        first_byte_seconds = first_byte_seconds or time.perf_counter() - started
        received_bytes += taken
    return received_bytes, first_byte_seconds


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
        flags = socket.MSG_TRUNC | socket.MSG_WAITALL
        taken = connection.recv_into(buffer, min(count, _PIECE_BYTES), flags)
        if not taken:
            raise ClientError(f"{count} bytes are missing")
        count -= taken


class SlowReaders:
    """Many clients that take so many bytes a second each; enter it to have them."""

    def __init__(self, url: str, clients: int, bytes_per_second: int) -> None:
        self._parts = urlsplit(url)
        self._clients = clients
        self._take_bytes = int(bytes_per_second * _TICK_SECONDS)
        self._leave = Event()
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self._connections = [_connected(self._parts) for _ in range(self._clients)]
        for connection in self._connections:
            # A small window, so that the bytes wait where they are measured.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 * 1024)
            connection.sendall(_request(self._parts))
            connection.settimeout(0)
        self._taking = self._pool.submit(self._take)
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self._taking.result()
        for connection in self._connections:
            connection.close()
        self._pool.shutdown()

    def _take(self) -> None:
        buffer = bytearray(self._take_bytes)
        while not self._leave.wait(_TICK_SECONDS):
            with selectors.DefaultSelector() as ready:
                for connection in self._connections:
                    ready.register(connection, selectors.EVENT_READ)
                for key, _ in ready.select(0):
                    key.fileobj.recv_into(buffer, self._take_bytes, socket.MSG_TRUNC)  # type: ignore[union-attr] # all are sockets


def beside_slow_readers(
    url: str, clients: int, bytes_per_second: int, settle_seconds: float, pids: Sequence[int]
) -> tuple[Downloads, int]:
    """Download once beside many slow clients; returns that, and the memory of *pids* meanwhile."""
    with SlowReaders(url, clients, bytes_per_second):
        time.sleep(settle_seconds)
        done = download(url, 1)
        return done, sum(map(_rss_bytes, pids))


def _rss_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * 4096
    except FileNotFoundError:
        return 0  # nginx has a process that ends when it has looked through its cache
