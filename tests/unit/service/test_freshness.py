"""Modes, deletions upstream, refresh ahead, pauses, breakers and budgets, over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mirror.domain.names import Tag
from mirror.settings import Policy, Upstream
from mirror.settings.policy import RateLimit, TagRule
from tests.fakes import faults
from tests.fakes.clock import FakeClock
from tests.fakes.content import image, index
from tests.fakes.registry import FakeRegistry
from tests.harness import QUICK, Mirror, in_one_process, mirror_of, parse, repository
from tests.unit.web.wire import REPOSITORY, blob_path, manifest_path

ONE, TWO = image(1), image(2)
PATH = manifest_path("v1")


def mirrored(
    directory: Path,
    upstream: FakeRegistry,
    clock: FakeClock | None = None,
    **policy: Any,  # noqa: ANN401 -- fields of Policy, which checks them
) -> Any:  # noqa: ANN401 -- what mirror_of returns
    return mirror_of(
        directory / "cache",
        {"docker.io": upstream},
        clock=clock,
        policy=Policy(timeouts=QUICK, **policy),
    )


async def pull(mirror: Mirror, upstream: FakeRegistry, *, whole: bool = True) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    assert (await mirror.get(PATH)).body == ONE.content
    if whole:
        await mirror.pull_blobs(REPOSITORY, ONE)
    upstream.clear()


# --- offline ---------------------------------------------------------------------------------


@pytest.fixture
async def offline(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> AsyncIterator[Mirror]:
    """A mirror that was filled, and came back a year later with nobody to ask."""
    async with mirrored(tmp_path, upstream, clock) as online:
        await pull(online, upstream)
        upstream.push(REPOSITORY, TWO, ["part"])
        await online.get(manifest_path("part"))
    upstream.clear()
    clock.advance(365 * 86400)
    async with mirrored(tmp_path, upstream, clock, mode="offline") as mirror:
        yield mirror
        assert upstream.requests == [], "an offline mirror asks nobody"


async def test_an_offline_mirror_serves_what_it_has_at_any_age(offline: Mirror) -> None:
    got = await offline.get(PATH)
    assert (got.status, got.body, got.cache_status) == (200, ONE.content, "mirror; hit")
    assert "Warning" not in got.headers
    for each in ONE.blobs:
        assert (await offline.get(blob_path(each.digest))).body == each.content
        assert (await offline.head(blob_path(each.digest))).status == 200


async def test_what_an_offline_mirror_lacks_does_not_exist(offline: Mirror) -> None:
    for path in (
        manifest_path("v2"),
        manifest_path(image(9).digest),
        blob_path(image(9).layers[0].digest),
        "/v2/library/nothing/tags/list",
    ):
        got = await offline.get(path)
        assert got.status == 404, path
        assert b"not in the cache" in got.body, path


async def test_an_offline_mirror_does_not_promise_a_part(offline: Mirror) -> None:
    for reference in ("part", TWO.digest):
        got = await offline.get(manifest_path(reference))
        assert got.status == 503
        assert b"policy.mode is offline" in got.body


async def test_an_offline_mirror_lists_the_tags_it_knows(offline: Mirror) -> None:
    got = await offline.get(f"/v2/{REPOSITORY}/tags/list")
    assert got.body == b'{"name":"library/alpine","tags":["part","v1"]}'
    page = await offline.get(f"/v2/{REPOSITORY}/tags/list?n=1")
    assert page.body == b'{"name":"library/alpine","tags":["part"]}'
    assert page.headers["Link"] == f'</v2/{REPOSITORY}/tags/list?n=1&last=part>; rel="next"'


# --- deleted upstream ------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["policy", "pin", None])
async def test_an_image_that_upstream_deleted_is_kept_if_that_is_wanted(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock, keep: str | None
) -> None:
    """Bitnami's images went from Docker Hub from one day to the next."""
    gone = "serve" if keep == "policy" else "pass"
    async with mirrored(tmp_path, upstream, clock, on_upstream_gone=gone) as mirror:
        await pull(mirror, upstream)
        if keep == "pin":
            await mirror.up.store.pin(repository(), Tag("v1"))
        upstream.delete_repository(REPOSITORY)
        clock.advance(30 * 86400)
        for _ in range(2):
            got = await mirror.get(PATH)
            if keep is None:
                assert got.status == 404
            else:
                assert (got.status, got.body) == (200, ONE.content)
                assert got.cache_status.endswith("detail=gone-upstream")
        upstream.fail(faults.status(403))
        assert (await mirror.get(PATH)).status == (404 if keep is None else 403)


