"""Bundles over HTTP: ``/api/v1/cache/export``, ``import`` and ``inventory``."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Final

import aiohttp
import msgspec
from aiohttp import web

from mirror.domain.bundles import BundleInvalidError, StoredInventory, read_inventory
from mirror.observe.logs import get_logger
from mirror.runtime.pools import Pool
from mirror.service.bundles import Bundles, ExportWish
from mirror.service.refusals import RefusalCode, RefusedError
from mirror.store.importing import Imported
from mirror.web.openapi import BYTES, JSON, TAR, Asked, Parameter, Route
from mirror.web.replies import replied

LEFT_OUT_HEADER: Final = "X-Mirror-Left-Out"
_INVENTORY_MAX_BYTES: Final = 64 << 20
_CHOICE: Final = (
    Parameter(name="ref", description="An image or a glob."),
    Parameter(name="all", description="All images.", is_flag=True),
    Parameter(name="since", description="Only what came in since this date."),
    Parameter(name="platform", description="Only images for it; all that are whole here."),
)
_log = get_logger("admin")


class BundleApi:
    """The routes, and what they do."""

    def __init__(self, bundles: Bundles, pool: Pool) -> None:
        self._bundles = bundles
        self._pool = pool

    def routes(self) -> tuple[Route, ...]:
        """Return all routes."""
        private = Parameter(
            name="private", description="Also what came with credentials.", is_flag=True
        )
        return (
            Route(
                method="GET",
                path="/cache/export",
                summary="Images as a bundle, a tar that is an OCI image layout.",
                handler=self._export,
                result=bytes,
                parameters=_CHOICE,
                content_type=TAR,
            ),
            Route(
                method="POST",
                path="/cache/export",
                summary="The same; the body may be an inventory of what need not be carried.",
                handler=self._export_difference,
                result=bytes,
                parameters=(*_CHOICE, private),
                content_type=TAR,
                upload=JSON,
            ),
            Route(
                method="POST",
                path="/cache/import",
                summary="Enter a bundle: all of it, or nothing.",
                handler=self._import,
                result=Imported,
                upload=BYTES,
            ),
            Route(
                method="GET",
                path="/cache/inventory",
                summary="The digests of what is here, for an export of the difference.",
                handler=self._inventory,
                result=StoredInventory,
            ),
        )

    async def _export(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        return await self._exported(request, asked, frozenset())

    async def _export_difference(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        content = bytearray()
        async for piece in request.content.iter_any():
            content += piece
            if len(content) > _INVENTORY_MAX_BYTES:
                raise RefusedError(RefusalCode.INVALID, "the inventory is too long")
        present: frozenset[str] = frozenset()
        if content:
            try:
                present = await self._pool.run(read_inventory, bytes(content))
            except BundleInvalidError as error:
                hint = "`mirror cache inventory` writes one"
                raise RefusedError(RefusalCode.INVALID, str(error), hint) from None
        return await self._exported(request, asked, present)

    async def _exported(
        self, request: web.Request, asked: Asked, present: frozenset[str]
    ) -> web.StreamResponse:
        wish = ExportWish(
            asked.texts["ref"],
            "all" in asked.flags,
            next(iter(asked.texts["since"]), None),
            asked.texts["platform"],
            "private" in asked.flags,
        )
        left_out, pieces = await self._bundles.export(wish, present)  # what is refused, is so now
        headers = {"Content-Type": TAR, LEFT_OUT_HEADER: msgspec.json.encode(left_out).decode()}
        response = web.StreamResponse(headers=headers)
        async with aclosing(pieces):
            await response.prepare(request)
            with suppress(ConnectionError):  # the client has gone: that ends it
                await _send(request, response, pieces)
        return response

    async def _import(self, request: web.Request, _asked: Asked) -> web.StreamResponse:
        pieces = _received(request)
        try:
            done = await self._bundles.take(pieces)
        except RefusedError:
            await _drain(request)  # else the client would not hear why
            raise
        return await replied(self._pool, done)

    async def _inventory(self, _request: web.Request, _asked: Asked) -> web.StreamResponse:
        return await replied(self._pool, await self._bundles.inventory())


async def _send(
    request: web.Request, response: web.StreamResponse, pieces: AsyncGenerator[bytes, None]
) -> None:
    try:
        async for piece in pieces:
            await response.write(piece)
    except (RefusedError, OSError) as error:
        if isinstance(error, ConnectionError):
            raise
        _log.error("an export was cut", reason=str(error))
        if request.transport is not None:
            request.transport.abort()  # a clean end would say that it is whole


async def _received(request: web.Request) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in request.content.iter_any():
            yield piece
    except (ConnectionError, aiohttp.ClientError, aiohttp.http.HttpProcessingError):
        raise BundleInvalidError("its sender has gone in the middle") from None


async def _drain(request: web.Request) -> None:
    with suppress(ConnectionError, aiohttp.ClientError, aiohttp.http.HttpProcessingError):
        async for _ in request.content.iter_any():
            pass
