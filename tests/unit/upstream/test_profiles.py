"""An image pulled through the mirror from each kind of registry that is out there.

What is special about each of them is in ``tests/fakes/profiles``.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mirror.settings import Upstream
from mirror.upstream.transport import USER_AGENT
from tests.fakes.clock import FakeClock
from tests.fakes.content import image, index
from tests.fakes.profiles import PROFILES, Site
from tests.harness import LOOPBACK, Mirror, mirror_of
from tests.unit.upstream.pulling import REPOSITORY, account, blob, manifest, pull

NAMES = {
    "acr": "ours.azurecr.io",
    "distribution": "registry.local:5000",
    "ecr": "1234.dkr.ecr.eu-west-1.amazonaws.com",
    "ecr_public": "public.ecr.aws",
    "gcr": "gcr.io",
    "ghcr": "ghcr.io",
    "hub": "docker.io",
    "k8s": "registry.k8s.io",
    "nvcr": "nvcr.io",
    "quay": "quay.io",
}
IMAGE = image(layers=3)


@asynccontextmanager
async def site_and_mirror(
    profile: str, directory: Path, clock: FakeClock | None = None
) -> AsyncIterator[tuple[Site, Mirror]]:
    """Run a registry with an image in it, and a mirror of it under its real name."""
    async with PROFILES[profile]() as site:
        site.home.push(REPOSITORY, IMAGE, tags=["v1"])
        ours = account("password-of-today", username="AWS")
        credentials = () if site.basic is None else (ours,)
        upstream = Upstream(endpoints=(site.url,), realms=("127.0.0.1",), credentials=credentials)
        async with mirror_of(
            directory / "cache", {NAMES[profile]: upstream}, clock=clock
        ) as mirror:
            yield site, mirror


@pytest.mark.parametrize("profile", PROFILES)
async def test_an_image_pulls_cold_and_warm(profile: str, tmp_path: Path, clock: FakeClock) -> None:
    async with site_and_mirror(profile, tmp_path, clock) as (site, mirror):
        await pull(mirror, IMAGE)
        requests = [request for origin in site.origins for request in origin.requests]
        for origin in site.origins:
            origin.clear()
        await pull(mirror, IMAGE)
        assert [request for origin in site.origins for request in origin.requests] == []

        clock.advance(3600)  # the tag is to be confirmed
        assert "fwd-status=200" in (await pull(mirror, IMAGE)).cache_status
        methods = {request.method for origin in site.origins for request in origin.requests}
        assert methods <= {"HEAD"}

    assert {request.method for request in requests} <= {"GET", "HEAD"}
    assert {request.header("User-Agent") for request in requests} == {USER_AGENT}
    assert {request.header("Accept-Encoding") for request in requests} == {"identity"}
    assert site.tokens is None or not site.tokens.problems


@pytest.mark.parametrize("profile", PROFILES)
async def test_a_multi_platform_image_pulls(profile: str, tmp_path: Path) -> None:
    both = index([IMAGE, image(2, architecture="arm64")])
    async with site_and_mirror(profile, tmp_path) as (site, mirror):
        site.home.push(REPOSITORY, both, tags=["multi"])
        got = await mirror.get(manifest("multi"))
        assert got.body == both.content
        for child in both.manifests:
            assert (await mirror.get(manifest(child.digest))).body == child.content


@pytest.mark.parametrize("profile", PROFILES)
async def test_what_is_missing(profile: str, tmp_path: Path) -> None:
    async with site_and_mirror(profile, tmp_path) as (_, mirror):
        tag = await mirror.get(manifest("v2"))
        child = await mirror.get(manifest(image(9).digest))
        layer = await mirror.get(blob(image(9).layers[0].digest))
        other = await mirror.get(manifest("v1", "library/missing"))

    assert (tag.status, tag.error_code) == (404, "MANIFEST_UNKNOWN")
    assert (child.status, child.error_code) == (404, "MANIFEST_UNKNOWN")
    assert (layer.status, layer.error_code) == (404, "BLOB_UNKNOWN")
    # ghcr.io refuses the token, so nobody can tell whether it is there.
    assert other.status == (403 if profile == "ghcr" else 404)
    assert all("WWW-Authenticate" not in got.headers for got in (tag, child, layer, other))


@pytest.mark.parametrize("profile", PROFILES)
async def test_the_size_of_a_blob_without_a_download(profile: str, tmp_path: Path) -> None:
    """ECR Public refuses HEAD of a blob although GET works (distribution#4383)."""
    layer = IMAGE.layers[0]
    async with site_and_mirror(profile, tmp_path) as (_, mirror):
        head = await mirror.head(blob(layer.digest))
    assert head.status == 200
    assert head.headers["Content-Length"] == str(layer.size_bytes)


async def test_the_hub_counts_no_pull_for_a_tag_that_did_not_move(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with site_and_mirror("hub", tmp_path, clock) as (site, mirror):
        assert site.budget is not None
        for _ in range(5):
            await pull(mirror, IMAGE)
            clock.advance(3600)
        assert site.budget.used == 1


async def test_the_password_of_ecr_expires_after_twelve_hours(
    tmp_path: Path, clock: FakeClock
) -> None:
    """ECR says 403 then; what is here is served stale, and nothing is denied."""
    secret = tmp_path / "password"
    secret.write_text("password-of-today", encoding="utf-8")
    async with PROFILES["ecr"]() as site:
        site.registry.push(REPOSITORY, IMAGE, tags=["v1"])
        upstream = Upstream(
            endpoints=(site.url,),
            credentials=(account(secret, username="AWS"),),
            redirects=LOOPBACK,
        )
        upstreams = {NAMES["ecr"]: upstream}
        async with mirror_of(tmp_path / "cache", upstreams, clock=clock) as mirror:
            await pull(mirror, IMAGE)
            assert site.basic is not None
            site.basic.expire()
            site.basic.users["AWS"] = "password-of-tomorrow"
            clock.advance(12 * 3600)
            stale = await mirror.get(manifest())
            unknown = await mirror.get(manifest("v2"))
            secret.write_text("password-of-tomorrow\n", encoding="utf-8")
            fresh = await mirror.get(manifest())

    assert stale.status == 200
    assert stale.headers["Warning"].startswith("299")
    assert unknown.status == 502
    assert "fwd-status=200" in fresh.cache_status


async def test_no_credential_goes_where_k8s_redirects_to(tmp_path: Path) -> None:
    """registry.k8s.io redirects all to hosts that have a token flow of their own."""
    async with PROFILES["k8s"]() as site:
        site.home.push(REPOSITORY, IMAGE, tags=["v1"])
        upstream = Upstream(endpoints=(site.url,), credentials=(account(),), redirects=LOOPBACK)
        async with mirror_of(tmp_path / "cache", {"registry.k8s.io": upstream}) as mirror:
            await pull(mirror, IMAGE)
        assert site.backend is not None
        kinds = {request.authorization_kind for request in site.backend.requests}
    assert kinds == {None, "bearer"}
    assert all(grant.user is None for grant in site.tokens.grants) if site.tokens else False


async def test_relative_locations_of_gcr_stay_within_its_account(tmp_path: Path) -> None:
    async with site_and_mirror("gcr", tmp_path) as (site, mirror):
        await pull(mirror, IMAGE)
        followed = [each for each in site.registry.matching(kind="blob") if each.query]
    assert len(followed) == len(IMAGE.blobs)
    assert {request.authorization_kind for request in followed} == {"bearer"}
