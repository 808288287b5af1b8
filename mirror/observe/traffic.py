"""What has gone through since the start: for people who look, and at no cost while nobody does.

Metrics count a body when it has ended; here it counts as it goes, so that a long download
is seen while it runs.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Protocol

import msgspec
from prometheus_client.registry import Collector

from mirror.observe.metrics import Metrics
from mirror.runtime.clock import Clock

_MINUTE: Final = 60.0
_KEPT: Final = 61


class Sample(msgspec.Struct, frozen=True):
    """Totals since the start, as of a moment in seconds since the epoch."""

    at: float
    sent_bytes: int
    received_bytes: int
    requests: int


class Body(Protocol):
    """Something that is being sent."""

    sent_bytes: int


class Meter:
    """The bodies that are being sent now."""

    def __init__(self) -> None:
        self._open: dict[int, Body] = {}
        self.elsewhere: dict[Hashable, tuple[int, int]] = {}
        """How many there are in other processes, and how much of them has gone out."""

    @contextmanager
    def watching(self, body: Body) -> Iterator[None]:
        """Count what has been sent of a body while it goes out."""
        self._open[id(body)] = body
        try:
            yield
        finally:
            del self._open[id(body)]

    @property
    def bodies(self) -> int:
        """How many there are."""
        return len(self._open) + sum(bodies for bodies, _ in self.elsewhere.values())

    @property
    def sent_bytes(self) -> int:
        """How much of them has gone out."""
        here = sum(body.sent_bytes for body in self._open.values())
        return here + sum(sent_bytes for _, sent_bytes in self.elsewhere.values())


class Traffic:
    """Totals, and what they were in each minute of the last hour in which something went on.

    ``pulls`` is how many manifests clients got of each upstream: what a pull limit would have
    counted.
    """

    def __init__(self, metrics: Metrics, clock: Clock, meter: Meter) -> None:
        self._metrics = metrics
        self._clock = clock
        self.meter = meter
        self._samples: deque[Sample] = deque([Sample(clock.wall(), 0, 0, 0)], maxlen=_KEPT)
        self._ended_bytes = self._sent_bytes = 0
        self.started_at = clock.wall()
        self.requests = 0
        self.pulls: Counter[str] = Counter()

    def answered(self, sent_bytes: int, *, pulled_from: str | None) -> None:
        """Note a request that has been answered to its end, and whose manifest it got."""
        if self._clock.wall() - self._samples[-1].at >= _MINUTE:
            self._samples.append(self.now())
        self.requests += 1
        self._ended_bytes += sent_bytes
        if pulled_from is not None:
            self.pulls[pulled_from] += 1

    @property
    def sent_bytes(self) -> int:
        """Everything that has gone out so far."""
        # A body that has ended and is about to be noted is in neither for a moment.
        self._sent_bytes = max(self._sent_bytes, self._ended_bytes + self.meter.sent_bytes)
        return self._sent_bytes

    def now(self) -> Sample:
        """Return the totals of this moment."""
        received_bytes = sum(totals(self._metrics.upstream_bytes, "upstream").values())
        return Sample(self._clock.wall(), self.sent_bytes, int(received_bytes), self.requests)

    def history(self) -> tuple[Sample, ...]:
        """Return the totals of the last hour, a minute or more apart, and those of this moment."""
        oldest = self._clock.wall() - _MINUTE * (_KEPT - 1)
        kept = list(self._samples)
        while len(kept) > 1 and kept[1].at <= oldest:
            del kept[0]
        return (*kept, self.now())


def totals(
    metric: Collector, *labels: str, suffix: str = "_total"
) -> Mapping[tuple[str, ...], float]:
    """Return the sums of a metric over all labels but these, by their values; 0 of others."""
    found: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for family in metric.collect():
        for sample in family.samples:
            if sample.name.endswith(suffix):
                found[tuple(sample.labels[label] for label in labels)] += sample.value
    return found