# --- immutable -------------------------------------------------------------------------------


async def test_an_immutable_tag_that_moved_is_served_as_first_seen(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    rules = (TagRule(match="**:v*", immutable=True),)
    async with mirrored(tmp_path, upstream, clock, tag_rules=rules) as mirror:
        await pull(mirror, upstream, whole=False)
        upstream.push(REPOSITORY, TWO, ["v1"])
        clock.advance(365 * 86400)  # not whole, and upstream long silent: it is asked

        got = await mirror.get(PATH)

        assert got.body == ONE.content
        assert upstream.requests
        assert await mirror.metric("mirror_immutable_tag_moved_total", upstream="docker.io") == 1
        upstream.delete_manifest(REPOSITORY, ONE.digest)
        await mirror.up.store.remove(parse(ONE.digest))
        clock.advance(86400)
        assert (await mirror.get(PATH)).body == TWO.content, "upstream's word is all there is"


# --- ahead of time ---------------------------------------------------------------------------


@in_one_process  # a worker asks again after two seconds, which do not pass on this clock
async def test_a_tag_that_is_asked_for_shortly_before_its_end_is_refreshed_behind_the_answer(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    async with mirrored(tmp_path, upstream, clock, refresh_ahead_seconds=60) as mirror:
        await pull(mirror, upstream)
        clock.advance(539)
        await mirror.get(PATH)
        assert upstream.requests == []
        upstream.push(REPOSITORY, TWO, ["v1"])
        upstream.fail(faults.hang(), times=1)
        clock.advance(2)
        async with asyncio.timeout(0.25):  # upstream hangs: nobody waits for it
            assert (await mirror.get(PATH)).body == ONE.content
        async with asyncio.timeout(10):
            while (await mirror.get(PATH)).body != TWO.content:
                await upstream.quiet()
        assert (await mirror.get(PATH)).cache_status == "mirror; hit; ttl=600"


# --- pauses and breakers ---------------------------------------------------------------------


async def test_nothing_is_asked_until_the_time_that_a_429_names_is_over(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    async with mirrored(tmp_path, upstream, clock) as mirror:
        await pull(mirror, upstream)
        clock.advance(601)
        upstream.fail(faults.too_many_requests(120))
        for _ in range(10):
            assert (await mirror.get(PATH)).cache_status.endswith("detail=rate-limited")
        assert len(upstream.requests) == 1
        new = await mirror.get(manifest_path("v2"))
        assert (new.status, new.error_code) == (503, "TOOMANYREQUESTS")
        assert new.headers["Retry-After"] == "120"
        assert len(upstream.requests) == 1
        upstream.heal()
        clock.advance(120)
        assert "fwd=stale" in (await mirror.get(PATH)).cache_status
        assert (await mirror.get(PATH)).cache_status == "mirror; hit; ttl=600"


async def test_blobs_go_on_while_manifests_are_paused(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    async with mirrored(tmp_path, upstream, clock) as mirror:
        await pull(mirror, upstream, whole=False)
        upstream.fail(faults.too_many_requests(120), kind="manifest")
        await mirror.get(manifest_path("v2"))
        assert (await mirror.get(blob_path(ONE.layers[0].digest))).status == 200


async def test_clients_may_be_told_to_wait(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    async with mirrored(tmp_path, upstream, clock, on_rate_limit="wait") as mirror:
        upstream.fail(faults.too_many_requests(7))
        got = await mirror.get(PATH)
        assert (got.status, got.error_code) == (429, "TOOMANYREQUESTS")
        assert got.headers["Retry-After"] == "7"


async def test_another_endpoint_helps_while_one_is_paused(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    async with FakeRegistry() as second:
        for each in (upstream, second):
            each.push(REPOSITORY, ONE, ["v1"])
        both = Upstream(endpoints=(upstream.url, second.url))
        async with mirror_of(tmp_path / "cache", {"docker.io": both}, clock=clock) as mirror:
            upstream.fail(faults.too_many_requests(120))
            assert (await mirror.get(PATH)).status == 200
            upstream.clear()
            clock.advance(119)
            assert (await mirror.get(f"/v2/{REPOSITORY}/tags/list")).status == 200
            assert upstream.requests == []


async def test_who_does_not_answer_is_left_alone_for_a_while(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    async with mirrored(tmp_path, upstream, clock) as mirror:
        await pull(mirror, upstream)
        upstream.fail(faults.no_answer(rst=True))
        clock.advance(601)
        for _ in range(20):
            assert (await mirror.get(PATH)).status == 200
        assert len(upstream.requests) <= 6  # a broken connection is tried twice
        missing = await mirror.get(manifest_path("v2"))
        assert (missing.status, missing.error_code) == (502, "UNKNOWN")
        assert len(upstream.requests) <= 6  # a broken connection is tried twice
        upstream.heal()
        clock.advance(1)
        assert "fwd=stale" in (await mirror.get(PATH)).cache_status


# --- the budget ------------------------------------------------------------------------------


async def test_tags_are_asked_less_often_while_few_pulls_are_left(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    upstream.options.manifest_headers = {
        "ratelimit-limit": "100;w=21600",
        "ratelimit-remaining": "19;w=21600",
    }
    async with mirrored(tmp_path, upstream, clock) as mirror:
        await pull(mirror, upstream)
        assert (await mirror.get(PATH)).cache_status == "mirror; hit; ttl=3600"
        clock.advance(3599)
        assert (await mirror.get(PATH)).cache_status == "mirror; hit; ttl=1"
        assert upstream.requests == []
        clock.advance(1)
        upstream.options.manifest_headers["ratelimit-remaining"] = "20;w=21600"
        await mirror.get(PATH)
        assert (await mirror.get(PATH)).cache_status == "mirror; hit; ttl=600"


async def test_the_last_pulls_are_for_those_in_the_reserve(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    upstream.options.manifest_headers = {
        "ratelimit-limit": "100;w=21600",
        "ratelimit-remaining": "5;w=21600",
    }
    limit = RateLimit(reserve=(REPOSITORY,))
    async with mirrored(tmp_path, upstream, clock, rate_limit=limit) as mirror:
        await pull(mirror, upstream)
        upstream.push("team/app", TWO, ["v1"])
        upstream.push(REPOSITORY, TWO, ["v2"])
        refused = await mirror.get(manifest_path("v1", "team/app"))
        assert (refused.status, refused.error_code) == (503, "TOOMANYREQUESTS")
        assert (await mirror.get(manifest_path("v2"))).status == 200
        assert (await mirror.get(PATH)).cache_status == "mirror; hit; ttl=600", "not stretched"


async def test_an_index_is_kept_when_its_upstream_is_gone(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    both = index([ONE, TWO])
    async with mirrored(tmp_path, upstream, clock, on_upstream_gone="serve") as mirror:
        upstream.push(REPOSITORY, both, ["v1"])
        await mirror.get(PATH)
        await mirror.get(manifest_path(ONE.digest))
        await mirror.pull_blobs(REPOSITORY, ONE)
        upstream.delete_repository(REPOSITORY)
        clock.advance(86400)
        assert (await mirror.get(PATH)).body == both.content
        assert (await mirror.get(manifest_path(ONE.digest))).body == ONE.content
