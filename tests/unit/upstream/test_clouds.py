"""The identity of a machine as a login: ECR, Artifact Registry, ACR, each by its real calls."""

import io
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from mirror.settings import Credential, Upstream
from tests.fakes import faults
from tests.fakes.answers import Answer
from tests.fakes.auth import (
    Challenge,
    FakeTokenServer,
    TokenGuard,
    TokenService,
)
from tests.fakes.clock import FakeClock
from tests.fakes.clouds import FakeAws, FakeAzure, FakeGoogle, PasswordsOfAws
from tests.fakes.content import Image, image
from tests.fakes.registry import FakeRegistry
from tests.fakes.wire import Recorded
from tests.harness import Mirror, mirror_of
from tests.unit.upstream.pulling import REPOSITORY, manifest, pull

IMAGE, SECOND = image(), image(2)
ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
REFUSED = "mirror_upstream_credential_refused_total"
VARIABLES = ("AWS_", "AZURE_", "GCE_", "GOOGLE_", "IDENTITY_")
SetEnvironment = Callable[[Mapping[str, object]], None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> SetEnvironment:
    """Set variables; those of the machine that runs the tests are not there."""
    for name in list(os.environ):
        if name.startswith(VARIABLES):
            monkeypatch.delenv(name)

    def put(given: Mapping[str, object]) -> None:
        for name, value in given.items():
            monkeypatch.setenv(name, str(value))

    return put


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as registry:
        for tag, pushed in (("v1", IMAGE), ("v2", SECOND)):
            registry.push(REPOSITORY, pushed, tags=[tag])
        yield registry


@pytest.fixture
async def aws(clock: FakeClock) -> AsyncIterator[FakeAws]:
    async with FakeAws(clock) as aws:
        yield aws


def mirror_with(
    tmp_path: Path, registry: FakeRegistry, cloud: str, name: str, clock: FakeClock, **more: object
) -> AbstractAsyncContextManager[Mirror]:
    ours = Credential.model_validate({"name": "ci", "cloud": cloud})
    given = {"endpoints": (registry.url,), "credentials": (ours,), **more}
    upstream = Upstream.model_validate(given)
    return mirror_of(tmp_path / "cache", {name: upstream}, clock=clock)


async def has(mirror: Mirror, tag: str, pushed: Image) -> None:
    got = await mirror.get(manifest(tag))
    assert got.status == 200, got.body
    assert got.body == pushed.content


# --- ECR ---------------------------------------------------------------------------------------


def aws_environment(aws: FakeAws, tmp_path: Path, way: str) -> dict[str, object]:
    (tmp_path / "identity").write_text(f"{aws.web_identity}\n", encoding="utf-8")
    (tmp_path / "container").write_text(f"{aws.container_token}\n", encoding="utf-8")
    ways: dict[str, dict[str, object]] = {
        "key": {"AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "secret/of+test"},
        "session": {
            "AWS_ACCESS_KEY_ID": "ASIAROLE",
            "AWS_SECRET_ACCESS_KEY": "of-role",
            "AWS_SESSION_TOKEN": "session-of-role",
        },
        "web identity": {
            "AWS_WEB_IDENTITY_TOKEN_FILE": tmp_path / "identity",
            "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/mirror",
        },
        "container": {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{aws.url}/container",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": tmp_path / "container",
        },
        "instance": {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"{aws.url}/"},
    }
    return {"AWS_ENDPOINT_URL": aws.url, **ways[way]}


@pytest.mark.parametrize("way", ["key", "session", "web identity", "container", "instance"])
async def test_ecr_by_every_kind_of_key(
    tmp_path: Path,
    registry: FakeRegistry,
    aws: FakeAws,
    clock: FakeClock,
    environment: SetEnvironment,
    way: str,
) -> None:
    environment(aws_environment(aws, tmp_path, way))
    registry.guard = PasswordsOfAws(aws.passwords)
    async with mirror_with(tmp_path, registry, "ecr", ECR, clock) as mirror:
        for tag in ("v1", "v2"):
            assert (await mirror.get(manifest(tag))).status == 200
    assert aws.scopes == [("eu-west-1", "ecr")]  # signed right, and asked once for all


async def test_ecr_renews_what_expired_early_and_the_client_does_not_notice(
    tmp_path: Path,
    registry: FakeRegistry,
    aws: FakeAws,
    clock: FakeClock,
    environment: SetEnvironment,
) -> None:
    environment(aws_environment(aws, tmp_path, "key"))
    guard = registry.guard = PasswordsOfAws(aws.passwords)
    async with mirror_with(tmp_path, registry, "ecr", ECR, clock) as mirror:
        await has(mirror, "v1", IMAGE)
        guard.users = {"AWS": aws.passwords[-1]}
        guard.expire()
        clock.advance(3600)
        await has(mirror, "v2", SECOND)
        refused = await mirror.total(REFUSED)
    assert len(aws.passwords) == 2
    assert refused == 0


async def test_ecr_renews_before_the_end_and_uses_the_old_one_while_that_fails(
    tmp_path: Path,
    registry: FakeRegistry,
    aws: FakeAws,
    clock: FakeClock,
    environment: SetEnvironment,
    log_lines: io.StringIO,
) -> None:
    environment(aws_environment(aws, tmp_path, "key"))
    registry.guard = PasswordsOfAws(aws.passwords)
    async with mirror_with(tmp_path, registry, "ecr", ECR, clock) as mirror:
        await has(mirror, "v1", IMAGE)
        rule = aws.fail(faults.status(503))
        clock.advance(0.9 * 12 * 3600)
        await has(mirror, "v2", SECOND)
        await aws.until(lambda: len(aws.requests) == 2)
        assert (await mirror.get(manifest())).status == 200
        rule.cancel()
        clock.advance(60)
        await mirror.get(manifest("v3"))
        await aws.until(lambda: len(aws.requests) == 3)
    assert [request.status for request in aws.requests] == [200, 503, 200]
    assert log_lines.getvalue().count("an account was not renewed") == 1
    assert '"reason":"the ECR API: status 503","good_for_seconds":4320' in log_lines.getvalue()


async def test_a_refused_key_is_our_trouble_and_aws_is_not_asked_for_each_pull(
    tmp_path: Path,
    registry: FakeRegistry,
    aws: FakeAws,
    clock: FakeClock,
    environment: SetEnvironment,
) -> None:
    environment(aws_environment(aws, tmp_path, "key") | {"AWS_SECRET_ACCESS_KEY": "canary"})
    registry.guard = PasswordsOfAws(aws.passwords)
    async with mirror_with(tmp_path, registry, "ecr", ECR, clock) as mirror:
        got = [await mirror.get(manifest()) for _ in range(3)]
        refused = await mirror.metric(REFUSED, upstream=ECR, account="ci")
        asked = len(aws.requests)
        environment({"AWS_SECRET_ACCESS_KEY": "secret/of+test"})
        clock.advance(15)
        await has(mirror, "v1", IMAGE)
    assert [(each.status, each.error_code) for each in got] == [(502, "UNKNOWN")] * 3
    assert b"InvalidSignatureException" in got[0].body
    assert b"canary" not in got[0].body
    assert (refused, asked) == (3, 1)


@pytest.mark.parametrize(
    ("name", "more", "scope"),
    [
        ("public.ecr.aws", {}, ("us-east-1", "ecr-public")),
        ("ecr.example", {"AWS_REGION": "eu-north-1"}, ("eu-north-1", "ecr")),
        ("123456789012.dkr-ecr.eu-west-3.on.aws", {}, ("eu-west-3", "ecr")),
    ],
)
async def test_the_region_and_the_service(
    tmp_path: Path,
    registry: FakeRegistry,
    aws: FakeAws,
    clock: FakeClock,
    environment: SetEnvironment,
    name: str,
    more: dict[str, object],
    scope: tuple[str, str],
) -> None:
    environment(aws_environment(aws, tmp_path, "key") | more)
    registry.guard = PasswordsOfAws(aws.passwords)
    async with mirror_with(tmp_path, registry, "ecr", name, clock) as mirror:
        assert (await mirror.get(manifest())).status == 200
    assert aws.scopes == [scope]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"AWS_EC2_METADATA_DISABLED": "true"}, b"no key of AWS"),
        ({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "ftp://x"}, b"AWS_EC2_METADATA_SERVICE_ENDPOINT"),
        (
            {"AWS_WEB_IDENTITY_TOKEN_FILE": "/no/such/canary", "AWS_ROLE_ARN": "a:role/b"},
            b"the file that AWS_WEB_IDENTITY_TOKEN_FILE names cannot be read",
        ),
    ],
)
async def test_what_is_missing_is_named(
    tmp_path: Path,
    registry: FakeRegistry,
    clock: FakeClock,
    environment: SetEnvironment,
    given: dict[str, object],
    said: bytes,
) -> None:
    environment(given)
    async with mirror_with(tmp_path, registry, "ecr", ECR, clock) as mirror:
        got = await mirror.get(manifest())
    assert got.status == 502
    assert said in got.body
    assert b"canary" not in got.body
    assert registry.requests == []  # never as nobody


