"""How long a download waits before it tries again, and when it gives up."""

import asyncio
import random

import pytest
from prometheus_client import CollectorRegistry

from mirror.domain.errors import UpstreamTroubleError
from mirror.observe.metrics import Metrics
from mirror.transfer.patience import Retries

BROKEN = UpstreamTroubleError("it broke")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the waits, which take no time here."""
    seconds: list[float] = []

    async def sleep(delay: float) -> None:
        seconds.append(delay)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(random, "random", lambda: 0.0)
    return seconds


async def test_each_try_that_brings_nothing_is_waited_for_twice_as_long(
    waits: list[float],
) -> None:
    retries = Retries(Metrics(CollectorRegistry()))
    for _ in range(4):
        await retries.after(BROKEN, 0)
    with pytest.raises(UpstreamTroubleError):
        await retries.after(BROKEN, 0)
    assert waits == pytest.approx([0.4, 0.8, 1.6, 3.2])


async def test_who_gains_bytes_goes_on_without_end_and_waits_little(waits: list[float]) -> None:
    retries = Retries(Metrics(CollectorRegistry()))
    for _ in range(20):
        await retries.after(BROKEN, 1)
        retries.heard()
    assert waits == pytest.approx([0.2] * 20)
