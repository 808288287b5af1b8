"""Many large blobs from a process of its own, and many readers in others: cheap on both sides.

``python -m tests.e2e.bulk BLOBS SIZE`` serves that many blobs of so many bytes, and writes its
port and the digests as one line of JSON once it is ready.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, Final, Self
from urllib.parse import unquote, urlsplit

REPOSITORY: Final = "library/bulk"
_STEP_BYTES: Final = 100_003
_BUFFER_BYTES: Final = 1 << 20
_PROJECT: Final = Path(__file__).parents[2]


class Bulk:
    """The serving process, and the digests of what it has."""

    def __init__(self, blobs: int, size_bytes: int) -> None:
        command = [sys.executable, "-m", "tests.e2e.bulk", str(blobs), str(size_bytes)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_PROJECT)
        assert self._process.stdout is not None
        ready = json.loads(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{ready['port']}"
        self.digests: list[str] = ready["digests"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def read_all(port: int, digests: Sequence[str], readers: int) -> list[str]:
    """Download and hash all of *digests*, *readers* at once; returns what went wrong."""
    with ThreadPoolExecutor(readers) as pool:
        return [trouble for trouble in pool.map(lambda one: _read(port, one), digests) if trouble]


def _read(port: int, digest: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    buffer, state, count = memoryview(bytearray(_BUFFER_BYTES)), hashlib.sha256(), 0
    try:
        connection.request("GET", f"/v2/{REPOSITORY}/blobs/{digest}")
        answer = connection.getresponse()
        while taken := answer.readinto(buffer):
            state.update(buffer[:taken])
            count += taken
    except (OSError, http.client.HTTPException) as error:
        return f"{digest}: {error!r} after {count} bytes"
    finally:
        connection.close()
    if answer.status == 200 and f"sha256:{state.hexdigest()}" == digest:
        return ""
    return f"{digest}: {answer.status} with {count} of {answer.headers['Content-Length']} bytes"


class _Handler(BaseHTTPRequestHandler):
    """Answers for blobs, whole or from a byte on; each is a slice of one pool of noise."""

    protocol_version = "HTTP/1.1"
    blobs: ClassVar[dict[str, memoryview]] = {}

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        content = self._answer()
        if content is not None:
            self.wfile.write(content)

    def handle(self) -> None:
        """Answer until the client leaves, however it does that."""
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def _answer(self) -> memoryview | None:
        content = self.blobs.get(unquote(urlsplit(self.path).path.rpartition("/")[2]))
        if content is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        size = len(content)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        self.send_response(200 if asked is None else 206)
        if asked is not None:
            content = content[int(asked[1]) :]
            self.send_header("Content-Range", f"bytes {asked[1]}-{size - 1}/{size}")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/octet-stream")
        self.end_headers()
        return content


def _serve(blobs: int, size_bytes: int) -> None:
    pool = memoryview(random.Random(1).randbytes(size_bytes + blobs * _STEP_BYTES))
    slices = [pool[at * _STEP_BYTES : at * _STEP_BYTES + size_bytes] for at in range(blobs)]
    with ThreadPoolExecutor() as hashing:  # hashlib lets go of the GIL
        hashes = list(hashing.map(lambda one: hashlib.sha256(one).hexdigest(), slices))
    digests = [f"sha256:{one}" for one in hashes]
    _Handler.blobs = dict(zip(digests, slices, strict=True))
    ThreadingHTTPServer.request_queue_size = 128
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        sys.stdout.write(json.dumps({"port": server.server_port, "digests": digests}) + "\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
