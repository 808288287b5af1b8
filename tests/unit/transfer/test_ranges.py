"""Ranges of a blob that is on its way in (invariant 6)."""

import asyncio
from pathlib import Path

import pytest

from mirror.settings import Fill
from tests.fakes import faults
from tests.fakes.clients import RawClient, compose
from tests.fakes.content import blob
from tests.fakes.registry import FakeRegistry
from tests.fakes.script import Fault
from tests.harness import MIB, Mirror, mirror_of
from tests.unit.transfer.helpers import PATIENT, REPOSITORY, boarded, path

_SOCKETS_HOLD_BYTES = 12 * MIB
"""What the kernel takes from a fake upstream on loopback for a reader that does not read."""


async def _chunk(mirror: Mirror, digest: str, start: int, count: int) -> bytes:
    """Read a chunk as containerd 2.1 does: an open-ended range, closed once it has enough."""
    async with await RawClient.connect(mirror.host, mirror.port) as client:
        await client.send(compose(path(digest), [("Range", f"bytes={start}-")]))
        head = await client.head()
        assert head.status == 206
        return await client.read(count)


@pytest.mark.parametrize("upstream_is", ["fast", "slow"])
async def test_64_parallel_open_ranges_cost_no_more_than_the_blob(
    tmp_path: Path, upstream: FakeRegistry, upstream_is: str
) -> None:
    size, count, chunk = (32 if upstream_is == "fast" else 96) * MIB, 64, 256 * 1024
    pushed = blob(size)
    starts = range(0, size, size // count)
    upstream.push_blob(REPOSITORY, pushed)
    gate = None
    if upstream_is == "slow":
        gate = upstream.hold_body(pushed.digest, after_bytes=2 * MIB, times=1)
    # Slow: what is far ahead is far ahead at once.
    how = Fill(range_wait_seconds=5 if gate is None else 0.01)
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, fill=how, policy=PATIENT
    ) as mirror:
        first = asyncio.create_task(_chunk(mirror, pushed.digest, 0, chunk))
        await upstream.until(lambda: upstream.count("GET", "blob") > 0)
        if gate is not None:
            await gate.reached.wait()
        chunks = [
            asyncio.create_task(_chunk(mirror, pushed.digest, start, chunk)) for start in starts[1:]
        ]
        if gate is not None:
            await asyncio.wait(chunks, return_when=asyncio.FIRST_COMPLETED)  # one was forwarded
            gate.release()
        got = [await each for each in (first, *chunks)]
        await mirror.settled()

        assert got == [pushed.content[start : start + chunk] for start in starts]
        cost = await mirror.metric("mirror_upstream_bytes_total", upstream="docker.io")
        assert cost <= 1.05 * size
        in_sockets = 0 if gate is None else 2 * _SOCKETS_HOLD_BYTES
        assert upstream.bytes_sent(pushed.digest) <= 1.05 * size + in_sockets
        forwarded = await mirror.metric("mirror_forwarded_ranges_total", upstream="docker.io")
        assert forwarded == (0 if gate is None else 2)
        assert upstream.count("GET", "blob") == 1 + forwarded


async def test_a_range_that_is_not_far_ahead_waits_for_the_fill(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    pushed = blob(4 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=2 * MIB)
    first = asyncio.create_task(mirror.get(path(pushed.digest)))
    await gate.reached.wait()
    ranged = asyncio.create_task(mirror.get(path(pushed.digest), {"Range": f"bytes={3 * MIB}-"}))
    await boarded(mirror, 2)
    gate.release()

    assert (await ranged).body == pushed.content[3 * MIB :]
    assert (await first).body == pushed.content
    assert upstream.count("GET", "blob") == 1


@pytest.fixture
def at_once() -> Fill:
    return Fill(range_wait_seconds=0)


async def test_no_more_than_two_ranges_of_a_fill_are_forwarded(
    tmp_path: Path, upstream: FakeRegistry, at_once: Fill
) -> None:
    pushed = blob(4 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=100, times=1)
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, fill=at_once, policy=PATIENT
    ) as mirror:
        readers = [asyncio.create_task(mirror.get(path(pushed.digest)))]
        await gate.reached.wait()
        spans = [(3_000_000 + 1000 * n, 3_000_000 + 1000 * n + 999) for n in range(5)]
        readers += [
            asyncio.create_task(mirror.get(path(pushed.digest), {"Range": f"bytes={a}-{b}"}))
            for a, b in spans
        ]
        await boarded(mirror, 4)  # two were forwarded and are done
        gate.release()
        whole, *parts = await asyncio.gather(*readers)

        assert whole.body == pushed.content
        assert [part.body for part in parts] == [pushed.content[a : b + 1] for a, b in spans]
        assert upstream.count("GET", "blob") == 3


