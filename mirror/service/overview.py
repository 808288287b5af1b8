"""How the mirror does at this moment, and what it has saved since it started.

What each number means to a reader is in docs/dashboard.md.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

import mirror
from mirror.observe.health import Health
from mirror.observe.logs import redact_text
from mirror.observe.metrics import Metrics, Result
from mirror.observe.traffic import Sample, Traffic, totals
from mirror.runtime.pools import Pool
from mirror.service.cache_admin import CacheAdmin
from mirror.service.policies import Policies
from mirror.service.pull_admin import AccountRate, PullAdmin
from mirror.store.usage import Usage
from mirror.transfer.fill import Fill
from mirror.transfer.fills import Fills
from mirror.upstream.registry import Registry
from mirror.upstream.upstreams import Upstreams

_WITHOUT_DOWNLOAD: Final = (Result.HIT, Result.STALE, Result.REVALIDATED, Result.JOINED)
"""Answers for which nothing was downloaded that was not being downloaded anyway."""
State = Literal["up", "idle", "limited", "degraded", "down", "offline", "denied"]


class FillFacts(msgspec.Struct, frozen=True):
    """A blob that is being downloaded.

    ``size_bytes`` is null until upstream has told it, ``readers`` how many clients are getting
    it meanwhile. ``is_waiting`` tells that it waits for another download to end
    (``fill.max_concurrent``), ``is_verified`` that all of it is here and right.
    """

    upstream: str
    repository: str
    digest: str
    size_bytes: int | None
    received_bytes: int
    readers: int
    is_waiting: bool
    is_verified: bool


class EndpointFacts(msgspec.Struct, frozen=True):
    """An address of an upstream.

    ``failures`` is how many times in a row it has not answered; after some it is left alone
    for ``closed_seconds``.
    """

    url: str
    is_open: bool
    failures: int
    closed_seconds: float


class UpstreamFacts(msgspec.Struct, frozen=True):
    """How an upstream does, and what it was asked for since the start.

    ``state`` is ``idle`` until it has been asked, ``limited`` while it is left alone after a
    429, ``degraded`` with some of its endpoints closed and ``down`` with all of them.
    ``answered_seconds`` is how long ago it last answered; null: not yet. ``pulls`` is how many
    manifests clients got, ``upstream_pulls`` how many were downloaded for it.
    """

    upstream: str
    state: State
    answered_seconds: float | None
    endpoints: tuple[EndpointFacts, ...]
    requests: int
    failed_requests: int
    head_seconds: float | None
    sent_bytes: int
    received_bytes: int
    pulls: int
    upstream_pulls: int
    saved_pulls: int


class TrafficFacts(msgspec.Struct, frozen=True):
    """What has gone through since the start.

    ``results`` and ``result_bytes`` are requests and bytes by how their answers came about;
    they count an answer when it has ended, ``sent_bytes`` counts as it goes. ``byte_hit_ratio``
    and ``hit_ratio`` are the shares of bytes and of requests for which nothing was downloaded;
    null: there were none.
    """

    started_at: float
    requests: int
    open_bodies: int
    sent_bytes: int
    received_bytes: int
    saved_bytes: int
    byte_hit_ratio: float | None
    hit_ratio: float | None
    results: dict[str, int]
    result_bytes: dict[str, int]
    pulls: int
    saved_pulls: int


class Place(msgspec.Struct, frozen=True):
    """Where clients find the registry."""

    host: str
    port: int
    is_https: bool


class Overview(msgspec.Struct, frozen=True):
    """All of it at one moment; ``history`` only where it was asked for."""

    at: float
    version: str
    not_ready: tuple[str, ...]
    registry: Place
    traffic: TrafficFacts
    cache: Usage
    fills: tuple[FillFacts, ...]
    upstreams: tuple[UpstreamFacts, ...]
    rates: tuple[AccountRate, ...]
    history: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the numbers come from."""

    cache: CacheAdmin
    pulls: PullAdmin
    policies: Policies
    upstreams: Upstreams
    fills: Fills
    health: Health
    metrics: Metrics
    traffic: Traffic
    pool: Pool
    registry: Place


@dataclass(frozen=True, slots=True)
class _Counted:
    """Sums of the metrics, which take a while to read."""

    results: Mapping[tuple[str, ...], float]
    result_bytes: Mapping[tuple[str, ...], float]
    sent: Mapping[tuple[str, ...], float]
    received: Mapping[tuple[str, ...], float]
    asked: Mapping[tuple[str, ...], float]
    head_seconds: Mapping[tuple[str, ...], float]
    heads: Mapping[tuple[str, ...], float]

    @classmethod
    def of(cls, metrics: Metrics) -> "_Counted":
        seconds = metrics.upstream_seconds
        return cls(
            totals(metrics.requests, "result"),
            totals(metrics.client_bytes, "result"),
            totals(metrics.client_bytes, "upstream"),
            totals(metrics.upstream_bytes, "upstream"),
            totals(metrics.upstream_requests, "upstream", "kind", "method", "status"),
            totals(seconds, "upstream", suffix="_sum"),
            totals(seconds, "upstream", suffix="_count"),
        )

    def asked_of(self, upstream: str) -> Iterator[tuple[tuple[str, ...], int]]:
        return ((key[1:], int(count)) for key, count in self.asked.items() if key[0] == upstream)