# --- Google ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def key_file(path: Path, key: rsa.RSAPrivateKey, google: FakeGoogle) -> Path:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    path.write_text(
        json.dumps(
            {
                "type": "service_account",
                "client_email": "mirror@project.iam.gserviceaccount.com",
                "private_key_id": "key-1",
                "private_key": pem,
                "token_uri": f"{google.url}/token",
            }
        ),
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize("way", ["metadata", "key"])
async def test_google_by_the_machine_or_a_key(
    tmp_path: Path,
    registry: FakeRegistry,
    clock: FakeClock,
    environment: SetEnvironment,
    private_key: rsa.RSAPrivateKey,
    way: str,
) -> None:
    async with FakeGoogle(private_key.public_key()) as google, FakeTokenServer() as tokens:
        environment(
            {"GCE_METADATA_HOST": google.authority}
            if way == "metadata"
            else {"GOOGLE_APPLICATION_CREDENTIALS": key_file(tmp_path / "key", private_key, google)}
        )
        tokens.tokens = TokenService(users=google.users, anonymous=False)
        registry.guard = tokens.guard()
        more = {"realms": (tokens.host,)}
        async with mirror_with(
            tmp_path, registry, "gcp", "europe-docker.pkg.dev", clock, **more
        ) as mirror:
            await has(mirror, "v1", IMAGE)
            clock.advance(3500)
            tokens.expire_tokens()
            await mirror.get(manifest("v3"))
            await google.until(lambda: len(google.tokens) == 2)  # renewed before its end
        assert {grant.user for grant in tokens.tokens.grants} == {"oauth2accesstoken"}
    if way == "key":
        shown = google.assertions[0]
        assert shown.header == {"alg": "RS256", "typ": "JWT", "kid": "key-1"}
        assert shown.claims["aud"] == f"{google.url}/token"
        assert shown.claims["iss"] == "mirror@project.iam.gserviceaccount.com"
        assert shown.claims["exp"] - shown.claims["iat"] <= 3600


