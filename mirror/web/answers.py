"""What answers of the registry listener are made of: heads, small bodies, conditions, ranges."""

from collections.abc import Iterable
from typing import Final

from aiohttp import hdrs, web

from mirror.domain.errors import ErrorCode
from mirror.domain.names import Digest
from mirror.domain.ranges import Span, Unsatisfiable, select
from mirror.domain.routing import Route
from mirror.observe.metrics import Result
from mirror.web.errors import error_body
from mirror.web.exchange import Facts, error_status
from mirror.web.ready import Ready, fits

ALWAYS: Final = {
    "Docker-Distribution-API-Version": "registry/2.0",
    "Server": "mirror",  # and not the versions of Python and aiohttp
}
"""What every answer carries, beside the number of its request."""


def small(
    request: web.BaseRequest, facts: Facts, status: int, headers: dict[str, str], body: bytes
) -> web.StreamResponse:
    """Return a small answer; to a HEAD it has the length of the body but no body."""
    headers = {**headers, **common(facts)}
    if status < 400 and fits(request):
        return _ready(request, facts, status, headers, body)
    response = web.Response(status=status, headers=headers)
    if status != 304:
        response.body = body  # to a HEAD, aiohttp sends its length alone
        if status < 400 and request.method == "GET":
            facts.sent_bytes = len(body)
    facts.head_is_out()
    return response


def _ready(
    request: web.BaseRequest, facts: Facts, status: int, headers: dict[str, str], body: bytes
) -> Ready:
    if status == 304:
        body = b""
    else:
        headers["Content-Length"] = str(len(body))
    if request.method == "HEAD":
        body = b""
    facts.sent_bytes = len(body)
    facts.head_is_out()
    return Ready(status, headers, body)


def error(
    request: web.BaseRequest,
    facts: Facts,
    status: int,
    code: ErrorCode,
    headers: dict[str, str],
) -> web.StreamResponse:
    """Return the JSON of an error; what is said is what was noted for the log."""
    own = {"Content-Type": "application/json", "Cache-Status": error_status(code)}
    return small(request, facts, status, {**own, **headers}, error_body(code, facts.error))


def blob_head(
    request: web.BaseRequest, facts: Facts, headers: dict[str, str], size_bytes: int | None
) -> web.StreamResponse:
    """Return the answer to a HEAD for a blob, and to who has it already."""
    # Not a Response: that would announce a length of 0 where none is known.
    response = web.StreamResponse(headers={**headers, **common(facts)})
    if size_bytes is not None:
        response.content_length = size_bytes
    if has_already(request, headers["Docker-Content-Digest"]):
        response.set_status(304)
    facts.head_is_out()
    return response


def unsatisfiable(
    request: web.BaseRequest, facts: Facts, headers: dict[str, str], size_bytes: int | None
) -> web.StreamResponse:
    """Return the answer to a range that begins after the end."""
    facts.result = Result.ERROR
    kept = {name: headers[name] for name in ("Cache-Status", "Docker-Content-Digest")}
    kept["Content-Range"] = f"bytes */{size_bytes}"
    return small(request, facts, 416, kept, b"")


# --- headers ---------------------------------------------------------------------------------


def common(facts: Facts) -> dict[str, str]:
    """Return what every answer carries."""
    return {**ALWAYS, "X-Request-Id": facts.request_id}


def identity(digest: Digest) -> dict[str, str]:
    """Return what names the content of an answer."""
    return {"Docker-Content-Digest": str(digest), "ETag": f'"{digest}"'}


def namespace(route: Route) -> dict[str, str]:
    """Return the configured name of the upstream where the client asked by ``ns``."""
    if route.namespace is None or route.repository is None:
        return {}
    return {"OCI-Namespace": route.repository.upstream}


def has_already(request: web.BaseRequest, digest: Digest | str) -> bool:
    """Tell whether the client says that it has this content (RFC 9110 section 13.1.2)."""
    lines: Iterable[str] = request.headers.getall(hdrs.IF_NONE_MATCH, [])
    etags = {part.strip().removeprefix("W/") for line in lines for part in line.split(",")}
    return f'"{digest}"' in etags or "*" in etags


def span(
    request: web.BaseRequest, size_bytes: int | None, digest: str
) -> Span | Unsatisfiable | None:
    """Return the part that a client asks for; ``None``: all of it."""
    lines = request.headers.getall(hdrs.RANGE, [])
    if len(lines) != 1 or size_bytes is None or request.method != "GET":
        return None
    if request.headers.get(hdrs.IF_RANGE, f'"{digest}"') != f'"{digest}"':
        return None  # the client has a part of something else (RFC 9110 section 13.1.5)
    return select(lines[0], size_bytes)
