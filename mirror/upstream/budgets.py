"""How many pulls are left to each account of an upstream, by the answers that it gives."""

import math
from collections.abc import Mapping
from typing import Final

from mirror.domain.budget import Budget, Reading
from mirror.observe.metrics import Metrics
from mirror.runtime.clock import Clock
from mirror.upstream.accounts import Holder
from mirror.upstream.telling import Telling

HOLDERS_MAX: Final = 512
"""So many budgets are known of an upstream: callers may be any number."""


class Budgets:
    """What one upstream has said of its accounts."""

    def __init__(self, upstream: str, telling: Telling, metrics: Metrics, clock: Clock) -> None:
        self._upstream = upstream
        self._telling = telling
        self._metrics = metrics
        self._clock = clock
        self._known: dict[Holder, Budget] = {}

    def of(self, holder: Holder) -> Budget | None:
        """Return what is known of an account."""
        return self._known.get(holder)

    def read(self, holder: Holder, headers: Mapping[str, str]) -> bool:
        """Take note of what an answer says; returns whether it says anything."""
        reading = Reading.of(headers, self._clock.wall())
        if reading is None:
            return False
        before = self._known.pop(holder, None)
        budget = Budget((reading,)) if before is None else before.plus(reading)
        self._known[holder] = budget
        if len(self._known) > HOLDERS_MAX:
            self._drop_oldest()
        self._telling.rate(holder.name, reading, before)
        self._show(holder.name, budget)
        return True

    def _drop_oldest(self) -> None:
        """Forget the caller of whom nothing has been heard for longest."""
        oldest = next((holder for holder in self._known if holder.mark), None)
        if oldest is not None:
            del self._known[oldest]

    def _show(self, account: str, budget: Budget) -> None:
        reading, labels = budget.last, (self._upstream, account)
        empty_in_seconds = budget.empty_in_seconds(reading.at)
        self._metrics.ratelimit_limit.labels(*labels).set(reading.limit)
        self._metrics.ratelimit_remaining.labels(*labels).set(reading.remaining)
        self._metrics.ratelimit_empty_in.labels(*labels).set(
            math.inf if empty_in_seconds is None else empty_in_seconds
        )
