"""What is here is served while upstream is in trouble, and no longer than allowed (S10)."""

import asyncio
from pathlib import Path

import pytest

from mirror.settings import Policy, Upstream
from mirror.settings.upstreams import Credential
from tests.fakes import faults, profiles
from tests.fakes.clock import FakeClock
from tests.fakes.content import image, index
from tests.fakes.registry import FakeRegistry
from tests.harness import LOOPBACK, QUICK, Mirror, mirror_of
from tests.unit.web.wire import NOWHERE, REPOSITORY, blob_path, manifest_path

ONE, TWO = image(1), image(2)
HOUR = 3600
TROUBLES = {
    "429": (faults.too_many_requests(), "rate-limited"),
    "500": (faults.status(500), "upstream-trouble"),
    "502": (faults.status(502), "upstream-trouble"),
    "503": (faults.status(503), "upstream-trouble"),
    "504": (faults.status(504), "timeout"),
    "fin": (faults.no_answer(), "upstream-trouble"),
    "rst": (faults.no_answer(rst=True), "upstream-trouble"),
    "hang": (faults.hang(), "timeout"),
    "bot wall": (faults.cdn_forbidden(), "upstream-trouble"),
    "portal": (faults.html(), "upstream-trouble"),
    "loop": (faults.redirect_loop(), "upstream-trouble"),
}


