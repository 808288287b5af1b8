"""The upstreams of a configuration without a mirror in between, for commands that compare."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mirror.app.tools import tools_of
from mirror.settings import Settings
from mirror.upstream.upstreams import Upstreams


@asynccontextmanager
async def direct(settings: Settings) -> AsyncIterator[Upstreams]:
    """Open the upstreams with the accounts, proxies and endpoints of the configuration."""
    async with tools_of(settings) as tools:
        upstreams = Upstreams(
            settings.upstreams, tools.pools, tools.tier, tools.metrics, tools.clock
        )
        try:
            yield upstreams
        finally:
            await upstreams.close()
