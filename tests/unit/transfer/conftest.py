"""Mirrors that wait: what a gate holds must not run into a time limit on a busy machine."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.registry import FakeRegistry
from tests.harness import Mirror, mirror_of
from tests.unit.transfer.helpers import PATIENT


@pytest.fixture
async def mirror(tmp_path: Path, upstream: FakeRegistry, clock: FakeClock) -> AsyncIterator[Mirror]:
    """Return a mirror whose docker.io is the fake upstream, on a clock that stands still."""
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, clock=clock, policy=PATIENT
    ) as running:
        yield running
