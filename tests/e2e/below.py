"""A reverse proxy, as one would have before the admin listener."""

from __future__ import annotations

import aiohttp
from aiohttp import web

from .loop_thread import LoopThread, Server


class Below(Server):
    """Has a listener below ``/ops/mirror/``."""

    def __init__(self, loop: LoopThread, port: int, target: str) -> None:
        super().__init__(loop, port)
        self._target = target

    def application(self) -> web.Application:
        """Return what is served."""
        app = web.Application()
        app.router.add_route("*", "/ops/mirror/{rest:.*}", self._pass_on)
        return app

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        url = f"{self._target}/{request.match_info['rest']}"
        async with (
            aiohttp.ClientSession() as session,
            session.request(request.method, url, params=request.query) as got,
        ):
            names = ("Content-Type", "Content-Security-Policy", "ETag", "Cache-Control")
            kept = {name: got.headers[name] for name in names if name in got.headers}
            answer = web.StreamResponse(status=got.status, headers=kept)
            await answer.prepare(request)
            async for part in got.content.iter_any():
                await answer.write(part)
        return answer
