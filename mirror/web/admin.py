"""The admin listener: metrics, probes, the admin API and the dashboard."""

from typing import Final

import msgspec
from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from mirror.observe.health import Health
from mirror.observe.metrics import Metrics
from mirror.runtime.pools import Pool
from mirror.web.api import PREFIX
from mirror.web.pages import Pages

_TEXT: Final = {"Content-Type": "text/plain; charset=utf-8"}


class AdminApi:
    """What Prometheus, the kubelet and people ask for."""

    def __init__(
        self, health: Health, metrics: Metrics, pool: Pool, api_app: web.Application
    ) -> None:
        self._health = health
        self._metrics = metrics
        self._pool = pool
        self._api_app = api_app
        self._pages = Pages()

    def app(self) -> web.Application:
        """Return the application of the listener."""
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._show_metrics)
        self._pages.add_to(app)
        app.add_subapp(PREFIX, self._api_app)
        return app

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(body=b"ok\n", headers=_TEXT)

    async def _readyz(self, _request: web.Request) -> web.Response:
        reasons = self._health.reasons_not_ready()
        if not reasons:
            return web.Response(body=b"ok\n", headers=_TEXT)
        body = msgspec.json.encode({"ready": False, "reasons": reasons})
        return web.Response(status=503, body=body, headers={"Content-Type": "application/json"})

    async def _show_metrics(self, _request: web.Request) -> web.Response:
        # Rendering takes 10 ms for a thousand series: not on the event loop.
        body = await self._pool.run(generate_latest, self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
