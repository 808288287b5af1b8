"""Every metric, with closed label sets. No repository is ever a label.

Registered where the caller says, so that tests share nothing.
"""

import platform
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

import mirror
from mirror.observe.events import Events

_SECONDS: Final = (0.001, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300)
_LAG_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2)


class Result(StrEnum):
    """How an answer came about."""

    HIT = "hit"
    """From the cache, without asking upstream."""
    MISS = "miss"
    """This request made the mirror fetch it."""
    JOINED = "joined"
    """A fetch that another request had started delivered it."""
    STALE = "stale"
    """From the cache although its time was up, because upstream was in trouble."""
    REVALIDATED = "revalidated"
    """From the cache after upstream confirmed it."""
    PASSTHROUGH = "passthrough"
    """From upstream without being kept."""
    ERROR = "error"
    """No content was delivered."""


LISTENERS: Final = ("registry", "admin")
DROP_REASONS: Final = ("connections", "per_client", "head", "head_size", "stalled", "handshake")
FILL_OUTCOMES: Final = ("committed", "failed", "mismatch", "disk", "abandoned")
PREFETCH_OUTCOMES: Final = ("done", "incomplete", "cancelled")
WEBHOOK_OUTCOMES: Final = ("delivered", "failed", "dropped")
PREFETCHED_OUTCOMES: Final = ("done", "failed", "skipped", "cancelled")