async def test_a_forwarded_range_is_closed_with_its_client(
    tmp_path: Path, upstream: FakeRegistry, at_once: Fill
) -> None:
    pushed = blob(48 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=100, times=1)
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, fill=at_once, policy=PATIENT
    ) as mirror:
        first = asyncio.create_task(mirror.get(path(pushed.digest)))
        await gate.reached.wait()
        chunk = await _chunk(mirror, pushed.digest, 16 * MIB, MIB)
        await boarded(mirror, 1)
        forwarded = upstream.matching(method="GET", kind="blob")[1]
        await upstream.until(lambda: forwarded.ended != "open")
        gate.release()

        assert chunk == pushed.content[16 * MIB : 17 * MIB]
        assert forwarded.ended == "gone"
        assert forwarded.header("Range") == f"bytes={16 * MIB}-{48 * MIB - 1}"
        assert forwarded.sent_bytes <= 2 * MIB + _SOCKETS_HOLD_BYTES
        assert (await first).body == pushed.content


async def test_a_forwarded_range_goes_over_to_the_fill_that_has_caught_up(
    tmp_path: Path, upstream: FakeRegistry, at_once: Fill
) -> None:
    pushed = blob(24 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=100, times=1)
    slow = upstream.hold_body(pushed.digest, after_bytes=MIB, times=1)
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, fill=at_once, policy=PATIENT
    ) as mirror:
        first = asyncio.create_task(mirror.get(path(pushed.digest)))
        await gate.reached.wait()
        ranged = asyncio.create_task(mirror.get(path(pushed.digest), {"Range": "bytes=4000000-"}))
        await slow.reached.wait()
        gate.release()
        assert (await first).body == pushed.content
        slow.release()

        assert (await ranged).body == pushed.content[4_000_000:]
        forwarded = upstream.matching(method="GET", kind="blob")[1]
        await upstream.until(lambda: forwarded.ended != "open")
        assert forwarded.ended == "gone"


@pytest.mark.parametrize(
    "fault",
    [faults.status(503), faults.status(404), faults.ignore_range(), faults.cut(1000)],
    ids=["outage", "missing", "no ranges", "cut"],
)
async def test_a_forwarded_range_that_fails_falls_back_on_the_fill(
    tmp_path: Path, upstream: FakeRegistry, at_once: Fill, fault: Fault
) -> None:
    pushed = blob(4 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=100, times=1)
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, fill=at_once, policy=PATIENT
    ) as mirror:
        first = asyncio.create_task(mirror.get(path(pushed.digest)))
        await gate.reached.wait()
        upstream.fail(fault, kind="blob", method="GET")
        ranged = asyncio.create_task(mirror.get(path(pushed.digest), {"Range": "bytes=3000000-"}))
        await upstream.until(lambda: upstream.count("GET", "blob") == 3)
        gate.release()

        assert (await ranged).body == pushed.content[3_000_000:]
        assert (await first).body == pushed.content


@pytest.mark.parametrize("range_header", ["bytes=0-", "bytes=-65536", "bytes=1048576-1048577"])
async def test_no_range_shows_unverified_last_bytes(
    mirror: Mirror, upstream: FakeRegistry, range_header: str
) -> None:
    pushed = blob(MIB + 2)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.flip(at_byte=MIB + 1), kind="blob")

    answer = await mirror.raw(path(pushed.digest), [("Range", range_header)])

    assert answer.status == 206
    assert pushed.content.find(answer.body) >= 0
    assert len(answer.body) < int(answer.header("Content-Length") or 0)
