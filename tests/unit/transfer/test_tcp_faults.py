"""Fills over a line that misbehaves below HTTP."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.settings import Policy, Timeouts
from tests.fakes.clients import Ended
from tests.fakes.content import blob
from tests.fakes.registry import FakeRegistry
from tests.fakes.tcp_proxy import Ending, TcpProxy
from tests.harness import MIB, Mirror, mirror_of
from tests.unit.transfer.helpers import REPOSITORY, path

PUSHED = blob(6 * MIB, 5)
QUICK = Policy(timeouts=Timeouts(connect_seconds=1, response_seconds=2, idle_seconds=0.3))


@pytest.fixture
async def line(upstream: FakeRegistry) -> AsyncIterator[TcpProxy]:
    upstream.push_blob(REPOSITORY, PUSHED)
    async with TcpProxy(int(upstream.url.rsplit(":", 1)[1])) as proxy:
        yield proxy


@pytest.fixture
async def mirror(tmp_path: Path, line: TcpProxy) -> AsyncIterator[Mirror]:
    async with mirror_of(tmp_path / "cache", {"docker.io": line.url}, policy=QUICK) as up:
        yield up


async def pulled(mirror: Mirror, readers: int = 1) -> None:
    answers = await asyncio.gather(*(mirror.raw(path(PUSHED.digest)) for _ in range(readers)))
    assert [each.ended for each in answers] == [Ended.COMPLETE] * readers
    assert all(each.body == PUSHED.content for each in answers)
    await mirror.settled()
    assert mirror.stored(PUSHED.digest).read_bytes() == PUSHED.content


@pytest.mark.parametrize("ending", ["fin", "rst"])
@pytest.mark.parametrize("readers", [1, 8])
async def test_a_line_that_is_cut_every_megabyte(
    mirror: Mirror, line: TcpProxy, ending: Ending, readers: int
) -> None:
    line.does.cut_after_bytes, line.does.ending = MIB, ending
    await pulled(mirror, readers)

    assert line.passed.cuts >= 6
    received_bytes = await mirror.total("mirror_upstream_bytes_total")
    assert received_bytes == PUSHED.size_bytes  # not a byte twice


async def test_a_line_that_stalls(mirror: Mirror, line: TcpProxy) -> None:
    line.does.stall_after_bytes = 2 * MIB
    await pulled(mirror)
    assert await mirror.total("mirror_upstream_bytes_total") == PUSHED.size_bytes


async def test_a_line_that_is_slow(mirror: Mirror, line: TcpProxy) -> None:
    line.does.latency_seconds, line.does.bytes_per_second = 0.002, 20 * MIB
    await pulled(mirror)
    assert line.passed.connections == 1


async def test_a_line_that_flips_a_bit(mirror: Mirror, line: TcpProxy) -> None:
    line.does.flip_at_byte = 3 * MIB
    got = await mirror.raw(path(PUSHED.digest))
    await mirror.settled()

    assert got.ended is Ended.FIN
    assert not mirror.stored(PUSHED.digest).exists()
    line.does.flip_at_byte = None
    await pulled(mirror)


async def test_a_line_that_puts_something_in(mirror: Mirror, line: TcpProxy) -> None:
    line.does.insert_at_byte, line.does.insert = 3 * MIB, b"junk"
    got = await mirror.raw(path(PUSHED.digest))
    await mirror.settled()

    assert got.ended is Ended.FIN
    assert not mirror.stored(PUSHED.digest).exists()


async def test_a_black_hole_and_a_refusal_are_told_in_time(mirror: Mirror, line: TcpProxy) -> None:
    line.does.is_black_hole = True
    assert (await mirror.get(path(PUSHED.digest))).status == 504
    line.does.is_black_hole = False
    line.refuse()
    assert (await mirror.get(path(PUSHED.digest))).status == 502
    await line.listen()
    await pulled(mirror)
