"""How long the event loop is away, under load: what one callback takes, and how late timers are.

A timer waits for all callbacks that are before it. The time in the kernel's run queue is left out
of both.
"""

from __future__ import annotations

import re
import sys
from typing import Final

from tests.bench.callbacks import percentile_ms
from tests.bench.report import Outcome, Sample
from tests.bench.requests import requests
from tests.bench.servers import MIRROR, Server, mirror
from tests.bench.stage import Stage
from tests.e2e import oci

_BUCKET: Final = re.compile(
    r'^mirror_event_loop_lag_seconds_bucket\{le="([^"]+)"\} ([0-9.e+]+)$', re.MULTILINE
)
_SECONDS: Final = 10
_ROUNDS: Final = 6
_HERD: Final = 32


def lag(stage: Stage) -> Outcome:
    """Return percentiles of the lag during cold and cached downloads and requests."""

    def measure() -> Sample:
        noted = stage.directory()
        command = [sys.executable, "-m", "tests.bench.callbacks", str(noted)]
        with mirror(stage.directory(), upstream=stage.origin.url, command=command) as server:
            before = _buckets(server)
            stage.download(stage.blob.url(server), _HERD)
            for _ in range(_ROUNDS):
                stage.download(stage.blob.url(server), 6)
            requests(stage.manifest_url(server), oci.MANIFEST, _SECONDS)
            after = _buckets(server)
        counts = {bound: after[bound] - before[bound] for bound in after}
        return {
            "one callback, 99th percentile, ms": percentile_ms(noted, 0.99),
            "one callback, 99.99th percentile, ms": percentile_ms(noted, 0.9999),
            "timers": counts[float("inf")],
            "a timer late, 99th percentile at most, ms": 1000 * _percentile(counts, 0.99),
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
