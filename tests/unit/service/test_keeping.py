"""Pins of the configuration, and what is fetched for pins."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.domain.manifests import Manifest
from mirror.domain.names import Reference, Repository, Tag
from mirror.service.manifests import Manifests
from mirror.service.refusals import RefusedError
from mirror.service.served import Served
from mirror.settings.root import Pin
from tests.fakes import faults
from tests.fakes.content import image, index
from tests.fakes.registry import FakeRegistry
from tests.harness import Mirror, mirror_of, repository
from tests.unit.web.wire import REPOSITORY, manifest_path

AMD64, ARM64 = image(1), image(2, architecture="arm64")
BOTH = index([AMD64, ARM64])


def here(mirror: Mirror) -> set[str]:
    files = (mirror.directory / "blobs").rglob("*")
    return {f"sha256:{path.name}" for path in files if path.is_file()}


@pytest.fixture
async def mirror(tmp_path: Path, upstream: FakeRegistry) -> AsyncIterator[Mirror]:
    upstream.push(REPOSITORY, BOTH, ["v1"])
    pins = (Pin(image="alpine:v1", platforms=("linux/arm64",)),)
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, pins=pins) as up:
        yield up


async def test_what_is_pinned_by_the_configuration_is_fetched(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    wanted = {BOTH.digest, ARM64.digest, *(each.digest for each in ARM64.blobs)}
    await mirror.up.keeper.look()
    await mirror.settled()
    assert here(mirror) == wanted
    upstream.fail(faults.no_answer())
    assert (await mirror.get(manifest_path("v1"))).cache_status.startswith("mirror; hit")


async def test_what_was_lost_is_fetched_again(mirror: Mirror, upstream: FakeRegistry) -> None:
    await mirror.up.keeper.look()
    await mirror.settled()
    layer = ARM64.layers[0].digest
    mirror.stored(layer).unlink()
    await mirror.up.keeper.look()
    await mirror.settled()
    assert layer in here(mirror)


async def test_trouble_with_one_pin_does_not_stop_the_others(
    mirror: Mirror, upstream: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    await mirror.up.store.pin(repository("team/gone"), Tag("v1"), ("linux/amd64",))
    await mirror.up.keeper.look()
    await mirror.settled()
    assert ARM64.digest in here(mirror)
    assert "a pinned image is not whole" in caplog.text


@pytest.mark.parametrize("where", ["blob", "child"])
async def test_a_disk_that_fails_at_one_pin_does_not_stop_the_others(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    keeper, store = mirror.up.keeper, mirror.up.store
    await store.pin(repository(REPOSITORY), Tag("v2"), ("linux/amd64",))
    resolve, failing = Manifests.resolve, ARM64.digest if where == "child" else "v2"

    async def broken(
        manifests: Manifests, repository: Repository, reference: Reference
    ) -> tuple[Manifest, Served]:
        if str(reference) == failing:
            raise OSError(5, "Input/output error")
        return await resolve(manifests, repository, reference)

    monkeypatch.setattr(Manifests, "resolve", broken)
    await keeper.look()
    await mirror.settled()
    assert "a pinned image could not be kept" in caplog.text
    assert BOTH.digest in here(mirror)


async def test_a_pin_of_an_upstream_that_is_gone_does_not_stop_the_others(
    mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    await mirror.up.store.pin(Repository("gone.example", "a/b"), Tag("v1"), ("linux/amd64",))
    await mirror.up.keeper.look()
    await mirror.settled()
    assert ARM64.digest in here(mirror)
    assert "gone.example/a/b:v1" in caplog.text


async def test_a_pin_of_the_configuration_is_not_taken_away_by_a_command(mirror: Mirror) -> None:
    (pin,) = await mirror.up.cache.pins()
    assert (pin.image, pin.declared) == ("docker.io/library/alpine:v1", True)
    with pytest.raises(RefusedError, match="pinned by the configuration"):
        await mirror.up.cache.unpin("alpine:v1")


async def test_a_pin_that_names_no_platform_fetches_nothing(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, BOTH, ["v1"])
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        await mirror.up.cache.pin("alpine:v1")
        await mirror.up.keeper.look()
        assert upstream.requests == []
