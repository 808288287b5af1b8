"""The one line of log and the one observation of each request.

aiohttp's access logger is the place: it runs when the last byte is out.
"""

import logging
import time
from collections.abc import Mapping
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from mirror.observe.logs import clean, line
from mirror.observe.requests import PastRequest, Recorder
from mirror.web.exchange import Facts, facts_of

_ROOM: Final = "access"


def access_logger(recorder: Recorder) -> type[AbstractAccessLogger]:
    """Return the class that aiohttp makes its access logger of."""

    class AccessLog(AbstractAccessLogger):
        """Given to the runner as ``access_log_class``."""

        def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
            """Record that *request* was answered, *time* seconds after its head came."""
            facts = facts_of(request)
            past, more = _past(request, response, time, facts), _more(request, facts)
            if facts.cut:
                note(recorder, past, more, logging.WARNING, "answer cut short")
            elif facts.left:
                note(recorder, past, more, logging.INFO, "client left")
            else:
                note(recorder, past, more)

    return AccessLog


def note(
    recorder: Recorder,
    past: PastRequest,
    more: Mapping[str, object],
    level: int = logging.INFO,
    event: str = "request",
) -> None:
    """Record that a request was answered, and say so in the log, with *more* that is clean."""
    recorder.record(past)
    # Names have been checked against their grammar; what clients may write freely is cleaned.
    fields: dict[str, object] = {
        "request_id": past.request_id,
        "client": past.client,
        "method": past.method,
        "status": past.status,
        "kind": past.kind,
        "upstream": past.upstream,
        "repository": past.repository,
        "reference": past.reference,
        "result": past.result,
        "sent_bytes": past.sent_bytes,
        "seconds": past.seconds,
        **more,
    }
    line(_ROOM, level, event, fields)


def of_client(request: web.BaseRequest) -> dict[str, object]:
    """Return what the log says of a client that may write what it likes."""
    return {"user_agent": clean(request.headers.get("User-Agent", "")[:200])}


def _more(request: web.BaseRequest, facts: Facts) -> dict[str, object]:
    """Return what the log says beside what every request has."""
    fields = of_client(request)
    if facts.trail.endpoint:
        fields |= {"endpoint": facts.trail.endpoint, "pulls": facts.trail.pulls}
    if facts.identity is not None:
        fields["user"] = clean(facts.identity.user)
    if facts.certificate is not None:
        fields["certificate"] = clean(facts.certificate.subject[:200])
    if facts.error:
        fields["error"] = clean(facts.error)
    if not facts.repository:
        # As it came: decoded it may hold what a terminal takes for a command (case S19).
        fields["path"] = clean(request.raw_path.partition("?")[0][:500])
    return fields


def _past(
    request: web.BaseRequest, response: web.StreamResponse, seconds: float, facts: Facts
) -> PastRequest:
    return PastRequest(
        time.time(),
        facts.request_id,
        request.remote or "",
        request.method,
        response.status,
        facts.kind.value,
        facts.upstream,
        facts.repository,
        facts.reference,
        facts.result.value,
        facts.reason,
        facts.sent_bytes,
        round(seconds, 6),
        facts.first_byte_seconds,
        facts.error,
        facts.trail.endpoint,
        facts.trail.pulls,
    )