@pytest.mark.parametrize(
    "content",
    [
        "",
        "canary",
        '{"type":"authorized_user","refresh_token":"canary"}',
        '{"client_email":"m@p","private_key":"canary","token_uri":"http://127.0.0.1:1/"}',
        '{"client_email":"m@p","private_key":"k","token_uri":"canary"}',
    ],
)
async def test_another_kind_of_key_of_google_is_named(
    tmp_path: Path,
    registry: FakeRegistry,
    clock: FakeClock,
    environment: SetEnvironment,
    content: str,
) -> None:
    (tmp_path / "key").write_text(content, encoding="utf-8")
    environment({"GOOGLE_APPLICATION_CREDENTIALS": tmp_path / "key"})
    async with mirror_with(tmp_path, registry, "gcp", "gcr.io", clock) as mirror:
        got = await mirror.get(manifest())
    assert got.status == 502
    assert b"GOOGLE_APPLICATION_CREDENTIALS" in got.body
    assert b"canary" not in got.body


# --- Azure -------------------------------------------------------------------------------------


class AzureRegistry(FakeRegistry):
    """A registry whose token endpoint and exchange are its own."""

    def __init__(self, azure: FakeAzure, *, is_open: bool = False) -> None:
        super().__init__()
        self.azure = azure
        self.is_open = is_open

    def answer(self, request: Recorded) -> Answer:
        if request.path.startswith("/oauth2/"):
            return self.azure.answer(request)
        scheme, _, token = (request.authorization or "").partition(" ")
        if self.is_open or (scheme == "Bearer" and token in self.azure.access_tokens):
            return super().answer(request)
        refusal = TokenGuard(
            tokens=TokenService(service=self.authority),
            realm=f"{self.url}/oauth2/token",
            challenge=Challenge(),
        ).refusal(request)
        assert refusal is not None
        return refusal


@pytest.fixture
async def azure() -> AsyncIterator[tuple[FakeAzure, AzureRegistry]]:
    fake = FakeAzure()
    async with fake, AzureRegistry(fake) as registry:
        fake.service = registry.authority
        registry.push(REPOSITORY, IMAGE, tags=["v1"])
        registry.push(REPOSITORY, SECOND, tags=["v2"])
        yield fake, registry


def azure_environment(fake: FakeAzure, tmp_path: Path, way: str) -> dict[str, object]:
    (tmp_path / "identity").write_text(fake.assertion, encoding="utf-8")
    service = {
        "AZURE_TENANT_ID": "tenant",
        "AZURE_CLIENT_ID": "client",
        "AZURE_AUTHORITY_HOST": f"{fake.url}/",
    }
    ways: dict[str, dict[str, object]] = {
        "workload": {**service, "AZURE_FEDERATED_TOKEN_FILE": tmp_path / "identity"},
        "secret": {**service, "AZURE_CLIENT_SECRET": fake.client_secret},
        "machine": {"AZURE_POD_IDENTITY_AUTHORITY_HOST": fake.url, "AZURE_CLIENT_ID": "client"},
        "app service": {
            "IDENTITY_ENDPOINT": f"{fake.url}/app-service",
            "IDENTITY_HEADER": "header-of-the-app",
        },
    }
    return ways[way]


