"""Requests that are, byte for byte, what was asked before, and are answered from memory again.

Nodes ask for the same few manifests with the same head each time. To read it, to make objects and
a task of it and to route it is most of what such an answer costs. All of that follows from the
bytes and from the configuration, so it is done once. What may change in between is asked each
time: whether the content is still here, in memory, and may be served.

Only the plainest requests are remembered. Everything else, and everything that is not in memory,
goes the ordinary way (``registry.py``), which gives the same answers.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from mirror.domain.names import Digest
from mirror.domain.routing import Kind, Route, Table
from mirror.observe.metrics import Result
from mirror.observe.requests import PastRequest, Recorder
from mirror.runtime.acting import act_as
from mirror.service.ports import BlobSource, ManifestSource
from mirror.service.served import Served
from mirror.web.access import note, of_client
from mirror.web.answers import ALWAYS
from mirror.web.connections import Connection
from mirror.web.exchange import cache_status, new_request_id
from mirror.web.guard import Guard
from mirror.web.ready import date, lines

BLOB_TYPE: Final = "application/octet-stream"
_KNOWN_MAX: Final = 1024
_PLAIN: Final = frozenset({"host", "user-agent", "accept", "accept-encoding", "connection"})
"""Headers that have no say in the answer, or the same one each time."""
_HIT: Final = cache_status(Served(Result.HIT))


@dataclass(frozen=True, slots=True)
class _Known:
    """What a head means under a configuration, of which the table is the sign."""

    table: Table
    route: Route
    media_type: str
    length_bytes: int
    answer: str
    """The head of the answer, but for what is of the moment."""
    upstream: str
    repository: str
    reference: str
    kind: str
    fields: dict[str, object]
    """What the log says of the client."""


class Repeats:
    """Remembers heads of requests whose answer came from memory, and answers them."""

    def __init__(
        self,
        *,
        table: Callable[[], Table],
        manifests: ManifestSource,
        blobs: BlobSource,
        guard: Guard,
    ) -> None:
        self._table = table
        self._manifests = manifests
        self._blobs = blobs
        self._guard = guard
        self._known: dict[bytes, _Known] = {}

    def learn(
        self,
        request: web.BaseRequest,
        route: Route,
        table: Table | None,
        headers: dict[str, str],
        length_bytes: int,
    ) -> None:
        """Remember a request that has a ``Ready`` answer of such *headers* and length.

        *table* is where its route was found.
        """
        if table is None or table is not self._table():
            return  # the configuration is another one meanwhile
        head = request.protocol.head if isinstance(request.protocol, Connection) else None
        if head is None or route.repository is None or not _is_plain(request, route):
            return
        if headers["Cache-Status"] != _HIT or self._at_hand(route) is None:
            return
        while len(self._known) >= _KNOWN_MAX:
            del self._known[next(iter(self._known))]
        self._known[head] = _Known(
            table=table,
            route=route,
            media_type=headers["Content-Type"],
            length_bytes=length_bytes,
            answer=lines(200, headers | ALWAYS | {"Content-Length": str(length_bytes)}),
            upstream=route.repository.upstream,
            repository=route.repository.name,
            reference=str(route.reference),
            kind=route.kind.value,
            fields=of_client(request),
        )

    def answer(self, recorder: Recorder, connection: Connection, data: bytes) -> bool:
        """Answer what came on a connection that waits for a request, if it is known and hot."""
        known = self._known.get(data)
        if known is None or connection.certificate is not None:  # whose it is, the log has to say
            return False
        transport, began = connection.transport, time.monotonic()
        if transport is None or transport.is_closing() or transport.get_write_buffer_size():
            return False  # a client that takes nothing has to be waited for
        act_as(None)  # this is nobody's task, and a connection may have had another caller
        content = self._content(known)
        if content is None:
            del self._known[data]
            return False
        request_id = new_request_id()
        head = f"{known.answer}X-Request-Id: {request_id}\r\nDate: {date()}\r\n\r\n"
        transport.write(head.encode("latin-1", "replace") + content)
        seconds = time.monotonic() - began
        past = PastRequest(
            at=time.time(),
            request_id=request_id,
            client=connection.peer,
            method="GET",
            status=200,
            kind=known.kind,
            upstream=known.upstream,
            repository=known.repository,
            reference=known.reference,
            result=Result.HIT.value,
            reason="",
            sent_bytes=len(content),
            seconds=round(seconds, 6),
            waited_seconds=seconds,
            error="",
        )
        note(recorder, past, known.fields)
        return True

    def _content(self, known: _Known) -> bytes | None:
        """Return what is to be sent, if all is as it was."""
        if known.table is not self._table():
            return None
        found = self._at_hand(known.route)
        if found is None or found[0] != known.media_type or len(found[1]) != known.length_bytes:
            return None
        return found[1]

    def _at_hand(self, route: Route) -> tuple[str, bytes] | None:
        """Return type and bytes of what anybody may have, and for which nothing is waited for."""
        repository, digest = route.repository, route.reference
        if repository is None or not isinstance(digest, Digest):
            return None
        if not self._guard.is_for_all(repository):
            return None
        if route.kind is Kind.BLOB:
            content = self._blobs.at_hand(repository, digest)
            return None if content is None else (BLOB_TYPE, content)
        manifest = self._manifests.at_hand(repository, digest)
        return None if manifest is None else (manifest.media_type, manifest.content)


def _is_plain(request: web.BaseRequest, route: Route) -> bool:
    return (
        request.method == "GET"
        and isinstance(route.reference, Digest)  # what a tag means has its time
        and _PLAIN.issuperset(map(str.lower, request.headers))
    )