class Metrics:
    """All metrics, by the names that docs/metrics.md has."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.events = Events()
        """What is counted can be told, too."""
        disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for each
        self._requests(registry)
        self._connections(registry)
        self._upstreams(registry)
        self._rate_limits(registry)
        self._fills(registry)
        self._prefetch(registry)
        self._webhooks(registry)
        self._cache(registry)
        self._process(registry)

    def _requests(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "mirror_requests_total",
            "Requests answered on the registry listener, by upstream, kind of object, "
            "how the answer came about and HTTP status.",
            ["upstream", "kind", "result", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "mirror_request_seconds",
            "Time from the head of a request to the last byte of its answer.",
            ["kind", "result"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_byte_seconds = Histogram(
            "mirror_first_byte_seconds",
            "Time from the head of a request to the head of its answer.",
            ["kind", "result"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.client_bytes = Counter(
            "mirror_client_bytes_total",
            "Bytes of content sent to clients.",
            ["upstream", "result"],
            registry=registry,
        )

    def _connections(self, registry: CollectorRegistry) -> None:
        self.connections = Gauge(
            "mirror_connections",
            "Open connections of a listener: registry or admin.",
            ["listener"],
            registry=registry,
        )
        self.connections_dropped = Counter(
            "mirror_connections_dropped_total",
            f"Connections closed without an answer, by reason: {', '.join(DROP_REASONS)}.",
            ["listener", "reason"],
            registry=registry,
        )
        for listener in LISTENERS:
            self.connections.labels(listener)
            for reason in DROP_REASONS:
                self.connections_dropped.labels(listener, reason)

    def _upstreams(self, registry: CollectorRegistry) -> None:
        self.upstream_requests = Counter(
            "mirror_upstream_requests_total",
            "Requests sent to upstreams, redirect hops and retries included; status 0 is a "
            "request without an answer.",
            ["upstream", "kind", "method", "status"],
            registry=registry,
        )
        self.upstream_bytes = Counter(
            "mirror_upstream_bytes_total",
            "Bytes of blobs and manifests received from upstreams.",
            ["upstream"],
            registry=registry,
        )
        self.upstream_seconds = Histogram(
            "mirror_upstream_seconds",
            "Time from a request to an upstream to the head of its answer.",
            ["upstream", "kind"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.upstream_up = Gauge(
            "mirror_upstream_up",
            "1 if the last request to the upstream got an answer other than 5xx.",
            ["upstream"],
            registry=registry,
        )
        self.upstream_credential_refused = Counter(
            "mirror_upstream_credential_refused_total",
            "Times a configured credential was refused, or could not be had.",
            ["upstream", "account"],
            registry=registry,
        )
        self.immutable_tag_moved = Counter(
            "mirror_immutable_tag_moved_total",
            "Times an upstream said that a tag which the configuration calls immutable had moved.",
            ["upstream"],
            registry=registry,
        )

    def _rate_limits(self, registry: CollectorRegistry) -> None:
        labels = ["upstream", "account"]
        self.ratelimit_limit = Gauge(
            "mirror_upstream_ratelimit_limit",
            "Pulls per window that the upstream allows, by its last answer.",
            labels,
            registry=registry,
        )
        self.ratelimit_remaining = Gauge(
            "mirror_upstream_ratelimit_remaining",
            "Pulls left in the window, by the upstream's last answer.",
            labels,
            registry=registry,
        )
        self.ratelimit_empty_in = Gauge(
            "mirror_upstream_ratelimit_empty_in_seconds",
            "When no pull is left at the rate of the last hour, as of the upstream's last "
            "answer; +Inf if the number does not shrink.",
            labels,
            registry=registry,
        )

    def _fills(self, registry: CollectorRegistry) -> None:
        self.fills_in_progress = Gauge(
            "mirror_fills_in_progress", "Blobs being downloaded now.", registry=registry
        )
        self.fill_readers = Gauge(
            "mirror_fill_readers", "Clients reading from fills in progress.", registry=registry
        )
        self.fills = Counter(
            "mirror_fills_total",
            f"Fills that ended: {', '.join(FILL_OUTCOMES)}.",
            ["outcome"],
            registry=registry,
        )
        for outcome in FILL_OUTCOMES:
            self.fills.labels(outcome)
        self.fill_resumes = Counter(
            "mirror_fill_resumes_total",
            "Times a broken download went on from the bytes it had.",
            ["reason"],
            registry=registry,
        )
        self.forwarded_ranges = Counter(
            "mirror_forwarded_ranges_total",
            "Ranges far ahead of a slow fill that were asked of upstream on their own.",
            ["upstream"],
            registry=registry,
        )
        self.digest_mismatches = Counter(
            "mirror_digest_mismatches_total",
            "Downloads whose content was not what the digest names, each attempt counted.",
            ["upstream"],
            registry=registry,
        )

    def _prefetch(self, registry: CollectorRegistry) -> None:
        self.prefetch_runs = Counter(
            "mirror_prefetch_runs_total",
            f"Prefetches that ended, by command and by schedule: {', '.join(PREFETCH_OUTCOMES)}.",
            ["origin", "outcome"],
            registry=registry,
        )
        self.prefetch_images = Counter(
            "mirror_prefetch_images_total",
            f"Images of prefetches that ended: {', '.join(PREFETCHED_OUTCOMES)}; skipped to "
            "leave pulls to clients.",
            ["outcome"],
            registry=registry,
        )
        self.prefetch_bytes = Counter(
            "mirror_prefetch_bytes_total",
            "Bytes of blobs that prefetches have brought.",
            registry=registry,
        )
        for outcome in PREFETCHED_OUTCOMES:
            self.prefetch_images.labels(outcome)

    def _webhooks(self, registry: CollectorRegistry) -> None:
        self.webhook_events = Counter(
            "mirror_webhook_events_total",
            f"Events for webhooks: {', '.join(WEBHOOK_OUTCOMES)}; dropped where too many waited.",
            ["outcome"],
            registry=registry,
        )
        for outcome in WEBHOOK_OUTCOMES:
            self.webhook_events.labels(outcome)

    def _cache(self, registry: CollectorRegistry) -> None:
        self.cache_bytes = Gauge(
            "mirror_cache_bytes", "Bytes stored, partials included.", registry=registry
        )
        self.cache_limit_bytes = Gauge(
            "mirror_cache_limit_bytes", "The bound on the bytes stored.", registry=registry
        )
        self.cache_objects = Gauge(
            "mirror_cache_objects", "Objects stored.", ["kind"], registry=registry
        )
        self.cache_evictions = Counter(
            "mirror_cache_evictions_total",
            "Objects removed to make room.",
            ["reason"],
            registry=registry,
        )
        self.cache_evicted_bytes = Counter(
            "mirror_cache_evicted_bytes_total",
            "Bytes of the objects removed to make room.",
            registry=registry,
        )
        self.cache_scrubbed_bytes = Counter(
            "mirror_cache_scrubbed_bytes_total",
            "Bytes of stored objects that the background scrub has read again.",
            registry=registry,
        )
        self.cache_corrupt_objects = Counter(
            "mirror_cache_corrupt_objects_total",
            "Stored objects that the scrub found to be spoilt by the disk.",
            registry=registry,
        )
        self.cache_oldest_access = Gauge(
            "mirror_cache_oldest_access_seconds",
            "Time since the last use of the object that would be evicted next.",
            registry=registry,
        )

    def _process(self, registry: CollectorRegistry) -> None:
        self.event_loop_lag = Histogram(
            "mirror_event_loop_lag_seconds",
            "How much later than asked for a timer woke, the wait for a core not counted.",
            buckets=_LAG_SECONDS,
            registry=registry,
        )
        self.workers = Gauge(
            "mirror_workers", "Worker processes that serve clients now.", registry=registry
        )
        self.worker_restarts = Counter(
            "mirror_worker_restarts_total",
            "Worker processes that ended and were started again.",
            registry=registry,
        )
        self.config_reloads = Counter(
            "mirror_config_reloads_total",
            "Configuration reloads: applied or refused.",
            ["outcome"],
            registry=registry,
        )
        self.certificate_reloads = Counter(
            "mirror_certificate_reloads_total",
            "Times the certificate of a listener was read again: applied or refused.",
            ["outcome"],
            registry=registry,
        )
        self.build_info = Gauge(
            "mirror_build_info", "Always 1.", ["version", "python"], registry=registry
        )
        self.build_info.labels(mirror.__version__, platform.python_version()).set(1)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)

    def upstream_exists(self, name: str, accounts: Iterable[str] = ()) -> None:
        """Create the series of an upstream and its accounts at zero: a first time counts, too."""
        for account in accounts:
            self.upstream_credential_refused.labels(name, account)
        self.upstream_bytes.labels(name)
        self.digest_mismatches.labels(name)
        self.immutable_tag_moved.labels(name)
        self.forwarded_ranges.labels(name)