@pytest.mark.parametrize("way", ["workload", "secret", "machine", "app service"])
async def test_azure_by_every_kind_of_identity(
    tmp_path: Path,
    azure: tuple[FakeAzure, AzureRegistry],
    clock: FakeClock,
    environment: SetEnvironment,
    way: str,
) -> None:
    fake, registry = azure
    environment(azure_environment(fake, tmp_path, way))
    async with mirror_with(tmp_path, registry, "azure", "team.azurecr.io", clock) as mirror:
        await has(mirror, "v1", IMAGE)
        fake.expired.add(fake.refresh_tokens[-1])
        fake.access_tokens.clear()
        clock.advance(3600)
        await has(mirror, "v2", SECOND)
        refused = await mirror.total(REFUSED)
    assert len(fake.refresh_tokens) == 2  # the second because the first was refused
    assert refused == 0
    assert f"repository:{REPOSITORY}:pull" in fake.access_tokens[-1]


async def test_azure_says_what_is_missing(
    tmp_path: Path, registry: FakeRegistry, clock: FakeClock, environment: SetEnvironment
) -> None:
    environment({"AZURE_CLIENT_SECRET": "canary"})
    async with mirror_with(tmp_path, registry, "azure", "team.azurecr.io", clock) as mirror:
        got = await mirror.get(manifest())
    assert b"AZURE_TENANT_ID and AZURE_CLIENT_ID" in got.body
    assert b"canary" not in got.body


# --- all kinds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cloud", ["ecr", "gcp", "azure", "helper", "docker_config"])
async def test_a_source_that_fails_is_trouble_of_ours_and_never_the_clients(
    tmp_path: Path,
    aws: FakeAws,
    clock: FakeClock,
    environment: SetEnvironment,
    cloud: str,
) -> None:
    """Invariant 8: stale, else 502, counted, and not remembered."""
    broken = tmp_path / "broken"
    helper = tmp_path / "docker-credential-test"
    helper.write_text(
        f'#!/bin/sh\ntest ! -e {broken} && echo \'{{"Username":"u","Secret":"s"}}\'\n',
        encoding="utf-8",
    )
    helper.chmod(0o700)
    config = tmp_path / "config.json"
    config.write_text('{"auths": {"quay.io": {"auth": "dTpz"}}}', encoding="utf-8")
    given = {"helper": str(helper), "docker_config": config}.get(cloud)
    ours = Credential.model_validate(
        {"name": "ci", **({cloud: given} if given else {"cloud": cloud})}
    )
    async with FakeGoogle() as google, FakeAzure() as azure, AsyncExitStack() as stack:
        environment(
            aws_environment(aws, tmp_path, "key")
            | {"AWS_REGION": "eu-west-1", "GCE_METADATA_HOST": google.authority}
            | azure_environment(azure, tmp_path, "machine")
        )
        # A registry without a guard, but with an exchange.
        open_registry = AzureRegistry(azure, is_open=True)
        await stack.enter_async_context(open_registry)
        azure.service = open_registry.authority
        open_registry.push(REPOSITORY, IMAGE, tags=["v1"])
        open_registry.push(REPOSITORY, SECOND, tags=["v2"])
        upstream = Upstream(endpoints=(open_registry.url,), credentials=(ours,))
        async with mirror_of(tmp_path / "cache", {"quay.io": upstream}, clock=clock) as mirror:
            await pull(mirror, IMAGE)
            for origin in (aws, google, azure):
                origin.fail(faults.status(500))
            broken.touch()
            config.write_text("{}", encoding="utf-8")
            clock.advance(24 * 3600)
            stale, other = await mirror.get(manifest()), await mirror.get(manifest("v2"))
            counted = await mirror.metric(REFUSED, upstream="quay.io", account="ci")
            for origin in (aws, google, azure):
                origin.heal()
            broken.unlink()
            config.write_text('{"auths": {"quay.io": {"auth": "dTpz"}}}', encoding="utf-8")
            clock.advance(15)
            healed = await mirror.get(manifest("v2"))
    assert stale.status == 200
    assert "credential-refused" in stale.cache_status
    assert (other.status, other.error_code) == (502, "UNKNOWN")
    assert counted >= 2
    assert healed.body == SECOND.content