async def test_s10_trouble_makes_a_tag_stale_and_an_answer_does_not(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    quick = QUICK.model_copy(update={"revalidate_seconds": 0.1, "response_seconds": 0.3})
    policy = Policy(timeouts=quick, stale_if_error_seconds=HOUR, negative_ttl_seconds=0)
    async with mirror_of(
        tmp_path / "cache", {"ghcr.io": upstream}, clock=clock, policy=policy
    ) as mirror:
        for number, (name, (fault, reason)) in enumerate(TROUBLES.items()):
            repository = f"team/app-{number}"
            path = manifest_path("v1", repository)
            upstream.push(repository, ONE, ["v1"])
            await mirror.get(path)
            await mirror.pull_blobs(repository, ONE)
            upstream.fail(fault, repository=repository)

            clock.advance(605)
            stale, head = await mirror.get(path), await mirror.head(path)
            assert (stale.status, stale.body) == (200, ONE.content), name
            for got in (stale, head):
                assert got.cache_status == f"mirror; hit; ttl=-5; detail={reason}", name
                assert got.headers["Warning"] == f'299 - "stale: {reason}"', name
            clock.advance(HOUR - 5)
            assert (await mirror.get(path)).status in {502, 503, 504}, name
            by_digest = await mirror.get(manifest_path(ONE.digest, repository))
            assert by_digest.cache_status == "mirror; hit", name
            upstream.heal()
            clock.advance(60)  # the pause after the 429 is over
            await mirror.get(manifest_path("none", "team/none"))  # an answer closes the breaker

        upstream.push("team/other", ONE, ["v1"])
        await mirror.get(manifest_path("v1", "team/other"))
        clock.advance(605)
        for fault, status in (
            (faults.status(401), 403),
            (faults.status(403), 403),
            (faults.status(404), 404),
        ):
            upstream.fail(fault, repository="team/other")
            assert (await mirror.get(manifest_path("v1", "team/other"))).status == status
            upstream.heal()
        assert await mirror.total("mirror_requests_total", result="stale") == 2 * len(TROUBLES)


async def test_stale_if_error_may_be_never(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    policy = Policy(timeouts=QUICK, stale_if_error_seconds=0)
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, clock=clock, policy=policy
    ) as mirror:
        await mirror.get(manifest_path("v1"))
        await mirror.pull_blobs(REPOSITORY, ONE)
        upstream.fail(faults.status(503))
        clock.advance(601)

        assert (await mirror.get(manifest_path("v1"))).status == 502


async def test_a_refused_credential_of_ours_is_trouble_and_no_answer(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with profiles.ecr() as site:
        site.registry.push(REPOSITORY, ONE, ["v1"])
        account = Credential(username="AWS", password="password-of-today")
        ecr = Upstream(endpoints=(site.url,), credentials=(account,), redirects=LOOPBACK)
        async with mirror_of(tmp_path / "cache", {"ghcr.io": ecr}, clock=clock) as mirror:
            assert (await mirror.get(manifest_path("v1"))).body == ONE.content
            await mirror.pull_blobs(REPOSITORY, ONE)
            assert site.basic is not None
            site.basic.users = {"AWS": "password-of-tomorrow"}
            clock.advance(601)

            stale = await mirror.get(manifest_path("v1"))
            other = await mirror.get(manifest_path("v2"))

    assert (stale.status, stale.body) == (200, ONE.content)
    assert stale.cache_status == "mirror; hit; ttl=-1; detail=credential-refused"
    assert other.status == 502
    assert b"password" not in other.body


async def test_a_usable_copy_is_not_kept_waiting(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    slow = QUICK.model_copy(update={"response_seconds": 8, "revalidate_seconds": 0.2})
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, clock=clock, policy=Policy(timeouts=slow)
    ) as mirror:
        await mirror.get(manifest_path("v1"))
        await mirror.pull_blobs(REPOSITORY, ONE)
        upstream.clear()
        clock.advance(601)
        upstream.push(REPOSITORY, TWO, ["v1"])
        gate = upstream.hold_head(kind="manifest")
        loop = asyncio.get_running_loop()
        started = loop.time()

        stale = await mirror.get(manifest_path("v1"))

        assert loop.time() - started < 2
        assert stale.body == ONE.content
        assert stale.cache_status == "mirror; hit; ttl=-1; detail=timeout"
        # The question goes on without its client, and whoever comes next joins it.
        upstream.clear()
        gate.release()
        moved = await mirror.get(manifest_path("v1"))
        assert moved.body == TWO.content
        assert upstream.count("HEAD") == 0


@pytest.mark.parametrize("trouble", ["refused", "unknown host"])
async def test_a_restart_without_upstream_serves_all_that_was_pulled(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock, trouble: str
) -> None:
    pushed = index([ONE, TWO])
    upstream.push(REPOSITORY, pushed, ["v1"])
    paths = [
        manifest_path("v1"),
        manifest_path(pushed.digest),
        manifest_path(ONE.digest),
        *(blob_path(each.digest) for each in ONE.blobs),
        f"/v2/{REPOSITORY}/tags/list",
        f"/v2/{REPOSITORY}/referrers/{pushed.digest}",
    ]
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, clock=clock) as mirror:
        before = [(await mirror.get(path)).body for path in paths]
        await mirror.settled()
    url = upstream.url if trouble == "refused" else "http://registry.invalid"
    await upstream.go_down()
    clock.advance(86400)

    async with mirror_of(tmp_path / "cache", {"docker.io": url}, clock=clock) as mirror:
        after = [await mirror.get(path) for path in paths]
        missing = [
            (await mirror.get(path)).status for path in (manifest_path("v2"), blob_path(NOWHERE))
        ]

    assert [each.body for each in after] == before
    assert {each.status for each in after} == {200}
    assert ["stale:" in each.headers.get("Warning", "") for each in after] == [
        True,
        *[False] * (2 + len(ONE.blobs)),
        True,
        True,
    ]
    assert set(missing) <= {502, 504}


async def test_trap_22_no_time_runs_out_for_a_blob(
    mirror: Mirror, upstream: FakeRegistry, clock: FakeClock
) -> None:
    """distribution#2367: a blob that two repositories share expires by the TTL of one."""
    for repository in ("team/a", "team/b"):
        upstream.push(repository, ONE, ["v1"])
        await mirror.get(manifest_path("v1", repository))
        for each in ONE.blobs:
            await mirror.get(blob_path(each.digest, repository))
    await mirror.settled()
    upstream.clear()
    clock.advance(400 * 86400)

    for each in ONE.blobs:
        for repository in ("team/a", "team/b"):
            got = await mirror.get(blob_path(each.digest, repository))
            assert (got.body, got.cache_status) == (each.content, "mirror; hit")
    assert not upstream.requests
