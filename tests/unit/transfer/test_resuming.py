"""A download that breaks goes on where it broke, while the process lives."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from mirror.settings import Policy, Timeouts
from mirror.transfer import patience
from tests.fakes import faults
from tests.fakes.content import blob, image
from tests.fakes.registry import FakeRegistry
from tests.fakes.script import Fault
from tests.harness import MIB, QUICK, Mirror, mirror_of
from tests.unit.transfer.helpers import REPOSITORY, path

STALL = Policy(timeouts=Timeouts(response_seconds=3, idle_seconds=0.1))


@pytest.mark.parametrize(
    "fault",
    [
        faults.cut(1_000_000),
        faults.cut(1_000_000, rst=True),
        faults.hang_in_body(1_000_000),
        faults.chunked(only_bytes=1_000_000),
    ],
    ids=["fin", "rst", "stall", "short chunks"],
)
async def test_the_client_does_not_notice(
    tmp_path: Path, upstream: FakeRegistry, fault: Fault
) -> None:
    pulled = image(layers=1, layer_bytes=3 * MIB)
    pushed = pulled.layers[0]
    upstream.push(REPOSITORY, pulled, tags=["v1"])
    upstream.fail(fault, kind="blob", times=1)
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, policy=STALL) as mirror:
        await mirror.get(f"/v2/{REPOSITORY}/manifests/v1")
        got = await mirror.get(path(pushed.digest))
        await mirror.settled()

        assert got.body == pushed.content
        assert got.headers["Content-Length"] == str(pushed.size_bytes)
        ranges = [each.header("Range") for each in upstream.matching(kind="blob")]
        assert ranges == [None, "bytes=1000000-"]
        assert await mirror.total("mirror_fill_resumes_total") == 1
        assert mirror.stored(pushed.digest).read_bytes() == pushed.content


async def test_trouble_on_the_way_is_waited_out(mirror: Mirror, upstream: FakeRegistry) -> None:
    pushed = blob(2 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    for fault in (faults.cut(MIB), faults.status(503), faults.too_many_requests()):
        upstream.fail(fault, kind="blob", times=1)

    assert (await mirror.get(path(pushed.digest))).body == pushed.content


@pytest.mark.parametrize(
    "fault",
    [faults.range_total(5 * MIB), faults.flip(at_byte=2 * MIB)],
    ids=["another length", "another content"],
)
async def test_what_is_not_the_same_any_more_ends_the_body_early(
    mirror: Mirror, upstream: FakeRegistry, fault: Fault
) -> None:
    pushed = blob(3 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.cut(MIB), kind="blob", times=1)
    upstream.fail(fault, kind="blob")

    with pytest.raises(aiohttp.ClientPayloadError):
        await mirror.get(path(pushed.digest))
    await mirror.settled()

    assert not mirror.stored(pushed.digest).exists()
    assert not list((mirror.directory / "partial").iterdir())
    assert mirror.up.store.space.reserved_bytes == 0


async def test_what_is_gone_in_the_middle_ends_the_body_early_and_may_come_back(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    pushed = blob(3 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.cut(MIB), kind="blob", times=1)
    upstream.fail(faults.status(404), kind="blob", times=1)

    with pytest.raises(aiohttp.ClientPayloadError):
        await mirror.get(path(pushed.digest))
    await mirror.settled()

    assert mirror.up.store.partials.idle_bytes == MIB
    assert (await mirror.get(path(pushed.digest))).body == pushed.content
    assert upstream.requests[-1].header("Range") == f"bytes={MIB}-"


async def test_more_than_was_announced_is_not_taken(mirror: Mirror, upstream: FakeRegistry) -> None:
    pushed = blob(MIB)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.surplus(), kind="blob")

    assert (await mirror.get(path(pushed.digest))).body == pushed.content


async def test_a_blob_by_sha512(mirror: Mirror, upstream: FakeRegistry) -> None:
    pushed = blob(MIB, algorithm="sha512")
    upstream.push_blob(REPOSITORY, pushed)

    assert (await mirror.get(path(pushed.digest))).body == pushed.content
    await mirror.settled()
    assert mirror.stored(pushed.digest).read_bytes() == pushed.content
    assert (await mirror.get(path(pushed.digest))).cache_status == "mirror; hit"


async def test_a_blob_without_bytes(mirror: Mirror, upstream: FakeRegistry) -> None:
    pushed = blob(0)
    upstream.push_blob(REPOSITORY, pushed)

    for _ in range(2):
        got = await mirror.get(path(pushed.digest))
        assert (got.status, got.body, got.headers["Content-Length"]) == (200, b"", "0")
        await mirror.settled()
    assert upstream.count("GET", "blob") == 1


async def test_an_empty_answer_for_a_blob_that_is_not_empty(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    pushed = blob(3000)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.empty(), kind="blob", method="GET")

    got = await mirror.get(path(pushed.digest))

    assert got.status == 502
    await mirror.settled()
    assert not mirror.stored(pushed.digest).exists()


@pytest.mark.parametrize("then", [faults.hang(), faults.hang_in_body()], ids=["head", "body"])
async def test_s12_a_body_that_hangs_for_good_ends_soon_after_its_idle_time(
    tmp_path: Path, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch, then: Fault
) -> None:
    """Five tries of thirty seconds each would be longer than any client waits."""
    monkeypatch.setattr(patience, "GAIN_SECONDS", 0.3)
    pushed = blob(MIB)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.hang_in_body(100_000), kind="blob", times=1)
    upstream.fail(then, kind="blob")
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        began = asyncio.get_running_loop().time()
        with pytest.raises(aiohttp.ClientPayloadError):
            await mirror.get(path(pushed.digest))
        assert asyncio.get_running_loop().time() - began < QUICK.idle_seconds + 1
        await mirror.settled()

        upstream.heal()
        assert (await mirror.get(path(pushed.digest))).body == pushed.content
    assert upstream.bytes_sent(pushed.digest) < MIB + 200_000, "it went on with what it had"
