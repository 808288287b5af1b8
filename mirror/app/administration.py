"""The admin listener: the admin API, the dashboard, probes and metrics, built."""

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from mirror.app.services import Services
from mirror.app.tools import Tools
from mirror.observe.health import Health
from mirror.observe.requests import PastRequests
from mirror.service.cache_admin import CacheAdmin
from mirror.service.feed import Feed
from mirror.service.overview import Overseer, Place, Sources
from mirror.service.policies import Policies
from mirror.settings import ListenAddress, Settings
from mirror.web.admin import AdminApi
from mirror.web.admin_access import Access
from mirror.web.api import api
from mirror.web.bundle_api import BundleApi
from mirror.web.cache_api import CacheApi
from mirror.web.overview_api import OverviewApi
from mirror.web.prefetch_api import PrefetchApi
from mirror.web.pull_api import PullApi

_GRACE_SECONDS: Final = 1


@dataclass(frozen=True, slots=True)
class Watched:
    """What is looked at besides the services."""

    policies: Policies
    cache: CacheAdmin
    health: Health
    past: PastRequests
    place: Place


def administration(
    settings: Settings, services: Services, tools: Tools, watched: Watched
) -> tuple[web.AppRunner, Feed]:
    """Return the server, and the feed of the dashboard, which is to be closed before it."""
    pool, guard, server = tools.pools.admin, services.access.guard, settings.server
    overview = _overview_api(services, tools, watched)
    routes = (
        *CacheApi(watched.cache, pool).routes(),
        *BundleApi(watched.cache.bundles, pool).routes(),
        *PullApi(services.pulls, watched.past).routes(),
        *overview.routes(),
        *PrefetchApi(services.prefetcher).routes(),
    )
    access = Access(server.admin_listen, server.admin.token_file, pool, lambda: guard.terms)
    app = AdminApi(watched.health, tools.metrics, pool, api(access, routes)).app()
    return web.AppRunner(app, shutdown_timeout=_GRACE_SECONDS), overview.feed


def _overview_api(services: Services, tools: Tools, watched: Watched) -> OverviewApi:
    pool = tools.pools.admin
    sources = Sources(
        cache=watched.cache,
        pulls=services.pulls,
        policies=watched.policies,
        upstreams=services.upstreams,
        fills=services.fills,
        health=watched.health,
        metrics=tools.metrics,
        traffic=tools.traffic,
        pool=pool,
        registry=watched.place,
    )
    return OverviewApi(Overseer(sources), watched.past, pool)


def place_of(settings: Settings, bound: ListenAddress) -> Place:
    """Return where clients find the registry; *bound* has the port that is really bound."""
    return Place(bound.host, bound.port, settings.server.tls is not None)
