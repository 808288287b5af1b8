"""Prefetches over HTTP: begin one, watch it, stop it."""

from contextlib import aclosing, suppress
from typing import Final

import msgspec
from aiohttp import web

from mirror.service.prefetch_job import JobFacts, Progress
from mirror.service.prefetching import Prefetcher, PrefetchWish
from mirror.web.openapi import JSON, SSE, Asked, Parameter, Route

_ID: Final = Parameter(name="id", description="Which one.", is_required=True)


class Prefetches(msgspec.Struct, frozen=True):
    """Prefetches that run, and the last ones; the latest first."""

    prefetches: tuple[JobFacts, ...]


class PrefetchApi:
    """The routes, and what they do."""

    def __init__(self, prefetcher: Prefetcher) -> None:
        self._prefetcher = prefetcher

    def routes(self) -> tuple[Route, ...]:
        """Return all routes."""
        return (
            Route(
                method="GET",
                path="/prefetch",
                summary="The prefetches that run, and the last ones.",
                handler=self._list,
                result=Prefetches,
            ),
            Route(
                method="POST",
                path="/prefetch",
                summary="Fetch images before they are pulled.",
                handler=self._start,
                result=JobFacts,
                body=PrefetchWish,
            ),
            Route(
                method="DELETE",
                path="/prefetch",
                summary="Stop a prefetch.",
                handler=self._cancel,
                result=JobFacts,
                parameters=(_ID,),
            ),
            Route(
                method="GET",
                path="/prefetch/progress",
                summary="How far a prefetch is, with all of its images.",
                handler=self._progress,
                result=Progress,
                parameters=(_ID,),
            ),
            Route(
                method="GET",
                path="/prefetch/events",
                summary="How far a prefetch is, as server-sent events until it ends; after the "
                "first one, only images that have changed.",
                handler=self._events,
                result=Progress,
                parameters=(_ID,),
                content_type=SSE,
            ),
        )

    async def _list(self, _request: web.Request, _asked: Asked) -> web.StreamResponse:
        return _answer(Prefetches(tuple(self._prefetcher.jobs())))

    async def _start(self, _request: web.Request, asked: Asked) -> web.StreamResponse:
        wish: PrefetchWish = asked.body
        return _answer(self._prefetcher.start(wish))

    async def _cancel(self, _request: web.Request, asked: Asked) -> web.StreamResponse:
        return _answer(await self._prefetcher.cancel(asked.texts["id"][-1]))

    async def _progress(self, _request: web.Request, asked: Asked) -> web.StreamResponse:
        return _answer(self._prefetcher.progress(asked.texts["id"][-1]))

    async def _events(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": SSE, "Cache-Control": "no-store"})
        with suppress(ConnectionError):  # whoever looked on may leave
            async with aclosing(self._prefetcher.watch(asked.texts["id"][-1])) as events:
                async for event in events:
                    if not response.prepared:  # not before: there may be no such prefetch
                        await response.prepare(request)
                    await response.write(b"data: " + msgspec.json.encode(event) + b"\n\n")
        return response


def _answer(result: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(result), headers={"Content-Type": JSON})
