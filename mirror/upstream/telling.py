"""What of an upstream others want to be told: that it goes and comes, that few pulls are left."""

from mirror.domain.budget import Budget, Reading
from mirror.domain.events import EventKind
from mirror.observe.events import Events
from mirror.settings import Upstream


class Telling:
    """Tells it for one upstream."""

    def __init__(self, upstream: Upstream, events: Events) -> None:
        self._name = upstream.name
        self._low_water = upstream.policy.rate_limit.low_water
        self._events = events

    def rate(self, account: str, reading: Reading, before: Budget | None) -> None:
        """Tell when the pulls that are left have just become few."""
        was_low = before is not None and before.share(reading.at) < self._low_water
        if was_low or Budget((reading,)).share(reading.at) >= self._low_water:
            return
        self._events.tell(
            EventKind.RATE_LIMIT_LOW,
            self._name,
            account=account,
            remaining=reading.remaining,
            limit=reading.limit,
            window_seconds=reading.window_seconds,
        )

    def change(self, endpoint: str, reason: str | None) -> None:
        """Tell that an endpoint is given up, and why, or that it answers again."""
        if reason is None:
            self._events.tell(EventKind.UP, self._name, endpoint=endpoint)
        else:
            self._events.tell(EventKind.DOWN, self._name, endpoint=endpoint, reason=reason)
