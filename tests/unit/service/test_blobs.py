"""Sizes, heads, time limits: what is decided of a blob before its first byte."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.settings import Fill, Policy
from mirror.settings.units import SizeOrShare
from tests.fakes import faults, profiles
from tests.fakes.clients import Ended
from tests.fakes.content import blob, image
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, QUICK, Mirror, gathered, mirror_of
from tests.unit.web.wire import NOWHERE, REPOSITORY, ask, blob_path, lasting, manifest_path

IMAGE = image(layer_bytes=200_000)
LAYER = IMAGE.layers[0]
SIZE = str(LAYER.size_bytes)


# --- HEAD ------------------------------------------------------------------------------------


async def test_a_head_is_forwarded_once_and_starts_no_fill(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push_blob(REPOSITORY, LAYER)
    gate = upstream.hold_head(kind="blob")
    asking = asyncio.create_task(gathered(10, lambda: mirror.head(blob_path(LAYER.digest))))
    await gate.reached.wait()
    await mirror.get("/v2/")
    gate.release()

    heads = await asking

    assert {each.headers["Content-Length"] for each in heads} == {SIZE}
    assert sorted({each.cache_status for each in heads}) == [
        "mirror; fwd=uri-miss; collapsed",
        "mirror; fwd=uri-miss; fwd-status=200",
    ]
    assert [each.method for each in upstream.requests] == ["HEAD"]
    assert await mirror.total("mirror_fills_total") == 0


async def test_head_and_get_are_alike_cold_running_and_warm(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    pushed = blob(4 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    path = blob_path(pushed.digest)
    gate = upstream.hold_body(pushed.digest, after_bytes=MIB)

    cold = await mirror.head(path)
    get = asyncio.create_task(mirror.get(path))
    await gate.reached.wait()
    running = await mirror.head(path)
    gate.release()
    await get
    await mirror.settled()
    warm, warm_get = await mirror.head(path), await mirror.get(path)

    assert running.cache_status == "mirror; fwd=uri-miss; collapsed"
    assert warm.cache_status == warm_get.cache_status == "mirror; hit"
    for head in (cold, running, warm):
        assert (head.status, head.body) == (200, b"")
        assert lasting(head.headers) == lasting((await get).headers) == lasting(warm_get.headers)
    assert upstream.count("HEAD") == 1


@pytest.mark.parametrize("linked", [True, False], ids=["linked", "unknown"])
async def test_trap_10_a_head_that_upstream_does_not_do_is_answered(
    mirror: Mirror, upstream: FakeRegistry, *, linked: bool
) -> None:
    """Harbor answers 404 to HEAD of a blob though GET would work, which breaks chaining."""
    faulty = {
        "401": faults.status(401),
        "405": faults.status(405),
        "501": faults.status(501),
        "no length": faults.without("Content-Length"),
    }
    for number, (name, fault) in enumerate(faulty.items()):
        repository = f"ghcr.io/team/app-{number}"
        upstream.push(repository.removeprefix("ghcr.io/"), IMAGE, ["v1"])
        upstream.fail(fault, kind="blob", method="HEAD")
        if linked:
            await mirror.get(manifest_path("v1", repository))
        upstream.clear()
        head = await mirror.head(blob_path(LAYER.digest, repository))

        assert head.status == 200, name
        assert head.headers["Content-Length"] == SIZE, name
        # A manifest knows the size; without one, a GET is opened, and closed after its head.
        assert upstream.count("GET", "blob") == (0 if linked else 1), name
        upstream.heal()
        assert await mirror.total("mirror_fills_total") == 0
        missing = await mirror.head(blob_path(NOWHERE, repository))
        assert missing.status == 404


@pytest.fixture
async def mirror(tmp_path: Path, upstream: FakeRegistry) -> AsyncIterator[Mirror]:
    both = {"docker.io": upstream, "ghcr.io": upstream}
    async with mirror_of(tmp_path / "cache", both) as running:
        yield running


async def test_ecr_public_refuses_head(tmp_path: Path) -> None:
    async with profiles.ecr_public() as site:
        site.registry.push("team/app", IMAGE, ["v1"])
        async with mirror_of(tmp_path / "cache", {"public.ecr.aws": site.registry}) as mirror:
            unknown = await mirror.head(blob_path(IMAGE.layers[1].digest, "team/app"))
            await mirror.get(manifest_path("v1", "team/app"))
            linked = await mirror.head(blob_path(LAYER.digest, "team/app"))
            got = await mirror.get(blob_path(LAYER.digest, "team/app"))

    assert (unknown.status, linked.status) == (200, 200)
    assert unknown.headers["Content-Length"] == str(IMAGE.layers[1].size_bytes)
    assert linked.headers["Content-Length"] == SIZE
    assert got.body == LAYER.content


async def test_a_head_whose_length_nobody_knows(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.push_blob(REPOSITORY, LAYER)
    upstream.fail(faults.without("Content-Length"), kind="blob")

    head = await ask(mirror, blob_path(LAYER.digest), method="HEAD")

    assert head.status == 200
    assert head.header("Content-Length") is None


# --- GET without a length --------------------------------------------------------------------


async def test_the_descriptor_gives_the_length_that_upstream_does_not(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    await mirror.get(manifest_path("v1"))
    upstream.fail(faults.chunked(), kind="blob")

    answer = await ask(mirror, blob_path(LAYER.digest))
    ranged = await ask(mirror, blob_path(IMAGE.layers[1].digest), ("Range", "bytes=-9"))

    assert (answer.header("Content-Length"), answer.ended) == (SIZE, Ended.COMPLETE)
    assert answer.body == LAYER.content
    assert (ranged.status, ranged.body) == (206, IMAGE.layers[1].content[-9:])


async def test_a_length_that_nobody_knows_is_chunked(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    pushed = blob(3 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.chunked(), kind="blob")
    gate = upstream.hold_body(pushed.digest, after_bytes=MIB)
    first = asyncio.create_task(ask(mirror, blob_path(pushed.digest)))
    await gate.reached.wait()
    ranged = asyncio.create_task(ask(mirror, blob_path(pushed.digest), ("Range", "bytes=5-9")))
    while await mirror.metric("mirror_fill_readers") < 2:
        await mirror.get("/v2/")
    gate.release()

    for answer in (await first, await ranged):
        assert (answer.status, answer.ended) == (200, Ended.COMPLETE)
        assert answer.header("Content-Length") is None
        assert answer.body == pushed.content
    await mirror.settled()
    warm = await ask(mirror, blob_path(pushed.digest))
    assert warm.header("Content-Length") == str(3 * MIB)


# --- time limits (invariant 9) ---------------------------------------------------------------


async def test_one_deadline_over_everything_before_our_head(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    upstream.push("team/a", IMAGE, ["v1"])
    slow = QUICK.model_copy(update={"response_seconds": 0.5, "connect_seconds": 0.5})
    loop = asyncio.get_running_loop()
    async with mirror_of(
        tmp_path / "cache", {"ghcr.io": upstream}, policy=Policy(timeouts=slow)
    ) as mirror:
        upstream.fail(faults.redirect_hops(3), kind="manifest")
        upstream.hold_head(repository="team/b")
        upstream.hold_head(repository="team/a", method="GET")

        async def seconds(path: str) -> float:
            started = loop.time()
            assert (await mirror.get(path)).status == 504, path
            return loop.time() - started

        took = await asyncio.gather(
            seconds(manifest_path("v1", "team/a")),
            seconds(blob_path(LAYER.digest, "team/a")),
            seconds(manifest_path("v1", "team/b")),
            seconds(manifest_path(IMAGE.digest, "team/b")),
            seconds("/v2/team/b/tags/list"),
            seconds(f"/v2/team/b/referrers/{IMAGE.digest}"),
        )

    assert all(0.4 < each < 1.0 for each in took), took


async def test_the_deadline_is_not_begun_anew_past_the_cache(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    pushed = blob(MIB)
    upstream.push_blob(REPOSITORY, pushed)
    slow = QUICK.model_copy(update={"response_seconds": 0.6})
    loop = asyncio.get_running_loop()
    async with mirror_of(
        tmp_path / "cache",
        {"docker.io": upstream},
        policy=Policy(timeouts=slow),
        cache={"max_size": SizeOrShare(size_bytes=100)},
    ) as mirror:
        fill = upstream.hold_head(kind="blob", times=1)
        past_the_cache = upstream.hold_head(kind="blob")
        loop.call_later(0.5, fill.release)
        started = loop.time()

        assert (await mirror.get(blob_path(pushed.digest))).status == 504
        assert loop.time() - started < 1.0
        assert past_the_cache.reached.is_set()


async def test_without_a_slot_the_mirror_is_overloaded(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    one, two = blob(MIB, 1), blob(MIB, 2)
    for pushed in (one, two):
        upstream.push_blob(REPOSITORY, pushed)
    slow = QUICK.model_copy(update={"response_seconds": 0.5})
    async with mirror_of(
        tmp_path / "cache",
        {"docker.io": upstream},
        policy=Policy(timeouts=slow),
        fill=Fill(max_concurrent=1),
    ) as mirror:
        gate = upstream.hold_body(one.digest, after_bytes=MIB // 2)
        first = asyncio.create_task(mirror.get(blob_path(one.digest)))
        await gate.reached.wait()

        waiting = await mirror.get(blob_path(two.digest))
        gate.release()

        assert waiting.status == 503
        assert waiting.headers["Retry-After"] == "5"
        assert (await first).body == one.content
        assert (await mirror.get(blob_path(two.digest))).body == two.content
