"""How the mirror does, over HTTP: asked for once, or as a stream of events."""

import asyncio
from typing import Final

import msgspec
from aiohttp import web

from mirror.clients.shown import ClientFiles, client_files
from mirror.observe.requests import PastRequests
from mirror.runtime.pools import Pool
from mirror.service.feed import Feed
from mirror.service.overview import FillFacts, Overseer, Overview, UpstreamFacts
from mirror.web.api import WrongInputError
from mirror.web.openapi import JSON, SSE, Asked, Parameter, Route

_STREAM_SECONDS: Final = 900
"""After so long a listener has to come again, and show its token again."""
_STALL_SECONDS: Final = 15
_REQUESTS_MAX: Final = 100
_COUNT_MAX: Final = 10_000


class RunningFills(msgspec.Struct, frozen=True):
    """The downloads that are running, the oldest first."""

    fills: tuple[FillFacts, ...]


class UpstreamList(msgspec.Struct, frozen=True):
    """How the upstreams do, in the order of the configuration."""

    upstreams: tuple[UpstreamFacts, ...]


class ClientList(msgspec.Struct, frozen=True):
    """How clients are pointed at this mirror."""

    address: str
    is_https: bool
    clients: tuple[ClientFiles, ...]


class OverviewApi:
    """The routes, and what they do."""

    def __init__(self, overseer: Overseer, past: PastRequests, pool: Pool) -> None:
        self._overseer = overseer
        self._past = past
        self._pool = pool
        self._told = 0
        self.feed = Feed(self._news)

    def routes(self) -> tuple[Route, ...]:
        """Return all routes."""
        return (
            Route(
                method="GET",
                path="/overview",
                summary="How the mirror does, with what went through in the last hour.",
                handler=self._overview,
                result=Overview,
            ),
            Route(
                method="GET",
                path="/events",
                summary="The overview once a second, and the requests that have been answered "
                "since: server-sent events `overview` and `requests`.",
                handler=self._events,
                result=Overview,
                parameters=(Parameter(name="count", description="End after so many overviews."),),
                content_type=SSE,
            ),
            Route(
                method="GET",
                path="/fills",
                summary="The downloads that are running.",
                handler=self._fills,
                result=RunningFills,
            ),
            Route(
                method="GET",
                path="/upstreams",
                summary="How the upstreams do.",
                handler=self._upstreams,
                result=UpstreamList,
            ),
            Route(
                method="GET",
                path="/clients",
                summary="Files that point clients at this mirror.",
                handler=self._clients,
                result=ClientList,
                parameters=(
                    Parameter(
                        name="address",
                        description="HOST:PORT by which clients reach the registry listener.",
                        is_required=True,
                    ),
                    Parameter(name="https", description="It has a certificate.", is_flag=True),
                ),
            ),
        )

    async def _overview(self, _request: web.Request, _asked: Asked) -> web.StreamResponse:
        return await self._answer(await self._overseer.look(with_history=True))

    async def _fills(self, _request: web.Request, _asked: Asked) -> web.StreamResponse:
        return await self._answer(RunningFills(self._overseer.fills()))

    async def _upstreams(self, _request: web.Request, _asked: Asked) -> web.StreamResponse:
        return await self._answer(UpstreamList(await self._overseer.upstreams()))

    async def _clients(self, _request: web.Request, asked: Asked) -> web.StreamResponse:
        *_, address = asked.texts["address"]
        is_https = "https" in asked.flags
        names = [each.upstream for each in await self._overseer.upstreams()]
        try:
            clients = client_files(address, names, is_https=is_https)
        except ValueError as error:
            raise WrongInputError(f"the parameter 'address': {error}") from None
        return await self._answer(ClientList(address, is_https, clients))

    async def _answer(self, result: msgspec.Struct) -> web.Response:
        body = await self._pool.run(msgspec.json.encode, result)
        return web.Response(body=body, headers={"Content-Type": JSON})

    # --- events ----------------------------------------------------------------------------

    async def _news(self) -> bytes:
        overview = await self._overseer.look(with_history=False)
        count, self._told = self._past.count - self._told, self._past.count
        requests = self._past.latest(min(count, _REQUESTS_MAX)) if count > 0 else []
        return await self._pool.run(_events_of, overview, requests)

    async def _events(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        left = _count(asked)
        with self.feed.listening():
            if self.feed.listeners == 1:
                self._told = self._past.count
            # A proxy that collects the answer would hold it for ever (nginx listens to this).
            headers = {"Content-Type": SSE, "X-Accel-Buffering": "no"}
            response = web.StreamResponse(headers={**headers, "Cache-Control": "no-store"})
            try:
                await response.prepare(request)
                await self._tell(response, left)
            except (ConnectionError, TimeoutError):
                _close(request)
        return response

    async def _tell(self, response: web.StreamResponse, left: int | None) -> None:
        loop, number = asyncio.get_running_loop(), 0
        ends_at = loop.time() + _STREAM_SECONDS
        while loop.time() < ends_at and (left is None or left > 0):
            news = await self.feed.after(number)
            if news is None:
                return
            number, events = news
            async with asyncio.timeout(_STALL_SECONDS):
                await response.write(events)
            left = None if left is None else left - 1


def _close(request: web.Request) -> None:
    # Not at leisure: a listener that takes nothing would keep what is buffered for it.
    if request.transport is not None:
        request.transport.abort()


def _count(asked: Asked) -> int | None:
    if not asked.texts["count"]:
        return None
    *_, count = asked.texts["count"]
    if not (count.isascii() and count.isdigit() and 0 < int(count[:9]) <= _COUNT_MAX):
        raise WrongInputError(f"the parameter 'count' is a number from 1 to {_COUNT_MAX}")
    return int(count)


def _events_of(overview: Overview, requests: object) -> bytes:
    lines = [b"event: overview\ndata: ", msgspec.json.encode(overview), b"\n\n"]
    if requests:
        lines += [b"event: requests\ndata: ", msgspec.json.encode(requests), b"\n\n"]
    return b"".join(lines)
