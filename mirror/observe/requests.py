"""The last requests on the registry listener, for whoever wants to know what happened."""

from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol, Self

import msgspec
from prometheus_client import Counter, Histogram

from mirror.observe.metrics import Metrics
from mirror.observe.traffic import Traffic

KEPT: Final = 1000
_COUNTED_MAX: Final = 20_000


class PastRequest(msgspec.Struct, frozen=True):
    """A request that has been answered.

    ``at`` is its end in seconds since the epoch, ``waited_seconds`` the time to the head of
    the answer, ``reason`` why a stale answer was one. ``endpoint`` is where
    upstream was asked for it (empty: nobody was, or another request had asked), ``pulls`` what
    that cost of its budget.
    """

    at: float
    request_id: str
    client: str
    method: str
    status: int
    kind: str
    upstream: str
    repository: str
    reference: str
    result: str
    reason: str
    sent_bytes: int
    seconds: float
    waited_seconds: float | None
    error: str
    endpoint: str = ""
    pulls: int = 0


class PastRequests:
    """A bounded list; the oldest go."""

    def __init__(self) -> None:
        self._kept: deque[PastRequest] = deque(maxlen=KEPT)
        self.count = 0
        """How many there were, those that are not kept any more included."""
        self._asked_for: dict[tuple[str, str], int] = {}

    def add(self, request: PastRequest) -> None:
        """Note a request."""
        self._kept.append(request)
        self.count += 1
        if request.kind == "manifest" and request.status == HTTPStatus.OK:
            # The last in the order is the one that was asked for last.
            key = f"{request.upstream}/{request.repository}", request.reference
            self._asked_for[key] = self._asked_for.pop(key, 0) + 1
            if len(self._asked_for) > _COUNTED_MAX:
                del self._asked_for[next(iter(self._asked_for))]

    def hits(self, repository: str, reference: str) -> int:
        """Return how often a manifest of ``upstream/name`` was served by this reference."""
        return self._asked_for.get((repository, reference), 0)

    def latest(self, count: int, repository: str | None = None) -> list[PastRequest]:
        """Return the last requests, the latest first; of one ``upstream/name`` only, or of all."""
        found: list[PastRequest] = []
        for request in reversed(self._kept):
            if len(found) == count:
                break
            if repository in {None, f"{request.upstream}/{request.repository}"}:
                found.append(request)
        return found


class Recorder(Protocol):
    """Takes note of each request that has been answered to its end."""

    def record(self, request: PastRequest) -> None:
        """Note a request."""
        ...


class Ledger:
    """Counts requests and remembers the last ones."""

    def __init__(self, metrics: Metrics, past: PastRequests, traffic: Traffic) -> None:
        self._metrics = metrics
        self._past = past
        self._traffic = traffic
        self._series: dict[tuple[str, str, str, int], _Series] = {}

    def record(self, request: PastRequest) -> None:
        """Count a request and remember it for a while."""
        self._past.add(request)
        is_pull = request.kind == "manifest" and request.method == "GET"
        upstream = request.upstream if is_pull and request.status in {200, 206} else None
        self._traffic.answered(request.sent_bytes, pulled_from=upstream)
        series = self._series_of(request)
        series.requests.inc()
        series.seconds.observe(request.seconds)
        if request.waited_seconds is not None:
            series.first_byte_seconds.observe(request.waited_seconds)
        if request.sent_bytes:
            series.sent_bytes.inc(request.sent_bytes)

    def _series_of(self, request: PastRequest) -> "_Series":
        key = request.upstream, request.kind, request.result, request.status
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series.of(self._metrics, *key)
        return series


@dataclass(frozen=True, slots=True)
class _Series:
    """Where a request of some labels is counted: finding these costs more than counting."""

    requests: Counter
    seconds: Histogram
    first_byte_seconds: Histogram
    sent_bytes: Counter

    @classmethod
    def of(cls, metrics: Metrics, upstream: str, kind: str, result: str, status: int) -> Self:
        return cls(
            metrics.requests.labels(upstream, kind, result, str(status)),
            metrics.request_seconds.labels(kind, result),
            metrics.first_byte_seconds.labels(kind, result),
            metrics.client_bytes.labels(upstream, result),
        )
