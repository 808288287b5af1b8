"""Wrong content and endpoints that get nowhere: the next one is asked (issue: digest mismatch)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.settings import Fill, Upstream
from tests.fakes import faults
from tests.fakes.clients import Ended, RawClient, compose
from tests.fakes.content import blob
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, Mirror, mirror_of
from tests.unit.transfer.helpers import REPOSITORY, path

PUSHED = blob(3 * MIB, 3)


@pytest.fixture
async def second() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as registry:
        registry.push_blob(REPOSITORY, PUSHED)
        yield registry


@pytest.fixture
async def pair(
    tmp_path: Path, upstream: FakeRegistry, second: FakeRegistry
) -> AsyncIterator[Mirror]:
    """A mirror of an upstream with two endpoints."""
    upstream.push_blob(REPOSITORY, PUSHED)
    both = Upstream(endpoints=(upstream.url, second.url))
    async with mirror_of(tmp_path / "cache", {"docker.io": both}) as mirror:
        yield mirror


def ranges(registry: FakeRegistry) -> list[str | None]:
    return [request.header("Range") for request in registry.requests]


async def test_after_wrong_content_the_next_endpoint_is_asked_from_zero(
    pair: Mirror, upstream: FakeRegistry, second: FakeRegistry
) -> None:
    """Only the last byte is wrong: nobody has it yet, so nobody notices."""
    upstream.fail(faults.flip(at_byte=3 * MIB - 1), kind="blob")

    assert (await pair.get(path(PUSHED.digest))).body == PUSHED.content
    await pair.settled()

    assert pair.stored(PUSHED.digest).read_bytes() == PUSHED.content
    assert (ranges(upstream), ranges(second)) == ([None], [None])
    assert await pair.total("mirror_digest_mismatches_total") == 1
    assert pair.up.store.space.used_bytes == 3 * MIB
    assert not list((pair.directory / "partial").iterdir())


async def test_whose_bytes_were_right_so_far_goes_on_and_others_are_cut(
    pair: Mirror, upstream: FakeRegistry
) -> None:
    upstream.fail(faults.flip(at_byte=2 * MIB), kind="blob")
    gate = upstream.hold_body(PUSHED.digest, after_bytes=3 * MIB - 1000)
    whole = asyncio.create_task(pair.raw(path(PUSHED.digest)))
    early = asyncio.create_task(
        pair.raw(path(PUSHED.digest), [("Range", f"bytes=0-{2 * MIB - 1}")])
    )
    last = asyncio.create_task(
        pair.raw(path(PUSHED.digest), [("Range", f"bytes={3 * MIB - 100}-")])
    )
    await gate.reached.wait()
    right = await early  # it has all it wants
    gate.release()
    cut, waited = await asyncio.gather(whole, last)
    await pair.settled()

    assert cut.ended is Ended.FIN
    assert (right.ended, right.body) == (Ended.COMPLETE, PUSHED.content[: 2 * MIB])
    # It had nothing yet, but where it begins the first content was wrong before.
    assert waited.ended is Ended.FIN or waited.body == PUSHED.content[-100:]
    assert pair.stored(PUSHED.digest).read_bytes() == PUSHED.content


async def test_who_sent_wrong_content_is_asked_last_for_a_while(
    tmp_path: Path, pair: Mirror, upstream: FakeRegistry, second: FakeRegistry
) -> None:
    upstream.fail(faults.flip(), kind="blob", times=1)
    second.fail(faults.flip(), kind="blob", times=1)

    got = await pair.raw(path(PUSHED.digest))
    assert got.ended is Ended.FIN  # nobody could deliver
    second.push_blob(REPOSITORY, PUSHED)
    upstream.fail(faults.status(503), kind="blob")
    assert (await pair.get(path(PUSHED.digest))).body == PUSHED.content
    await pair.settled()
    assert pair.stored(PUSHED.digest).exists()


async def test_a_sole_endpoint_is_asked_again_after_wrong_content(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    upstream.push_blob(REPOSITORY, PUSHED)
    upstream.fail(faults.flip(), kind="blob", times=1)
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        assert (await mirror.raw(path(PUSHED.digest))).ended is Ended.FIN
        await mirror.settled()
        assert not list((mirror.directory / "partial").iterdir())
        assert (await mirror.get(path(PUSHED.digest))).body == PUSHED.content


async def test_an_endpoint_that_gets_nowhere_makes_way(
    pair: Mirror, upstream: FakeRegistry, second: FakeRegistry
) -> None:
    upstream.fail(faults.cut(MIB), kind="blob", times=1)
    upstream.fail(faults.cut(0), kind="blob")

    assert (await pair.get(path(PUSHED.digest))).body == PUSHED.content

    assert ranges(second) == [f"bytes={MIB}-"]
    assert len(upstream.requests) <= 3


async def test_a_patchwork_of_two_endpoints_is_fetched_anew_before_one_is_blamed(
    pair: Mirror, upstream: FakeRegistry, second: FakeRegistry
) -> None:
    """The first sends wrong bytes and breaks, the second goes on rightly."""
    upstream.fail(faults.flip(at_byte=MIB - 1), faults.cut(MIB), kind="blob", times=1)
    upstream.fail(faults.status(503), kind="blob")

    got = await pair.raw(path(PUSHED.digest))
    await pair.settled()

    assert got.ended is Ended.FIN  # it had the wrong byte
    assert pair.stored(PUSHED.digest).read_bytes() == PUSHED.content
    assert ranges(second)[-1] is None


@pytest.mark.parametrize("status", [404, 503])
async def test_wrong_content_is_not_asked_for_for_ever(
    pair: Mirror, upstream: FakeRegistry, second: FakeRegistry, status: int
) -> None:
    """The only one that answers has it wrong."""
    upstream.fail(faults.flip(at_byte=3 * MIB - 1), kind="blob")
    second.fail(faults.status(status), kind="blob")

    async with asyncio.timeout(10):
        got = await pair.raw(path(PUSHED.digest))
        await pair.settled()

    assert got.ended is Ended.FIN
    assert len(got.body) < PUSHED.size_bytes
    assert upstream.count("GET", "blob") == 2


async def test_nobody_gets_the_end_of_what_was_wrong(
    tmp_path: Path, upstream: FakeRegistry, second: FakeRegistry
) -> None:
    """A slow client is ahead of the new download: its last bytes come from nowhere else."""
    pushed = blob(12 * MIB, 4)
    for registry in (upstream, second):
        registry.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.flip(at_byte=pushed.size_bytes - 1), kind="blob")
    wrong = upstream.hold_body(pushed.digest, after_bytes=pushed.size_bytes - 1000, times=1)
    right = second.hold_head("blob", pushed.digest)
    both = Upstream(endpoints=(upstream.url, second.url))
    fill = Fill(range_wait_seconds=0.05)
    async with (
        mirror_of(tmp_path / "cache", {"docker.io": both}, fill=fill) as mirror,
        await RawClient.connect(mirror.host, mirror.port) as client,
    ):
        await client.send(compose(path(pushed.digest)))
        await wrong.reached.wait()
        await asyncio.sleep(0.1)  # by now it is known how quick the fill is
        wrong.release()
        await right.reached.wait()
        answer = asyncio.create_task(client.answer())
        await asyncio.wait([answer], timeout=0.2)
        assert not answer.done()
        right.release()
        assert (await answer).body == pushed.content
    assert upstream.count("GET", "blob") == 1
