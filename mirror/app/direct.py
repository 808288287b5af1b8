"""The upstreams of a configuration without a mirror in between, for commands that compare."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CollectorRegistry

from mirror.observe.metrics import Metrics
from mirror.runtime.clock import Clock
from mirror.runtime.pools import Pools
from mirror.runtime.recent import MemoryTier
from mirror.settings import Settings
from mirror.upstream.upstreams import Upstreams


@asynccontextmanager
async def direct(settings: Settings) -> AsyncIterator[Upstreams]:
    """Open the upstreams with the accounts, proxies and endpoints of the configuration."""
    async with AsyncExitStack() as stack:
        pools = Pools()
        stack.callback(pools.close)
        tier = MemoryTier(settings.cache.memory_bytes)
        stack.push_async_callback(tier.clear)
        metrics = Metrics(CollectorRegistry())
        upstreams = Upstreams(settings.upstreams, pools, tier, metrics, Clock())
        stack.push_async_callback(upstreams.close)
        yield upstreams
