"""How many pulls are left to each account of an upstream, by the answers that it gives."""

import math
from collections.abc import Mapping

from mirror.domain.budget import Budget, Reading
from mirror.observe.metrics import Metrics
from mirror.runtime.clock import Clock
from mirror.upstream.telling import Telling


class Budgets:
    """What one upstream has said of its accounts."""

    def __init__(self, upstream: str, telling: Telling, metrics: Metrics, clock: Clock) -> None:
        self._upstream = upstream
        self._telling = telling
        self._metrics = metrics
        self._clock = clock
        self._known: dict[str, Budget] = {}

    def of(self, account: str) -> Budget | None:
        """Return what is known of an account."""
        return self._known.get(account)

    def read(self, account: str, headers: Mapping[str, str]) -> bool:
        """Take note of what an answer says; returns whether it says anything."""
        reading = Reading.of(headers, self._clock.wall())
        if reading is None:
            return False
        before = self._known.get(account)
        budget = Budget((reading,)) if before is None else before.plus(reading)
        self._known[account] = budget
        self._telling.rate(account, reading, before)
        self._show(account, budget)
        return True

    def _show(self, account: str, budget: Budget) -> None:
        reading, labels = budget.last, (self._upstream, account)
        empty_in_seconds = budget.empty_in_seconds(reading.at)
        self._metrics.ratelimit_limit.labels(*labels).set(reading.limit)
        self._metrics.ratelimit_remaining.labels(*labels).set(reading.remaining)
        self._metrics.ratelimit_empty_in.labels(*labels).set(
            math.inf if empty_in_seconds is None else empty_in_seconds
        )
