"""The cache over HTTP, for the command line and for scripts: ``/api/v1/cache…``."""

from contextlib import aclosing, suppress
from typing import Final

import msgspec
from aiohttp import web

from mirror.runtime.pools import Pool
from mirror.service.cache_admin import CacheAdmin, PinFacts
from mirror.store.checking import Event
from mirror.store.inventory import ImageDetails, ImageFacts
from mirror.store.referring import Referrer
from mirror.store.sweep import Swept
from mirror.store.usage import Usage
from mirror.store.withdrawal import Removed
from mirror.web.openapi import NDJSON, Asked, Parameter, Route
from mirror.web.replies import replied

_DRY_RUN: Final = Parameter(
    name="dry_run", description="Change nothing, only say what would be.", is_flag=True
)


class Images(msgspec.Struct, frozen=True):
    """Images, in order."""

    images: tuple[ImageFacts, ...]


class Referrers(msgspec.Struct, frozen=True):
    """Manifests that refer to an image."""

    referrers: tuple[Referrer, ...]


class PinList(msgspec.Struct, frozen=True):
    """Pins, in order."""

    pins: tuple[PinFacts, ...]


class PinWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image to pin; without platforms, all of its platforms."""

    image: str
    platforms: tuple[str, ...] = ()


class Unpinned(msgspec.Struct, frozen=True):
    """The image that is not pinned any more, with its whole name."""

    image: str


class CacheApi:
    """The routes, and what they do."""

    def __init__(self, cache: CacheAdmin, pool: Pool) -> None:
        self._cache = cache
        self._pool = pool

    def routes(self) -> tuple[Route, ...]:
        """Return all routes."""
        return (*self._looking(), *self._details(), *self._tidying(), *self._pinning())

    def _looking(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/cache",
                summary="How full the cache is.",
                handler=self._usage,
                result=Usage,
                parameters=(
                    Parameter(
                        name="repositories",
                        description="Also what each repository has.",
                        is_flag=True,
                    ),
                ),
            ),
            Route(
                method="GET",
                path="/cache/images",
                summary="The images that are here.",
                handler=self._images,
                result=Images,
                parameters=(
                    Parameter(name="match", description="A glob; with several, any of them."),
                    Parameter(
                        name="untagged",
                        description="Also manifests that no tag means.",
                        is_flag=True,
                    ),
                ),
            ),
        )

    def _details(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/cache/image",
                summary="One image: what it links, and what its tag meant over time.",
                handler=self._show,
                result=ImageDetails,
                parameters=(Parameter(name="ref", description="The image.", is_required=True),),
            ),
            Route(
                method="GET",
                path="/cache/referrers",
                summary="What is known here to refer to an image; upstream is not asked.",
                handler=self._referrers,
                result=Referrers,
                parameters=(Parameter(name="ref", description="The image.", is_required=True),),
            ),
        )

    def _tidying(self) -> tuple[Route, ...]:
        return (
            Route(
                method="DELETE",
                path="/cache/images",
                summary="Remove images, and what nothing else needs.",
                handler=self._remove,
                result=Removed,
                parameters=(
                    Parameter(name="ref", description="The image.", is_required=True),
                    _DRY_RUN,
                ),
            ),
            Route(
                method="POST",
                path="/cache/gc",
                summary="Remove what nothing needs.",
                handler=self._collect,
                result=Swept,
                parameters=(_DRY_RUN,),
            ),
            Route(
                method="POST",
                path="/cache/verify",
                summary="Read everything again; a line of JSON for each event.",
                handler=self._verify,
                result=Event,
                parameters=(
                    Parameter(name="repair", description="Put right what is.", is_flag=True),
                ),
                content_type=NDJSON,
            ),
        )

    def _pinning(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/cache/pins",
                summary="What is never evicted.",
                handler=self._pins,
                result=PinList,
            ),
            Route(
                method="POST",
                path="/cache/pins",
                summary="Never evict an image.",
                handler=self._pin,
                result=PinFacts,
                body=PinWish,
            ),
            Route(
                method="DELETE",
                path="/cache/pins",
                summary="Let an image go when its time comes.",
                handler=self._unpin,
                result=Unpinned,
                parameters=(Parameter(name="image", description="The image.", is_required=True),),
            ),
        )

    # --- handlers --------------------------------------------------------------------------

    async def _usage(self, _request: web.Request, asked: Asked) -> web.StreamResponse:
        if "repositories" in asked.flags:
            return await self._answer(await self._cache.usage())
        return await self._answer(self._cache.totals())

    async def _images(self, _request: web.Request, asked: Asked) -> web.StreamResponse:
        images = await self._cache.images(asked.texts["match"], untagged="untagged" in asked.flags)
        return await self._answer(Images(tuple(images)))

    async def _show(self, _request: web.Request, asked: Asked) -> web.StreamResponse:
        *_, reference = asked.texts["ref"]
        return await self._answer(await self._cache.details(reference))

    async def _referrers(self, _request: web.Request, asked: Asked) -> web.StreamResponse:
        *_, reference = asked.texts["ref"]
        return await self._answer(Referrers(tuple(await self._cache.referrers(reference))))

    async def _remove(self, _request: web.Request, asked: Asked) -> web.StreamResponse:
        removed = await self._cache.remove(asked.texts["ref"], dry_run="dry_run" in asked.flags)
        return await self._answer(removed)

    async def _collect(self, _request: web.Request, asked: Asked) -> web.StreamResponse:
        return await self._answer(await self._cache.collect(dry_run="dry_run" in asked.flags))

    async def _verify(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": NDJSON})
        with suppress(ConnectionError):  # the client has gone: that ends it
            async with aclosing(self._cache.verify(repair="repair" in asked.flags)) as events:
                async for event in events:
                    if not response.prepared:  # not before: that one runs already is an error
                        await response.prepare(request)
                    await response.write(msgspec.json.encode(event) + b"\n")
        return response

    async def _pins(self, _request: web.Request, _asked: Asked) -> web.StreamResponse:
        return await self._answer(PinList(tuple(await self._cache.pins())))

    async def _pin(self, _request: web.Request, asked: Asked) -> web.StreamResponse:
        wish: PinWish = asked.body
        return await self._answer(await self._cache.pin(wish.image, wish.platforms))

    async def _unpin(self, _request: web.Request, asked: Asked) -> web.StreamResponse:
        *_, image = asked.texts["image"]
        return await self._answer(Unpinned(await self._cache.unpin(image)))

    async def _answer(self, result: msgspec.Struct) -> web.Response:
        return await replied(self._pool, result)
