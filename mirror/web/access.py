"""The one line of log and the one observation of each request.

aiohttp's access logger is the place: it runs when the last byte is out.
"""

import time

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from mirror.observe.logs import get_logger
from mirror.observe.requests import PastRequest, Recorder
from mirror.web.exchange import facts_of

_log = get_logger("access")


def access_logger(recorder: Recorder) -> type[AbstractAccessLogger]:
    """Return the class that aiohttp makes its access logger of."""

    class AccessLog(AbstractAccessLogger):
        """Given to the runner as ``access_log_class``."""

        def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
            """Record that *request* was answered, *time* seconds after its head came."""
            facts = facts_of(request)
            recorder.record(_past(request, response, time))
            if facts.cut:
                _log.warning("answer cut short", **_fields(request, response, time))
            elif facts.left:
                _log.info("client left", **_fields(request, response, time))
            else:
                _log.info("request", **_fields(request, response, time))

    return AccessLog


def _fields(
    request: web.BaseRequest, response: web.StreamResponse, seconds: float
) -> dict[str, object]:
    facts = facts_of(request)
    fields: dict[str, object] = {
        "request_id": facts.request_id,
        "client": request.remote,
        "method": request.method,
        "status": response.status,
        "kind": facts.kind.value,
        "upstream": facts.upstream,
        "repository": facts.repository,
        "reference": facts.reference,
        "result": facts.result.value,
        "sent_bytes": facts.sent_bytes,
        "seconds": round(seconds, 6),
        "user_agent": request.headers.get("User-Agent", "")[:200],
    }
    if facts.trail.endpoint:
        fields |= {"endpoint": facts.trail.endpoint, "pulls": facts.trail.pulls}
    if facts.identity is not None:
        fields["user"] = facts.identity.user
    if facts.certificate is not None:
        fields["certificate"] = facts.certificate.subject[:200]
    if facts.error:
        fields["error"] = facts.error
    if not facts.repository:
        # As it came: decoded it may hold what a terminal takes for a command (PROTOCOL S19).
        fields["path"] = request.raw_path.partition("?")[0][:500]
    return fields


def _past(request: web.BaseRequest, response: web.StreamResponse, seconds: float) -> PastRequest:
    facts = facts_of(request)
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
