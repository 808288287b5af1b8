"""What all fast tests share."""

import asyncio
import io
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from mirror.observe import logs
from tests.fakes.clock import FakeClock
from tests.fakes.registry import FakeRegistry
from tests.harness import ForbiddenExecutor, Mirror, mirror_of

CANARY = "canary-secret"
"""What the passwords of accounts in all tests begin with."""


MEMORY = Path("/dev/shm")  # noqa: S108 -- pytest makes a directory of its own in it
MEMORY_MIN_BYTES = 2 << 30


def pytest_configure() -> None:
    """Keep the files of these tests in memory where there is room, unless TMPDIR says where.

    Each start of a mirror syncs its index several times, which takes a disk longer than all the
    rest: a fifth of the time of all tests. What a real disk does is for ``tests/e2e``.
    """
    if "TMPDIR" not in os.environ and has_room(MEMORY):
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


def has_room(memory: Path) -> bool:
    """Return whether that may hold our files, of which some are programs."""
    try:
        facts = os.statvfs(memory)
    except OSError:
        return False
    is_large = facts.f_bavail * facts.f_frsize >= MEMORY_MIN_BYTES
    return is_large and not facts.f_flag & os.ST_NOEXEC and os.access(memory, os.W_OK)


@pytest.fixture(autouse=True)
def log_lines() -> Iterator[io.StringIO]:
    """Return what is logged; without this, structlog would print local variables.

    The password of the tests is in no line of any of them.
    """
    lines = io.StringIO()
    logs.configure("json", "debug", lines)
    yield lines
    structlog.reset_defaults()
    assert CANARY not in lines.getvalue()


@pytest.fixture(autouse=True)
async def _forbid_the_default_executor() -> None:
    asyncio.get_running_loop().set_default_executor(ForbiddenExecutor(1))


@pytest.fixture
async def upstream() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1_800_000_000.0)


@pytest.fixture
async def mirror(tmp_path: Path, upstream: FakeRegistry, clock: FakeClock) -> AsyncIterator[Mirror]:
    """Return a mirror whose docker.io is the fake upstream, on a clock that stands still."""
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, clock=clock) as running:
        yield running
