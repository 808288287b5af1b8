"""What a tag means, for how long, and what is said of it."""

import asyncio
from pathlib import Path

import pytest

from mirror.settings import Policy, Upstream
from mirror.settings.policy import TagRule
from tests.fakes import faults, profiles
from tests.fakes.clock import FakeClock
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.harness import QUICK, Mirror, mirror_of
from tests.unit.web.wire import NOWHERE, REPOSITORY, manifest_path

ONE, TWO = image(1), image(2)
PATIENT = QUICK.model_copy(update={"revalidate_seconds": 3})


async def test_a_fresh_tag_asks_nobody(
    mirror: Mirror, upstream: FakeRegistry, clock: FakeClock
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])

    cold = await mirror.get(manifest_path("v1"))
    await mirror.pull_blobs(REPOSITORY, ONE)
    clock.advance(599)
    warm = await mirror.get(manifest_path("v1"))

    assert (cold.cache_status, warm.cache_status) == (
        "mirror; fwd=uri-miss; stored",
        "mirror; hit; ttl=1",
    )
    assert cold.body == warm.body == ONE.content
    assert [each.method for each in upstream.requests[:2]] == ["HEAD", "GET"]
    assert upstream.count(kind="manifest") == 2
    assert upstream.requests[1].reference == ONE.digest


async def test_a_stale_tag_is_confirmed_by_one_head_for_fifty(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    policy = Policy(timeouts=PATIENT)
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, clock=clock, policy=policy
    ) as mirror:
        await mirror.get(manifest_path("v1"))
        clock.advance(601)
        upstream.clear()
        gate = upstream.hold_head(kind="manifest")
        asking = [asyncio.create_task(mirror.get(manifest_path("v1"))) for _ in range(50)]
        await gate.reached.wait()
        for _ in range(3):
            await mirror.get("/v2/")  # those who came before are at the gate by now
        gate.release()
        answers = await asyncio.gather(*asking)
        after = await mirror.get(manifest_path("v1"))

    assert {each.cache_status for each in answers} <= {
        "mirror; fwd=stale; fwd-status=200",
        "mirror; hit; ttl=600",
    }
    assert all(each.body == ONE.content for each in answers)
    assert after.cache_status == "mirror; hit; ttl=600"
    assert [each.method for each in upstream.requests] == ["HEAD"]


