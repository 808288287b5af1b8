"""A reverse proxy before a registry: it counts, and it can misbehave on demand."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from .loop_thread import LoopThread, Server

CHUNK_BYTES = 256 * 1024
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"}
)
OBJECT = re.compile(r"/v2/.+/(manifests|blobs)/[^/]+")


@dataclass
class Record:
    """One request that reached upstream; status is 0 until upstream has answered."""

    method: str
    path: str
    query: str
    authorized: bool
    status: int = 0
    sent_bytes: int = 0

    @property
    def is_object_get(self) -> bool:
        """Whether this took a manifest or a blob, which a warm cache must not do."""
        return self.method == "GET" and OBJECT.fullmatch(self.path) is not None


@dataclass
class Hold:
    """Stops the bodies of one blob after some bytes until it is released."""

    after_bytes: int
    loop: asyncio.AbstractEventLoop
    reached: threading.Event = field(default_factory=threading.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let the rest of the body go."""
        self.loop.call_soon_threadsafe(self.gate.set)


class CountingProxy(Server):
    """Stands between mirror and registry."""

    def __init__(self, loop: LoopThread, port: int, registry: str) -> None:
        super().__init__(loop, port)
        self.records: list[Record] = []
        self._registry = registry
        self._silent = False
        self._flips: set[str] = set()
        self._holds: dict[str, Hold] = {}
        self._session: aiohttp.ClientSession | None = None

    def flip(self, digest: str) -> None:
        """Turn one bit in the middle of every body of a blob."""
        self._flips.add(digest)

    def mend(self) -> None:
        """Flip no more."""
        self._flips.clear()

    def silence(self) -> None:
        """Accept connections and requests, and never answer any more."""
        self._silent = True

    def hold(self, digest: str, after_bytes: int) -> Hold:
        """Stop bodies of a blob after some bytes."""
        self._holds[digest] = Hold(after_bytes, self.loop.loop)
        return self._holds[digest]

    def forget(self) -> None:
        """Start counting anew."""
        self.records = []

    def object_gets(self) -> list[str]:
        """Return the paths of the manifests and blobs that were taken."""
        return [record.path for record in self.records if record.is_object_get]

    def blob_gets(self, digest: str) -> list[Record]:
        """Return the downloads of one blob."""
        return [
            record
            for record in self.records
            if record.method == "GET" and record.path.endswith(f"/blobs/{digest}")
        ]

    def blob_bytes(self, digest: str) -> int:
        """Return how many bytes of one blob went out."""
        return sum(record.sent_bytes for record in self.blob_gets(digest))

    def application(self) -> web.Application:
        app = web.Application()
        app.cleanup_ctx.append(self._open_session)
        app.router.add_route("*", "/{path:.*}", self._forward)
        return app

    @asynccontextmanager
    async def _upstream(self, request: web.Request) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None
        async with self._session.request(
            request.method,
            self._registry + request.raw_path,
            headers=[item for item in request.headers.items() if item[0].lower() not in HOP_BY_HOP],
            data=await request.read() or None,
            allow_redirects=False,
        ) as answer:
            yield answer

    async def _open_session(self, _app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(),
            connector=aiohttp.TCPConnector(limit=0),
        ) as self._session:
            yield

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        record = Record(
            request.method, request.path, request.query_string, "Authorization" in request.headers
        )
        self.records.append(record)
        if self._silent:
            await asyncio.Event().wait()
        async with self._upstream(request) as answer:
            record.status = answer.status
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            for name, value in answer.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    response.headers.add(name, value)
            await response.prepare(request)
            if request.method != "HEAD":
                # A mirror may hang up at any time; what it took until then is counted.
                with suppress(ConnectionResetError):
                    await self._send_body(record, answer, response)
        return response

    async def _send_body(
        self, record: Record, answer: aiohttp.ClientResponse, response: web.StreamResponse
    ) -> None:
        digest = record.path.rpartition("/")[2]
        flip_at = _middle(answer) if digest in self._flips else -1
        async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
            await self._wait_for_release(digest, record)
            await response.write(_flipped(chunk, flip_at - record.sent_bytes))
            record.sent_bytes += len(chunk)

    async def _wait_for_release(self, digest: str, record: Record) -> None:
        hold = self._holds.get(digest)
        if hold is not None and record.sent_bytes >= hold.after_bytes:
            hold.reached.set()
            await hold.gate.wait()


def _middle(answer: aiohttp.ClientResponse) -> int:
    """Return the place of the middle byte of the whole blob in this, perhaps partial, body."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
    if found:
        return int(found[2]) // 2 - int(found[1])
    return (answer.content_length or 0) // 2


def _flipped(chunk: bytes, at: int) -> bytes:
    if not 0 <= at < len(chunk):
        return chunk
    return chunk[:at] + bytes([chunk[at] ^ 1]) + chunk[at + 1 :]
