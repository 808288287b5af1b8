"""One request and its answer on the registry listener: the facts, the headers, the bytes."""

import itertools
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from mirror.domain.access import Identity
from mirror.domain.certificates import ClientCertificate
from mirror.domain.errors import ErrorCode
from mirror.domain.routing import Kind, Table
from mirror.observe.metrics import Result
from mirror.runtime.trail import Trail
from mirror.service.served import Served
from mirror.web.connections import Connection

_PROCESS: Final = secrets.token_hex(4)
_numbers: Final = itertools.count(1)
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_RESULT_WORDS: Final = {
    Result.HIT: "hit",
    Result.MISS: "stored",
    Result.JOINED: "collapsed",
    Result.REVALIDATED: "fwd-status=200",
    Result.PASSTHROUGH: "detail=passthrough",
}


@dataclass(slots=True)
class Facts:
    """What becomes known of a request; the access log and the metrics are made of it."""

    request_id: str
    started: float = field(default_factory=time.monotonic)
    kind: Kind = Kind.OTHER
    upstream: str = ""
    repository: str = ""
    reference: str = ""
    identity: Identity | None = None
    """Who asks, if he had to prove it."""
    result: Result = Result.ERROR
    sent_bytes: int = 0
    first_byte_seconds: float | None = None
    reason: str = ""
    """Why a stale answer is one."""
    error: str = ""
    cut: bool = False
    """The connection was closed before the announced end."""
    table: Table | None = None
    """What its route was found in."""
    trail: Trail = field(default_factory=Trail)
    """What it made upstream do."""
    left: bool = False
    """The client went away before the end, as parallel range readers do all the time."""
    certificate: ClientCertificate | None = None
    """Of the client, verified; ``None`` without ``client_ca``."""

    def head_is_out(self) -> None:
        """Note the moment at which the head of the answer goes out."""
        self.first_byte_seconds = time.monotonic() - self.started


def new_request_id() -> str:
    """Return the name of a request whose client gave it none."""
    return f"{_PROCESS}{next(_numbers):08x}"


FACTS: Final = web.RequestKey("facts", Facts)


def facts_of(request: web.BaseRequest) -> Facts:
    """Return the facts of a request, begun now if need be."""
    facts = request.get(FACTS)
    if facts is None:
        given = request.headers.get("X-Request-Id", "")
        facts = Facts(given if _REQUEST_ID.fullmatch(given) else new_request_id())
        if isinstance(request.protocol, Connection):
            facts.certificate = request.protocol.certificate
        request[FACTS] = facts
    return facts


def cache_status(served: Served) -> str:
    """Return the value of a Cache-Status header (RFC 9211)."""
    ttl = "" if served.ttl_seconds is None else f"; ttl={int(served.ttl_seconds)}"
    if served.result is Result.STALE:
        return f"mirror; hit{ttl}; detail={served.reason}"
    word = _RESULT_WORDS[served.result]
    if served.result is Result.MISS and not served.kept:
        word = "fwd-status=200"
    if served.forwarded is None:
        return f"mirror; {word}{ttl}"
    return f"mirror; fwd={served.forwarded}; {word}"


def served_headers(served: Served) -> dict[str, str]:
    """Return the headers that say how an answer came about."""
    headers = {"Cache-Status": cache_status(served)}
    if served.result is Result.STALE:
        headers["Warning"] = f'299 - "stale: {served.reason}"'
    return headers


def error_status(code: ErrorCode) -> str:
    """Return the Cache-Status of an answer without content: RFC 9211 leaves ``detail`` to us."""
    return f"mirror; detail={code}"
