"""A manifest whose blobs cannot be had is not promised (invariant 17)."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.settings import Upstream
from mirror.settings.upstreams import Credential
from tests.fakes import faults, profiles
from tests.fakes.clock import FakeClock
from tests.fakes.content import image, index
from tests.fakes.registry import FakeRegistry
from tests.harness import LOOPBACK, Mirror, mirror_of
from tests.unit.web.wire import REPOSITORY, blob_path, manifest_path

ONE, TWO = image(1), image(2, architecture="arm64")
BOTH = index([ONE, TWO])
SILENCE_SECONDS = 31


@pytest.fixture
async def mirror(tmp_path: Path, upstream: FakeRegistry, clock: FakeClock) -> AsyncIterator[Mirror]:
    upstream.push(REPOSITORY, BOTH, ["v1"])
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, clock=clock) as up:
        yield up


async def outage(upstream: FakeRegistry, clock: FakeClock) -> None:
    upstream.clear()
    upstream.fail(faults.status(503))
    clock.advance(SILENCE_SECONDS)


@pytest.mark.parametrize("reference", ["v1", ONE.digest])
async def test_in_an_outage_what_is_not_whole_is_refused(
    mirror: Mirror, upstream: FakeRegistry, clock: FakeClock, reference: str
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    await mirror.get(manifest_path(reference))
    await mirror.get(blob_path(ONE.layers[0].digest))  # but not its config
    await outage(upstream, clock)

    got = await mirror.get(manifest_path(reference))
    assert (got.status, got.error_code) == (503, "UNKNOWN")
    assert b"not whole" in got.body

    upstream.heal()
    await mirror.pull_blobs(REPOSITORY, ONE)
    await outage(upstream, clock)
    assert (await mirror.get(manifest_path(reference))).body == ONE.content
    assert not upstream.requests


async def test_while_upstream_is_alive_it_is_asked_once_and_not_again_for_a_while(
    mirror: Mirror, upstream: FakeRegistry, clock: FakeClock
) -> None:
    await mirror.get(manifest_path("v1"))
    assert (await mirror.get(manifest_path("v1"))).cache_status.startswith("mirror; hit")
    clock.advance(SILENCE_SECONDS)
    upstream.clear()
    for _ in range(3):
        assert (await mirror.get(manifest_path("v1"))).body == BOTH.content
    assert [request.method for request in upstream.requests] == ["HEAD"]


async def test_an_index_is_whole_with_one_platform(
    mirror: Mirror, upstream: FakeRegistry, clock: FakeClock
) -> None:
    await mirror.get(manifest_path("v1"))
    await mirror.get(manifest_path(TWO.digest))
    await mirror.pull_blobs(REPOSITORY, TWO)
    await outage(upstream, clock)

    assert (await mirror.get(manifest_path("v1"))).body == BOTH.content
    assert (await mirror.get(manifest_path(TWO.digest))).body == TWO.content
    assert (await mirror.get(manifest_path(ONE.digest))).status in {502, 503}


async def test_attestations_do_not_make_an_index_whole(
    mirror: Mirror, upstream: FakeRegistry, clock: FakeClock
) -> None:
    attestation = image(5, architecture="unknown")
    built = index([ONE, attestation])
    upstream.push(REPOSITORY, built, ["built"])
    await mirror.get(manifest_path("built"))
    await mirror.get(manifest_path(attestation.digest))
    await mirror.pull_blobs(REPOSITORY, attestation)
    await outage(upstream, clock)
    assert (await mirror.get(manifest_path("built"))).status == 503


async def test_a_blob_that_is_lost_makes_its_manifests_incomplete(
    mirror: Mirror, upstream: FakeRegistry, clock: FakeClock
) -> None:
    await mirror.get(manifest_path(ONE.digest))
    await mirror.pull_blobs(REPOSITORY, ONE)
    assert (await mirror.get(manifest_path(ONE.digest))).cache_status == "mirror; hit"
    os.truncate(mirror.stored(ONE.layers[0].digest), 5)
    await outage(upstream, clock)
    await mirror.get(blob_path(ONE.layers[0].digest))  # it is found to be lost

    assert (await mirror.get(manifest_path(ONE.digest))).status == 503


async def test_with_credentials_each_blob_needs_its_own_word(
    tmp_path: Path, clock: FakeClock
) -> None:
    """What is here came through another repository: upstream would have to be asked."""
    async with profiles.ecr() as site:
        for repository in (REPOSITORY, "team/other"):
            site.registry.push(repository, ONE, ["v1"])
        account = Credential(username="AWS", password="password-of-today")
        ecr = Upstream(endpoints=(site.url,), credentials=(account,), redirects=LOOPBACK)
        async with mirror_of(tmp_path / "cache", {"ghcr.io": ecr}, clock=clock) as mirror:
            await mirror.get(manifest_path("v1"))
            await mirror.pull_blobs(REPOSITORY, ONE)
            await mirror.get(manifest_path("v1", "team/other"))
            site.registry.fail(faults.status(503))
            clock.advance(SILENCE_SECONDS)

            assert (await mirror.get(manifest_path("v1"))).status == 200
            assert (await mirror.get(manifest_path("v1", "team/other"))).status == 503
