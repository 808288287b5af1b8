"""What everything is built with."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from mirror.observe.metrics import Metrics
from mirror.observe.traffic import Meter, Traffic
from mirror.runtime.clock import Clock
from mirror.runtime.pools import Pools
from mirror.runtime.recent import MemoryTier
from mirror.settings import Settings


@dataclass(frozen=True, slots=True)
class Tools:
    """What everything is built with."""

    pools: Pools
    tier: MemoryTier
    metrics: Metrics
    traffic: Traffic
    clock: Clock


@asynccontextmanager
async def tools_of(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Tools]:
    """Make what everything is built with; whoever uses it ends before it does."""
    clock, metrics = clock or Clock(), Metrics(CollectorRegistry())
    async with AsyncExitStack() as stack:
        pools = Pools()
        stack.callback(pools.close)
        tier = MemoryTier(settings.cache.memory_bytes)
        stack.push_async_callback(tier.clear)
        yield Tools(pools, tier, metrics, Traffic(metrics, clock, Meter()), clock)
