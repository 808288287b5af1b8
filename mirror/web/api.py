"""What all routes of the admin API have in common: access, checked input, errors as JSON."""

from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from typing import Any, Final

import msgspec
from aiohttp import web

from mirror.domain.errors import MirrorError
from mirror.observe.logs import get_logger
from mirror.runtime.unreadable import UNREADABLE
from mirror.service.refusals import RefusalCode, RefusedError
from mirror.web.admin_access import Access
from mirror.web.errors import status_of
from mirror.web.openapi import JSON, Asked, Problem, ProblemBody, Route, document

PREFIX: Final = "/api/v1"
_STATUS: Final = {
    RefusalCode.INVALID: 400,
    RefusalCode.NOT_FOUND: 404,
    RefusalCode.BUSY: 409,
    RefusalCode.FULL: 503,
    RefusalCode.UNFIT: 422,
}
_FLAGS: Final = {"1": True, "true": True, "0": False, "false": False}
_SEE: Final = f"{PREFIX}/openapi.json lists what there is"
_log = get_logger("admin")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WrongInputError(Exception):
    """A query or a body that cannot be understood; the message says why."""


def api(access: Access, routes: Iterable[Route]) -> web.Application:
    """Return the application to be mounted at ``PREFIX``."""
    routes = tuple(routes)

    @cache  # made for the first who asks: hardly anybody does, and it would be 10 ms of each start
    def described() -> bytes:
        return document(PREFIX, routes)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = await access.refusal(request)
        if refusal is not None:
            headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
            problem = Problem(refusal.code, refusal.message, refusal.hint)
            return _failed(refusal.status, problem, headers)
        return await _answered(request, handler)

    async def describe(_request: web.Request) -> web.Response:
        return web.Response(body=described(), headers={"Content-Type": JSON})

    app = web.Application(middlewares=[guard])
    app.router.add_get("/openapi.json", describe)
    for route in routes:
        app.router.add_route(route.method, route.path, _checked(route))
    return app


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusedError as error:
        return _failed(_STATUS[error.code], Problem(error.code, error.message, error.hint))
    except MirrorError as error:
        hint = "`mirror explain` says what a pull would do"
        return _failed(status_of(error), Problem(error.code.lower(), str(error), hint))
    except WrongInputError as error:
        return _failed(400, Problem("invalid_request", str(error), _SEE))
    except web.HTTPException as error:
        headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
        return _failed(error.status, Problem("http", error.reason, _SEE), headers)
    except OSError as error:
        if isinstance(error, ConnectionError):
            raise  # the client has gone
        _log.error("the admin API failed", path=request.path, reason=str(error))
        reason = error.strerror or type(error).__name__
        return _failed(500, Problem("disk", f"the cache cannot be read or written: {reason}"))


def _failed(status: int, problem: Problem, headers: dict[str, str] | None = None) -> web.Response:
    body = msgspec.json.encode(ProblemBody(problem))
    return web.Response(status=status, body=body, headers={"Content-Type": JSON, **(headers or {})})


def _checked(route: Route) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await route.handler(request, await _asked(route, request))

    return handle


async def _asked(route: Route, request: web.Request) -> Asked:
    known = {each.name: each for each in route.parameters}
    for name in request.query:
        if name not in known:
            raise WrongInputError(f"there is no parameter {name[:64]!r}")
    texts, flags = {}, set()
    for name, parameter in known.items():
        given = tuple(request.query.getall(name, ()))
        if parameter.is_required and not any(given):
            raise WrongInputError(f"the parameter {name!r} is needed")
        if not parameter.is_flag:
            texts[name] = given
        elif given and _flag(name, given[-1]):
            flags.add(name)
    return Asked(texts, frozenset(flags), await _body(route, request))


def _flag(name: str, given: str) -> bool:
    try:
        return _FLAGS[given.lower()]
    except KeyError:
        raise WrongInputError(f"the parameter {name!r} is 0 or 1") from None


async def _body(route: Route, request: web.Request) -> Any:  # noqa: ANN401 -- route.body, checked
    if route.body is None:
        return None
    try:
        return msgspec.json.decode(await request.read(), type=route.body)
    except UNREADABLE as error:
        raise WrongInputError(f"the body is not what it should be: {error}") from None
