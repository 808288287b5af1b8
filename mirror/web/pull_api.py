"""Pulls over HTTP, for scripts and the command line: budgets, explanations, past requests."""

from typing import Final

import msgspec
from aiohttp import web

from mirror.observe.requests import KEPT, PastRequest, PastRequests
from mirror.service.pull_admin import AccountRate, Explanation, PullAdmin, Refreshed
from mirror.web.api import WrongInputError
from mirror.web.openapi import JSON, Asked, Parameter, Route

_REF: Final = Parameter(name="ref", description="The image.", is_required=True)


class Rates(msgspec.Struct, frozen=True):
    """The budgets of all accounts."""

    rates: tuple[AccountRate, ...]


class Requests(msgspec.Struct, frozen=True):
    """The last requests, the latest first."""

    requests: tuple[PastRequest, ...]


class RefreshWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tag to ask upstream for."""

    image: str


class PullApi:
    """The routes, and what they do."""

    def __init__(self, pulls: PullAdmin, past: PastRequests) -> None:
        self._pulls = pulls
        self._past = past

    def routes(self) -> tuple[Route, ...]:
        """Return all routes."""
        return (
            Route(
                method="GET",
                path="/ratelimit",
                summary="How many pulls the upstreams still allow.",
                handler=self._rates,
                result=Rates,
            ),
            Route(
                method="GET",
                path="/explain",
                summary="What the next pull of an image would do, and why.",
                handler=self._explain,
                result=Explanation,
                parameters=(_REF,),
            ),
            Route(
                method="GET",
                path="/requests",
                summary="The last requests of clients.",
                handler=self._requests,
                result=Requests,
                parameters=(
                    Parameter(name="repository", description="Only of upstream/name."),
                    Parameter(name="limit", description=f"How many, up to {KEPT}."),
                ),
            ),
            Route(
                method="POST",
                path="/cache/refresh",
                summary="Ask upstream what a tag means.",
                handler=self._refresh,
                result=Refreshed,
                body=RefreshWish,
            ),
        )

    async def _rates(self, _request: web.Request, _asked: Asked) -> web.StreamResponse:
        return _answer(Rates(tuple(self._pulls.rates())))

    async def _explain(self, _request: web.Request, asked: Asked) -> web.StreamResponse:
        *_, reference = asked.texts["ref"]
        return _answer(await self._pulls.explain(reference))

    async def _requests(self, _request: web.Request, asked: Asked) -> web.StreamResponse:
        *_, limit = asked.texts["limit"] or ("100",)
        if not (limit.isascii() and limit.isdigit() and 0 < int(limit[:9]) <= KEPT):
            raise WrongInputError(f"the parameter 'limit' is a number from 1 to {KEPT}")
        repository = asked.texts["repository"][-1] if asked.texts["repository"] else None
        return _answer(Requests(tuple(self._past.latest(int(limit), repository))))

    async def _refresh(self, _request: web.Request, asked: Asked) -> web.StreamResponse:
        wish: RefreshWish = asked.body
        return _answer(await self._pulls.refresh(wish.image))


def _answer(result: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(result), headers={"Content-Type": JSON})
