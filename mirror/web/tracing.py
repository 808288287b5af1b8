"""The span of a request on the registry listener."""

from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import web

from mirror.observe import tracing
from mirror.observe.tracing import Fact
from mirror.web.exchange import Facts, facts_of

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def traced(handle: Handler) -> Handler:
    """Return a handler whose requests are traced, or the same one if nobody wants that."""
    return partial(_traced, handle) if tracing.is_on() else handle


async def _traced(handle: Handler, request: web.BaseRequest) -> web.StreamResponse:
    """Answer a request within a span, below the one that the client names (W3C traceparent)."""
    facts = facts_of(request)
    span = tracing.begin(f"{request.method} registry", tracing.Kind.SERVER, request.headers)
    try:
        with span.current():
            response = await handle(request)
    except BaseException as error:  # the client that leaves, too
        span.fail(type(error).__name__)
        raise
    else:
        span.set({"http.response.status_code": response.status})
        if response.status >= 500 or facts.cut:
            span.fail(facts.error or "the connection was closed before the end")
        return response
    finally:
        span.rename(f"{request.method} {facts.kind}")
        span.set(_facts(request, facts))
        span.end()


def _facts(request: web.BaseRequest, facts: Facts) -> dict[str, Fact | None]:
    """Return what is told: of the URL the path alone, of the headers the user agent."""
    return {
        "http.request.method": request.method,
        "url.path": request.raw_path.partition("?")[0][:500],
        "client.address": request.remote,
        "user_agent.original": request.headers.get("User-Agent", "")[:200],
        "mirror.request_id": facts.request_id,
        "mirror.kind": facts.kind.value,
        "mirror.upstream": facts.upstream,
        "mirror.repository": facts.repository,
        "mirror.reference": facts.reference,
        "mirror.result": facts.result.value,
        "mirror.stale_reason": facts.reason,
        "mirror.sent_bytes": facts.sent_bytes,
        "mirror.client_left": facts.left,
    }