class Overseer:
    """Looks at everything at once."""

    def __init__(self, sources: Sources) -> None:
        self._from = sources

    def fills(self) -> tuple[FillFacts, ...]:
        """Return the downloads that are running."""
        return tuple(map(_fill_facts, self._from.fills.all()))

    async def upstreams(self) -> tuple[UpstreamFacts, ...]:
        """Return how each upstream does; asks none of them."""
        return self._upstreams(await self._counted())

    async def look(self, *, with_history: bool) -> Overview:
        """Return all of it; no upstream is asked, no disk is read."""
        counted = await self._counted()
        upstreams = self._upstreams(counted)
        return Overview(
            self._from.traffic.now().at,
            mirror.__version__,
            tuple(self._from.health.reasons_not_ready()),
            self._from.registry,
            self._traffic(counted, upstreams),
            self._from.cache.totals(),
            self.fills(),
            upstreams,
            tuple(self._from.pulls.rates()),
            self._from.traffic.history() if with_history else (),
        )

    async def _counted(self) -> _Counted:
        return await self._from.pool.run(_Counted.of, self._from.metrics)

    def _traffic(self, counted: _Counted, upstreams: tuple[UpstreamFacts, ...]) -> TrafficFacts:
        results = {each.value: int(counted.results.get((each.value,), 0)) for each in Result}
        sizes = {each.value: int(counted.result_bytes.get((each.value,), 0)) for each in Result}
        traffic, now = self._from.traffic, self._from.traffic.now()
        return TrafficFacts(
            traffic.started_at,
            now.requests,
            traffic.meter.bodies,
            now.sent_bytes,
            now.received_bytes,
            max(0, now.sent_bytes - now.received_bytes),
            _share(sizes),
            _share({name: count for name, count in results.items() if name != Result.ERROR}),
            results,
            sizes,
            sum(each.pulls for each in upstreams),
            sum(each.saved_pulls for each in upstreams),
        )

    def _upstreams(self, counted: _Counted) -> tuple[UpstreamFacts, ...]:
        registries = self._from.upstreams.registries.items()
        return tuple(self._upstream(name, each, counted) for name, each in registries)

    def _upstream(self, name: str, registry: Registry, counted: _Counted) -> UpstreamFacts:
        requests = failed = downloaded = 0
        for (kind, method, status), count in counted.asked_of(name):
            requests += count
            failed += count if status == "0" or status.startswith("5") else 0
            downloaded += count if (kind, method, status) == ("manifest", "GET", "200") else 0
        pulls, heads = self._from.traffic.pulls[name], counted.heads.get((name,), 0)
        answered_seconds = registry.silent_seconds
        return UpstreamFacts(
            name,
            self._state(name, registry),
            answered_seconds if answered_seconds < math.inf else None,
            tuple(_endpoints(registry)),
            requests,
            failed,
            counted.head_seconds.get((name,), 0) / heads if heads else None,
            int(counted.sent.get((name,), 0)),
            int(counted.received.get((name,), 0)),
            pulls,
            downloaded,
            max(0, pulls - downloaded),
        )

    def _state(self, name: str, registry: Registry) -> State:
        mode = self._from.policies.named(name).mode
        closed = [door.is_open for door in registry.doors.values()]
        if mode != "online":
            return "offline" if mode == "offline" else "denied"
        if any(closed):
            return "down" if all(closed) else "degraded"
        if any(rate.pause_seconds > 0 for rate in registry.rates()):
            return "limited"
        return "up" if registry.silent_seconds < math.inf else "idle"


def _share(by_result: Mapping[str, int]) -> float | None:
    whole = sum(by_result.values())
    return sum(by_result[each] for each in _WITHOUT_DOWNLOAD) / whole if whole else None


def _endpoints(registry: Registry) -> Iterator[EndpointFacts]:
    for url, door in registry.doors.items():
        yield EndpointFacts(redact_text(url), not door.is_open, door.failures, door.closed_seconds)


def _fill_facts(fill: Fill) -> FillFacts:
    return FillFacts(
        fill.active_source.upstream,
        fill.active_source.name,
        str(fill.digest),
        fill.size_bytes if fill.size_bytes is not None else fill.expected_bytes,
        fill.received_bytes,
        fill.readers,
        not fill.has_slot and not fill.is_verified,
        fill.is_verified,
    )
