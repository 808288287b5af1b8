"""What the dashboard looks at, built."""

from dataclasses import dataclass

from mirror.app.services import Services
from mirror.app.tools import Tools
from mirror.observe.health import Health
from mirror.observe.requests import PastRequests
from mirror.service.cache_admin import CacheAdmin
from mirror.service.overview import Overseer, Place, Sources
from mirror.service.policies import Policies
from mirror.settings import ListenAddress, Settings
from mirror.web.overview_api import OverviewApi


@dataclass(frozen=True, slots=True)
class Watched:
    """What is looked at besides the services."""

    policies: Policies
    cache: CacheAdmin
    health: Health
    past: PastRequests
    place: Place


def overview_api(services: Services, tools: Tools, watched: Watched) -> OverviewApi:
    """Return the routes of the overview."""
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
