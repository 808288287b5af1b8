"""The registry listener: ``/v2/…`` for reading, and nothing else."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from aiohttp import hdrs, web

from mirror.domain.errors import (
    BodyInvalidError,
    ErrorCode,
    LoopError,
    MirrorError,
    NameUnknownError,
    NotAcceptableError,
    RateLimitedError,
)
from mirror.domain.media import accepts
from mirror.domain.names import Digest, Repository
from mirror.domain.ranges import Unsatisfiable
from mirror.domain.routing import Kind, Route, Routes, Table
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Result
from mirror.runtime import trail, via
from mirror.service.ports import BlobSource, Listing, ListSource, ManifestSource, Patience
from mirror.service.served import Served
from mirror.transfer.parts import Body, FilePart, ReadyBody
from mirror.web import answers
from mirror.web.errors import code_of, error_headers, status_of
from mirror.web.exchange import Facts, facts_of, served_headers
from mirror.web.guard import TOKEN_PATH, Guard, GuardTerms
from mirror.web.presence import has_left, while_there
from mirror.web.ready import Ready
from mirror.web.repeats import BLOB_TYPE, Repeats
from mirror.web.sending import Sender
from mirror.web.targets import in_origin_form
from mirror.web.token_endpoint import issue

_YEAR: Final = "max-age=31536000, immutable"
_AT_ONCE_BYTES: Final = 64 * 1024
"""A larger answer waits for its client, so it goes where waiting has a limit."""
_LEFT_STATUS: Final = 499
"""What nginx notes of a client that did not wait for its answer."""
_log = get_logger("web")

Handler = Callable[[web.BaseRequest, Route, Facts], Awaitable[web.StreamResponse]]


class RegistryApi:
    """Parse, ask, answer."""

    def __init__(
        self,
        *,
        table: Callable[[], Table],
        manifests: ManifestSource,
        blobs: BlobSource,
        lists: ListSource,
        sender: Sender,
        policies: Patience,
        guard: Guard,
        catalog: bool,
        body_seconds: float,
    ) -> None:
        self._table = table
        self._guard = guard
        self._manifests = manifests
        self._blobs = blobs
        self._lists = lists
        self._sender = sender
        self.catalog_is_open = catalog
        self._body_seconds = body_seconds
        self._policies = policies
        self._routes = Routes()
        self.repeats = Repeats(table=table, manifests=manifests, blobs=blobs, guard=guard)
        self._handlers: dict[Kind, Handler] = {
            Kind.PING: self._ping,
            Kind.MANIFEST: self._manifest,
            Kind.BLOB: self._blob,
            Kind.TAGS: self._tags,
            Kind.REFERRERS: self._referrers,
            Kind.CATALOG: self._catalog,
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        facts = facts_of(request)
        try:
            return await self._answer(request, facts)
        except MirrorError as error:
            facts.error, facts.result = str(error), Result.ERROR
            response = answers.error(
                request, facts, self._status(error), code_of(error), error_headers(error)
            )
            if isinstance(error, BodyInvalidError):
                response.force_close()  # where the next request begins is not known
            return response
        except Exception as error:  # noqa: BLE001 -- the isolation point: a bug answers 503, once
            if isinstance(error, ConnectionError) and has_left(request):
                facts.left = True
                return web.Response(status=_LEFT_STATUS)  # for the log: nobody will get it
            _log.exception("a request failed unexpectedly", request_id=facts.request_id)
            facts.error, facts.result = f"internal error, request {facts.request_id}", Result.ERROR
            return answers.error(request, facts, 503, ErrorCode.UNKNOWN, {})

    def _status(self, error: MirrorError) -> int:
        """Return the status of an error; who may be told to wait is, by ``on_rate_limit``."""
        if isinstance(error, RateLimitedError) and self._policies.waits(error.upstream):
            return 429
        return status_of(error)

    async def _answer(self, request: web.BaseRequest, facts: Facts) -> web.StreamResponse:
        if not request.raw_path.startswith("/"):
            request = in_origin_form(request)
        path, _, query = request.raw_path.partition("?")
        if path == TOKEN_PATH and not self._guard.terms.is_open:
            return await self._token(request, facts, self._guard.terms)
        if request.method not in {"GET", "HEAD"}:
            facts.error = "this mirror is for reading: GET and HEAD only"
            return answers.error(request, facts, 405, ErrorCode.UNSUPPORTED, {"Allow": "GET, HEAD"})
        chain = ", ".join(request.headers.getall(hdrs.VIA, []))
        if via.is_loop(chain):
            raise LoopError
        via.incoming.set(chain)
        facts.trail = trail.begin()
        table = facts.table = self._table()
        route = self._routes.of(table, path, query, request.headers.get(hdrs.HOST, ""))
        facts.kind = route.kind
        if route.repository is not None:
            facts.upstream, facts.repository = route.repository.upstream, route.repository.name
            facts.reference = str(route.reference or "")
        await self._guard.admit(request, route, facts)
        return await self._handlers[route.kind](request, route, facts)

    async def _token(
        self, request: web.BaseRequest, facts: Facts, terms: GuardTerms
    ) -> web.StreamResponse:
        if request.method not in {"GET", "POST"}:
            facts.error = "tokens are given to GET and POST"
            return answers.error(request, facts, 405, ErrorCode.UNSUPPORTED, {"Allow": "GET, POST"})
        body, facts.identity = await issue(
            request, terms, self._guard.passes, self._table(), self._body_seconds
        )
        facts.result = Result.HIT
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        return answers.small(
            request, facts, 200, {**headers, **served_headers(Served(Result.HIT))}, body
        )

    async def _ping(
        self, request: web.BaseRequest, _route: Route, facts: Facts
    ) -> web.StreamResponse:
        facts.result = Result.HIT
        headers = {"Content-Type": "application/json", **served_headers(Served(Result.HIT))}
        return answers.small(request, facts, 200, headers, b"{}")

    async def _manifest(
        self, request: web.BaseRequest, route: Route, facts: Facts
    ) -> web.StreamResponse:
        repository, reference = _repository(route), route.reference
        if reference is None:
            raise NameUnknownError("there is nothing at this path")
        manifest, served = await self._manifests.resolve(repository, reference)
        if not accepts(request.headers.getall(hdrs.ACCEPT, []), manifest.media_type):
            raise NotAcceptableError(manifest.media_type)
        facts.result, facts.reason = served.result, served.reason or ""
        headers = {
            "Content-Type": manifest.media_type,
            **answers.identity(manifest.digest),
            **served_headers(served),
            **answers.namespace(route),
        }
        return await self._content(request, route, facts, headers, manifest.content)

    async def _blob(
        self, request: web.BaseRequest, route: Route, facts: Facts
    ) -> web.StreamResponse:
        repository, digest = _repository(route), _digest(route)
        headers = {
            "Content-Type": BLOB_TYPE,
            "Accept-Ranges": "bytes",
            "Cache-Control": _YEAR,
            **answers.identity(digest),
            **answers.namespace(route),
        }
        if request.method == "HEAD" or answers.has_already(request, digest):
            # Who has the bytes already must not make us fetch them.
            size_bytes, served = await self._blobs.size_bytes(repository, digest)
            facts.result = served.result
            return answers.blob_head(
                request, facts, {**headers, **served_headers(served)}, size_bytes
            )
        body, served = await while_there(request, self._blobs.open(repository, digest))
        facts.result = served.result
        headers |= served_headers(served)
        if isinstance(body, ReadyBody):
            return await self._content(request, route, facts, headers, body.content)
        try:
            return await self._send_blob(request, facts, headers, body)
        finally:
            await body.close()

    async def _send_blob(
        self, request: web.BaseRequest, facts: Facts, headers: dict[str, str], body: Body
    ) -> web.StreamResponse:
        span = answers.span(request, body.size_bytes, headers["Docker-Content-Digest"])
        if isinstance(span, Unsatisfiable):
            return answers.unsatisfiable(request, facts, headers, body.size_bytes)
        response = web.StreamResponse(headers={**headers, **answers.common(facts)})
        response.content_length = body.size_bytes
        if span is not None and body.size_bytes is not None:
            response.set_status(206)
            response.content_length = span.length_bytes
            response.headers["Content-Range"] = span.content_range(body.size_bytes)
        await self._sender.send(request, response, body.parts(span), facts)
        return response

    async def _content(
        self,
        request: web.BaseRequest,
        route: Route,
        facts: Facts,
        headers: dict[str, str],
        content: bytes,
    ) -> web.StreamResponse:
        """Answer with the conditions and ranges that blobs have, too."""
        if answers.has_already(request, headers["Docker-Content-Digest"]):
            return answers.small(request, facts, 304, headers, b"")
        span = answers.span(request, len(content), headers["Docker-Content-Digest"])
        if isinstance(span, Unsatisfiable):
            return answers.unsatisfiable(request, facts, headers, len(content))
        if span is None:
            response = await self._whole(request, facts, 200, headers, content)
            if isinstance(response, Ready):
                self.repeats.learn(request, route, facts.table, headers, len(content))
            return response
        headers["Content-Range"] = span.content_range(len(content))
        return await self._whole(request, facts, 206, headers, content[span.start : span.stop])

    async def _whole(
        self,
        request: web.BaseRequest,
        facts: Facts,
        status: int,
        headers: dict[str, str],
        content: bytes,
    ) -> web.StreamResponse:
        """Answer with bytes that are in memory."""
        if len(content) <= _AT_ONCE_BYTES or request.method == "HEAD":
            return answers.small(request, facts, status, headers, content)
        response = web.StreamResponse(status=status, headers={**headers, **answers.common(facts)})
        response.content_length = len(content)
        await self._sender.send(request, response, _one_part(content), facts)
        return response

    async def _tags(
        self, request: web.BaseRequest, route: Route, facts: Facts
    ) -> web.StreamResponse:
        asked = self._lists.tags(_repository(route), route.query)
        listing, served = await while_there(request, asked)
        return await self._listing(request, route, facts, listing, served)

    async def _referrers(
        self, request: web.BaseRequest, route: Route, facts: Facts
    ) -> web.StreamResponse:
        asked = self._lists.referrers(_repository(route), _digest(route), route.query)
        listing, served = await while_there(request, asked)
        return await self._listing(request, route, facts, listing, served)

    async def _catalog(
        self, request: web.BaseRequest, route: Route, facts: Facts
    ) -> web.StreamResponse:
        if not self.catalog_is_open:
            raise NameUnknownError("the catalogue is closed (server.catalog: false)")
        listing = await self._lists.catalog(route.query, self._guard.viewer(facts.identity))
        return await self._listing(request, route, facts, listing, Served(Result.HIT))

    async def _listing(
        self, request: web.BaseRequest, route: Route, facts: Facts, listing: Listing, served: Served
    ) -> web.StreamResponse:
        facts.result, facts.reason = served.result, served.reason or ""
        headers = {
            "Content-Type": listing.media_type,
            **served_headers(served),
            **answers.namespace(route),
        }
        if listing.next_query is not None:
            headers["Link"] = f'<{route.link(listing.next_query)}>; rel="next"'
        if listing.filtered:
            headers["OCI-Filters-Applied"] = "artifactType"
        return await self._whole(request, facts, 200, headers, listing.content)


def _repository(route: Route) -> Repository:
    if route.repository is None:
        raise NameUnknownError("there is nothing at this path")
    return route.repository


def _digest(route: Route) -> Digest:
    if not isinstance(route.reference, Digest):
        raise NameUnknownError("there is nothing at this path")
    return route.reference


async def _one_part(content: bytes) -> AsyncGenerator[FilePart | bytes, None]:
    yield content
