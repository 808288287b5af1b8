"""An image pulled through the mirror from each kind of registry that is out there."""

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr

from mirror.runtime import via
from mirror.settings import Credential, Upstream
from tests.fakes import profiles
from tests.fakes.auth import BasicGuard, FakeTokenServer, TokenService
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.harness import mirror_of

REPOSITORY = "library/alpine"
USER, PASSWORD = "robot", "canary-secret-1"


@pytest.mark.parametrize(
    "name", ["hub", "ghcr", "quay", "ecr_public", "acr", "k8s", "gcr", "distribution", "nvcr"]
)
async def test_an_image_pulls_cold_and_warm(tmp_path: Path, name: str) -> None:
    pushed = image(layers=3)
    async with profiles.PROFILES[name]() as site:
        site.home.push(REPOSITORY, pushed, tags=["v1"])
        upstream = Upstream(endpoints=(site.url,), realms=("127.0.0.1",))
        async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
            for _ in range(2):
                manifest = await mirror.get(f"/v2/{REPOSITORY}/manifests/v1")
                assert manifest.status == 200
                assert manifest.body == pushed.content
                for blob in pushed.blobs:
                    got = await mirror.get(f"/v2/{REPOSITORY}/blobs/{blob.digest}")
                    assert got.body == blob.content
                await mirror.settled()
                for origin in site.origins:
                    origin.clear()
            assert site.registry.count() == 0


async def test_fifty_clients_cost_one_token(tmp_path: Path) -> None:
    pushed = image()
    async with FakeTokenServer() as tokens, FakeRegistry() as registry:
        registry.push(REPOSITORY, pushed, tags=["v1"])
        registry.guard = tokens.guard()
        upstream = Upstream(endpoints=(registry.url,), realms=(tokens.host,))
        async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
            path = f"/v2/{REPOSITORY}/manifests/v1"
            answers = await asyncio.gather(*(mirror.get(path) for _ in range(50)))

        assert {answer.status for answer in answers} == {200}
        assert tokens.count(kind="token") == 1
        assert tokens.tokens.problems == []


async def test_a_token_that_expired_is_replaced_once(tmp_path: Path) -> None:
    first, second = image(1), image(2)
    async with FakeTokenServer() as tokens, FakeRegistry() as registry:
        registry.push(REPOSITORY, first, tags=["v1"])
        registry.push(REPOSITORY, second, tags=["v2"])
        registry.guard = tokens.guard()
        upstream = Upstream(endpoints=(registry.url,), realms=(tokens.host,))
        async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
            assert (await mirror.get(f"/v2/{REPOSITORY}/manifests/v1")).status == 200
            tokens.expire_tokens()
            assert (await mirror.get(f"/v2/{REPOSITORY}/manifests/v2")).status == 200

        assert tokens.count(kind="token") == 2


async def test_trap_15_a_realm_elsewhere_gets_no_credentials(tmp_path: Path) -> None:
    """Distribution took the realm as it came (CVE-2026-33540)."""
    async with FakeTokenServer() as thief, FakeRegistry() as registry:
        registry.push(REPOSITORY, image(), tags=["v1"])
        registry.guard = thief.guard()
        account = Credential(username=USER, password=SecretStr(PASSWORD))
        upstream = Upstream(endpoints=(registry.url,), credentials=(account,))
        async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
            got = await mirror.get(f"/v2/{REPOSITORY}/manifests/v1")

        assert got.status == 502
        assert b"realms" in got.body
        assert PASSWORD.encode() not in got.body
        assert thief.requests == []


@pytest.mark.parametrize(("password", "status"), [(PASSWORD, 200), ("wrong", 502)])
async def test_basic_credentials_from_a_file(tmp_path: Path, password: str, status: int) -> None:
    secret = tmp_path / "password"
    secret.write_text(f"{password}\n", encoding="utf-8")
    async with FakeRegistry() as registry:
        registry.push(REPOSITORY, image(), tags=["v1"])
        registry.guard = BasicGuard(users={USER: PASSWORD})
        account = Credential(name="ci", username=USER, password_file=secret)
        upstream = Upstream(endpoints=(registry.url,), credentials=(account,))
        async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
            got = await mirror.get(f"/v2/{REPOSITORY}/manifests/v1")
            refused = await mirror.total("mirror_upstream_credential_refused_total")

    assert got.status == status
    assert refused == (0 if status == 200 else 1)


async def test_a_refused_anonymous_is_denied_but_on_the_hub_not_found(tmp_path: Path) -> None:
    service = TokenService(anonymous=False)
    async with FakeTokenServer(service) as tokens, FakeRegistry() as registry:
        registry.guard = tokens.guard()
        upstream = Upstream(endpoints=(registry.url,), realms=(tokens.host,))
        upstreams = {"docker.io": upstream, "ghcr.io": upstream}
        async with mirror_of(tmp_path / "cache", upstreams) as mirror:
            assert (await mirror.get("/v2/docker.io/x/y/manifests/v1")).status == 404
            denied = await mirror.get("/v2/ghcr.io/x/y/manifests/v1")

    assert denied.status == 403
    assert "WWW-Authenticate" not in denied.headers


async def test_the_next_endpoint_helps_and_is_told_the_namespace(tmp_path: Path) -> None:
    pushed = image()
    async with FakeRegistry() as dead, FakeRegistry() as alive:
        await dead.go_down()
        alive.push(REPOSITORY, pushed, tags=["v1"])
        upstream = Upstream(endpoints=(dead.url, alive.url))
        async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
            got = await mirror.get(f"/v2/{REPOSITORY}/manifests/v1")

        assert got.body == pushed.content
        assert alive.requests[0].parameter("ns") == "docker.io"


async def test_a_request_that_comes_back_ends_in_an_error(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        async with mirror_of(tmp_path / "a", {"docker.io": registry}) as first:
            chain = f"1.1 {via.INSTANCE}"
            got = await first.get(f"/v2/{REPOSITORY}/manifests/v1", {"Via": chain})
        assert got.status == 508
        assert registry.requests == []