async def test_a_tag_that_moved_costs_one_get_by_digest(
    mirror: Mirror, upstream: FakeRegistry, clock: FakeClock
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    await mirror.get(manifest_path("v1"))
    clock.advance(601)
    upstream.push(REPOSITORY, TWO, ["v1"])
    upstream.clear()

    moved = await mirror.get(manifest_path("v1"))
    clock.advance(601)
    upstream.move_tag(REPOSITORY, "v1", ONE.digest)
    back = await mirror.get(manifest_path("v1"))

    assert (moved.body, moved.cache_status) == (TWO.content, "mirror; fwd=stale; stored")
    assert back.body == ONE.content
    assert [(each.method, each.reference) for each in upstream.requests] == [
        ("HEAD", "v1"),
        ("GET", TWO.digest),
        ("HEAD", "v1"),  # what it means now is here already
    ]


async def test_rules_decide_how_long_a_tag_is_fresh(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    upstream.push(REPOSITORY, ONE, ["x-nightly", "v1", "other"])
    policy = Policy(
        timeouts=QUICK,
        tag_rules=(
            TagRule(match="**:*-nightly", ttl_seconds=60),
            TagRule(match="**:v*", immutable=True),
            TagRule(match="**:v1", ttl_seconds=0),
        ),
    )
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, clock=clock, policy=policy
    ) as mirror:
        said: dict[str, list[str]] = {}
        for tag in ("x-nightly", "v1", "other"):
            await mirror.get(manifest_path(tag))
            said[tag] = [(await mirror.get(manifest_path(tag))).cache_status]
        for seconds in (61, 10_000_000):
            clock.advance(seconds)
            for tag, words in said.items():
                words.append((await mirror.get(manifest_path(tag))).cache_status)

    confirmed = "mirror; fwd=stale; fwd-status=200"
    assert said == {
        "x-nightly": ["mirror; hit; ttl=60", confirmed, confirmed],
        "v1": ["mirror; hit", "mirror; hit", "mirror; hit"],
        "other": ["mirror; hit; ttl=600", "mirror; hit; ttl=539", confirmed],
    }


async def test_an_upstream_without_head_is_asked_by_get(
    mirror: Mirror, upstream: FakeRegistry, clock: FakeClock
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    upstream.fail(faults.status(405), method="HEAD")

    cold = await mirror.get(manifest_path("v1"))
    clock.advance(601)
    confirmed = await mirror.get(manifest_path("v1"))

    assert cold.body == ONE.content
    assert confirmed.cache_status == "mirror; fwd=stale; fwd-status=200"
    assert [(each.method, each.reference) for each in upstream.requests] == [
        ("HEAD", "v1"),
        ("GET", "v1"),
    ] * 2


@pytest.mark.parametrize("names", [("Docker-Content-Digest",), ("Content-Length",)])
async def test_an_upstream_that_says_little(
    mirror: Mirror, upstream: FakeRegistry, names: tuple[str, ...]
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    upstream.fail(faults.without(*names), kind="manifest")

    got, head = await mirror.get(manifest_path("v1")), await mirror.head(manifest_path("v1"))

    assert (got.status, got.body) == (200, ONE.content)
    assert got.headers["Docker-Content-Digest"] == ONE.digest
    assert head.headers["Content-Length"] == str(ONE.size_bytes)


@pytest.mark.parametrize("stated", [NOWHERE, TWO.digest, "sha256:short", "nonsense"])
async def test_a_wrong_digest_header_is_believed_by_nobody(
    mirror: Mirror, upstream: FakeRegistry, stated: str
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    upstream.fail(faults.wrong_digest(stated), kind="manifest", reference="v1")

    assert (await mirror.get(manifest_path("v1"))).status == 502
    assert not mirror.stored(ONE.digest).exists()


async def test_another_tag_of_what_is_here_costs_no_get(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1", "latest"])
    await mirror.get(manifest_path("v1"))
    upstream.clear()

    got = await mirror.get(manifest_path("latest"))

    assert got.body == ONE.content
    assert [each.method for each in upstream.requests] == ["HEAD"]


async def test_what_another_repository_brought_costs_no_get_but_a_question(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    upstream.push("team/copy", ONE, ["v1"])
    await mirror.get(manifest_path("v1"))
    upstream.clear()

    by_digest = await mirror.get(manifest_path(ONE.digest, "team/copy"))
    by_tag = await mirror.get(manifest_path("v1", "team/copy"))
    missing = await mirror.get(manifest_path(ONE.digest, "team/none"))

    assert by_digest.body == by_tag.body == ONE.content
    assert missing.status == 404
    assert upstream.count("GET") == 0
    assert upstream.count("HEAD", repository="team/copy") == 2
    assert upstream.count("HEAD", repository="team/none") == 1


async def test_a_tag_that_moves_between_head_and_get(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    gate = upstream.hold_head(kind="manifest", method="GET", times=1)
    asking = asyncio.create_task(mirror.get(manifest_path("v1")))
    await gate.reached.wait()
    upstream.push(REPOSITORY, TWO, ["v1"])
    upstream.delete_manifest(REPOSITORY, ONE.digest)
    gate.release()

    assert (await asking).body == TWO.content


async def test_a_missing_tag_is_not_asked_for_again_at_once(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    policy = Policy(timeouts=QUICK, negative_ttl_seconds=0.2)
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, policy=policy) as mirror:
        for path in (manifest_path("nope"), manifest_path(NOWHERE)):
            upstream.clear()
            first, second = await mirror.get(path), await mirror.get(path)
            assert (first.status, first.body) == (second.status, second.body)
            assert len(upstream.requests) == 1
        async with asyncio.timeout(3):
            while len(upstream.requests) == 1:
                await mirror.get(manifest_path(NOWHERE))


async def test_only_not_found_is_remembered(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.push("team/app", ONE, ["v1"])
    for fault, status in (
        (faults.status(403), 403),
        (faults.status(503), 502),
        (faults.too_many_requests(0), 503),
        (faults.no_answer(), 502),
    ):
        upstream.fail(fault)
        assert (await mirror.get(manifest_path("v1", "team/app"))).status == status
        upstream.heal()
    assert (await mirror.get(manifest_path("v1", "team/app"))).status == 200


async def test_a_manifest_that_arrives_by_its_tag_is_no_longer_missing(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    assert (await mirror.get(manifest_path(ONE.digest))).status == 404
    upstream.push(REPOSITORY, ONE, ["v1"])

    assert (await mirror.get(manifest_path("v1"))).status == 200
    assert (await mirror.get(manifest_path(ONE.digest))).body == ONE.content


async def test_the_hub_counts_one_pull_for_many(tmp_path: Path, clock: FakeClock) -> None:
    async with profiles.hub() as site:
        site.registry.push(REPOSITORY, ONE, ["v1"])
        assert site.budget is not None
        assert site.token_origin is not None
        hub = Upstream(endpoints=(site.url,), realms=(site.token_origin.authority,))
        async with mirror_of(tmp_path / "cache", {"docker.io": hub}, clock=clock) as mirror:
            for _ in range(10):
                assert (await mirror.get(manifest_path("v1"))).body == ONE.content
                clock.advance(601)
            assert site.budget.used == 1
            site.budget.exhaust()
            clock.advance(601)
            assert (await mirror.get(manifest_path("v1"))).status == 200
            missing = await mirror.get(manifest_path("v1", "library/nothing"))
            assert (missing.status, missing.error_code) == (404, "MANIFEST_UNKNOWN")


async def test_who_comes_while_a_question_ends_does_not_ask_again(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, clock=clock, policy=Policy(timeouts=PATIENT)
    ) as mirror:
        await mirror.get(manifest_path("v1"))
        for _ in range(10):
            clock.advance(601)
            upstream.clear()
            answers = await asyncio.gather(*(mirror.get(manifest_path("v1")) for _ in range(60)))

            assert all(each.body == ONE.content for each in answers)
            assert [each.method for each in upstream.requests] == ["HEAD"]


async def test_who_comes_while_a_manifest_arrives_does_not_fetch_it_again(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    images = [image(100 + number) for number in range(10)]
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, clock=clock, policy=Policy(timeouts=PATIENT)
    ) as mirror:
        for each in images:
            upstream.push(REPOSITORY, each)
            upstream.clear()
            paths = [manifest_path(each.digest)] * 60
            answers = await asyncio.gather(*(mirror.get(path) for path in paths))

            assert {answer.body for answer in answers} == {each.content}
            assert [one.method for one in upstream.requests] == ["GET"]
