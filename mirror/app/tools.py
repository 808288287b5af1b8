"""What everything is built with."""

from dataclasses import dataclass

from mirror.observe.metrics import Metrics
from mirror.observe.traffic import Traffic
from mirror.runtime.clock import Clock
from mirror.runtime.pools import Pools
from mirror.runtime.recent import MemoryTier


@dataclass(frozen=True, slots=True)
class Tools:
    """What everything is built with."""

    pools: Pools
    tier: MemoryTier
    metrics: Metrics
    traffic: Traffic
    clock: Clock
