"""How long the event loop is away: by how much a timer comes too late, under load.

The time in the kernel's run queue is left out, as the metric has it.
"""

from __future__ import annotations

import re
from typing import Final

from tests.bench.report import Outcome, Sample
from tests.bench.requests import requests
from tests.bench.servers import MIRROR, Server
from tests.bench.stage import Stage, caches
from tests.e2e import oci

_BUCKET: Final = re.compile(
    r'^mirror_event_loop_lag_seconds_bucket\{le="([^"]+)"\} ([0-9.e+]+)$', re.MULTILINE
)
_SECONDS: Final = 10
_ROUNDS: Final = 6
_HERD: Final = 32


def lag(stage: Stage) -> Outcome:
    """Return the 99th percentile of the lag during cold and cached downloads and requests."""

    def measure() -> Sample:
        with caches(stage)[MIRROR]() as server:
            before = _buckets(server)
            stage.download(stage.blob.url(server), _HERD)
            for _ in range(_ROUNDS):
                stage.download(stage.blob.url(server), 6)
            requests(stage.manifest_url(server), oci.MANIFEST, _SECONDS)
            after = _buckets(server)
        counts = {bound: after[bound] - before[bound] for bound in after}
        return {
            "samples": counts[float("inf")],
            "99th percentile at most, ms": 1000 * _percentile(counts, 0.99),
        }

    what = f"the mirror alone: a herd of {_HERD}, cached downloads, manifests"
    return stage.take_turns("lag", what, {MIRROR: measure}, rounds=min(3, stage.rounds))


def _buckets(server: Server) -> dict[float, float]:
    text = oci.request(f"{server.admin_url}/metrics").body.decode()
    return {float(bound): float(count) for bound, count in _BUCKET.findall(text)}


def _percentile(counts: dict[float, float], share: float) -> float:
    """Return the least bound below which such a share of the samples is."""
    wanted = share * counts[float("inf")]
    return min(bound for bound, count in counts.items() if count >= wanted)
