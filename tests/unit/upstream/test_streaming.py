"""Small bodies are taken in few steps, and slow ones as they come."""

import asyncio
from pathlib import Path

import pytest

from mirror.transfer.appender import Appender
from mirror.upstream.receiving import Batch
from tests.fakes.content import blob as blob_of
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, Mirror, mirror_of
from tests.unit.upstream.pulling import REPOSITORY, blob

PUSHED = blob_of(MIB, 3)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of the steps in which bodies come."""
    sizes: list[int] = []
    real = Appender.put

    async def put(self: Appender, batch: Batch) -> None:
        sizes.append(batch.size_bytes)
        await real(self, batch)

    monkeypatch.setattr(Appender, "put", put)
    return sizes


async def test_a_small_body_comes_in_few_steps(
    mirror: Mirror, upstream: FakeRegistry, steps: list[int]
) -> None:
    upstream.push_blob(REPOSITORY, PUSHED)
    assert (await mirror.get(blob(PUSHED.digest))).body == PUSHED.content
    await mirror.settled()

    assert sum(steps) == MIB
    assert len(steps) <= 4  # of some dozen packets


async def test_what_has_come_of_a_small_body_is_not_kept_back_for_long(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    upstream.push_blob(REPOSITORY, PUSHED)
    gate = upstream.hold_body(PUSHED.digest, after_bytes=MIB // 2)
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        async with mirror.session.get(mirror.url + blob(PUSHED.digest)) as response:
            async with asyncio.timeout(2):
                assert await response.content.readexactly(MIB // 4) == PUSHED.content[: MIB // 4]
            gate.release()
            assert await response.read() == PUSHED.content[MIB // 4 :]
        await mirror.settled()
