"""The last requests on the registry listener, for whoever wants to know what happened."""

from collections import deque
from typing import Final, Protocol

import msgspec

from mirror.observe.metrics import Metrics
from mirror.observe.traffic import Traffic

KEPT: Final = 1000


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

    def add(self, request: PastRequest) -> None:
        """Note a request."""
        self._kept.append(request)
        self.count += 1

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

    def record(self, request: PastRequest) -> None:
        """Count a request and remember it for a while."""
        self._past.add(request)
        is_pull = request.kind == "manifest" and request.method == "GET"
        upstream = request.upstream if is_pull and request.status in {200, 206} else None
        self._traffic.answered(request.sent_bytes, pulled_from=upstream)
        metrics, kind, result = self._metrics, request.kind, request.result
        metrics.requests.labels(request.upstream, kind, result, str(request.status)).inc()
        metrics.request_seconds.labels(kind, result).observe(request.seconds)
        if request.waited_seconds is not None:
            metrics.first_byte_seconds.labels(kind, result).observe(request.waited_seconds)
        if request.sent_bytes:
            metrics.client_bytes.labels(request.upstream, result).inc(request.sent_bytes)
