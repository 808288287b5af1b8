"""Downloads that notice everything: length, digest, and an end that came too early."""

from __future__ import annotations

import hashlib
import http.client
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

BUFFER_BYTES = 1024 * 1024
STALL_SECONDS = 120


@dataclass(frozen=True)
class Got:
    """What came of a download; a status of 0 is a connection without an answer."""

    status: int
    announced_bytes: int
    received_bytes: int
    digest: str

    @property
    def complete(self) -> bool:
        """Whether a client would believe that it has everything."""
        return self.status == 200 and self.received_bytes == self.announced_bytes


@dataclass
class Download:
    """A download that tells when its head is here and goes on by itself."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    head: threading.Event = field(default_factory=threading.Event)

    def run(self) -> Got:
        """Download to the end, whatever end it is."""
        try:
            return self._run()
        finally:
            self.head.set()

    def _run(self) -> Got:
        parts = urlsplit(self.url)
        assert parts.hostname
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=STALL_SECONDS)
        try:
            connection.request("GET", parts.path, headers=self.headers)
            answer = connection.getresponse()
            self.head.set()
            return _read(answer)
        except (ConnectionError, http.client.HTTPException):
            return Got(0, 0, 0, "")
        finally:
            connection.close()


def _read(answer: http.client.HTTPResponse) -> Got:
    announced = int(answer.headers.get("Content-Length", "-1"))
    received, state = 0, hashlib.sha256()
    buffer = memoryview(bytearray(BUFFER_BYTES))
    try:
        while count := answer.readinto(buffer):
            state.update(buffer[:count])
            received += count
    except ConnectionError:
        pass  # what counts is how much came
    return Got(answer.status, announced, received, f"sha256:{state.hexdigest()}")


def begin(pool: ThreadPoolExecutor, url: str, count: int) -> list[tuple[Download, Future[Got]]]:
    """Begin some downloads of the same thing, and return when all have their head."""
    downloads = [Download(url) for _ in range(count)]
    running = [(download, pool.submit(download.run)) for download in downloads]
    for download in downloads:
        assert download.head.wait(STALL_SECONDS)
    return running


def piece(url: str, start: int, size: int) -> bytes:
    """Ask for everything from *start*, read *size* bytes, and hang up, as containerd 2.1 does."""
    parts = urlsplit(url)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=STALL_SECONDS)
    try:
        connection.request("GET", parts.path, headers={"Range": f"bytes={start}-"})
        answer = connection.getresponse()
        assert answer.status == 206, answer.status
        assert answer.headers["Content-Range"].startswith(f"bytes {start}-")
        return answer.read(size)
    finally:
        connection.close()
