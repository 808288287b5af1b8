"""Static credentials: which is used, where it goes, and what its refusal means."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from mirror.settings import Credential, Upstream
from tests.fakes import faults
from tests.fakes.answers import Answer, error
from tests.fakes.auth import BasicGuard, Verdict
from tests.fakes.clock import FakeClock
from tests.fakes.clouds import form_of
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry, Guard
from tests.fakes.wire import Kind, Recorded
from tests.harness import gathered, mirror_of
from tests.unit.upstream.pulling import (
    PASSWORD,
    REPOSITORY,
    USER,
    Guarded,
    account,
    basic,
    guarded,
    manifest,
    mirrored,
    objects,
    pull,
)

IMAGE = image()
REFUSED = "mirror_upstream_credential_refused_total"


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as registry:
        registry.push(REPOSITORY, IMAGE, tags=["v1"])
        registry.guard = BasicGuard(users={USER: PASSWORD})
        yield registry


def with_account(registry: FakeRegistry, *credentials: Credential) -> Upstream:
    return Upstream(endpoints=(registry.url,), credentials=credentials or (account(),))


class StaticTokens:
    """Lets in who shows one of the tokens."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = set(tokens)

    def refusal(self, request: Recorded) -> Answer | None:
        if (request.authorization or "").removeprefix("Bearer ") in self.tokens:
            return None
        return error(401, "UNAUTHORIZED")


async def test_an_account_can_be_alerted_on_from_the_start(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    """A counter that begins with its first refusal has not grown, as Prometheus sees it."""
    async with mirrored(tmp_path, with_account(registry, account(name="ci")), "ghcr.io") as mirror:
        found = mirror.up.metrics.registry
        assert found.get_sample_value(REFUSED, {"upstream": "ghcr.io", "account": "ci"}) == 0


# --- which credential, and how it is shown ---------------------------------------------------


async def test_a_password_is_shown_when_basic_is_asked_for(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    async with mirrored(tmp_path, with_account(registry)) as mirror:
        await pull(mirror, IMAGE)
    shown = [request.authorization for request in registry.requests]
    assert shown == [None] + [basic()] * (len(shown) - 1)  # known after the first challenge


async def test_nobody_asked_for_it_so_it_is_not_shown(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.guard = None
    async with mirrored(tmp_path, with_account(registry)) as mirror:
        await pull(mirror, IMAGE)
    assert {request.authorization for request in registry.requests} == {None}


async def test_a_bearer_token_is_shown_as_it_is(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.guard = StaticTokens("the-token")
    ours = Credential(token=SecretStr("the-token"))
    async with mirrored(tmp_path, with_account(registry, ours)) as mirror:
        await pull(mirror, IMAGE)
    assert {request.authorization for request in registry.requests} == {"Bearer the-token"}


@pytest.mark.parametrize("key", ["password_file", "token_file"])
async def test_files_are_read_again(registry: FakeRegistry, tmp_path: Path, key: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD, encoding="utf-8")
    guard = BasicGuard(users={USER: PASSWORD})
    tokens = StaticTokens(PASSWORD)
    registry.guard = guard if key == "password_file" else tokens
    given = {key: secret} | ({"username": USER} if key == "password_file" else {})
    second = image(2)
    registry.push(REPOSITORY, second)
    async with mirrored(tmp_path, with_account(registry, Credential.model_validate(given))) as up:
        await pull(up, IMAGE)
        guard.users[USER] = "of-tomorrow"
        tokens.tokens = {"of-tomorrow"}
        refused = await up.get(manifest(second.digest))
        secret.write_text("  of-tomorrow\n", encoding="utf-8")
        got = await up.get(manifest(second.digest))
    assert refused.status == 502
    assert got.body == second.content


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"])
async def test_a_secret_that_cannot_be_read_is_not_nobodys(
    registry: FakeRegistry, tmp_path: Path, content: bytes | None
) -> None:
    registry.guard = None
    secret = tmp_path / "canary-path"
    if content is not None:
        secret.write_bytes(content)
    async with mirrored(tmp_path, with_account(registry, account(secret, name="ci"))) as mirror:
        got = await mirror.get(manifest())
        refused = await mirror.metric(REFUSED, upstream="docker.io", account="ci")
    assert (got.status, got.error_code) == (502, "UNKNOWN")
    assert b"canary" not in got.body
    assert refused == 1
    assert registry.requests == []


async def test_the_longest_pattern_wins(registry: FakeRegistry, tmp_path: Path) -> None:
    shown: dict[str | None, str | None] = {}

    def note(request: Recorded) -> None:
        shown[request.repository] = request.authorization

    registry.guard = None
    registry.before = note
    credentials = (
        Credential(name="all", token=SecretStr("all"), repositories=("**",)),
        Credential(name="team", token=SecretStr("team"), repositories=("team/**", "x")),
        Credential(name="app", token=SecretStr("app"), repositories=("other/y", "team/app")),
        Credential(name="late", token=SecretStr("late"), repositories=("team/**",)),
    )
    async with mirrored(tmp_path, with_account(registry, *credentials)) as mirror:
        for name in ("team/app", "team/app/web", "team/x", "library/x", "team-b/x"):
            await mirror.get(manifest("v1", name))

    assert shown == {
        "team/app": "Bearer app",
        "team/app/web": "Bearer team",
        "team/x": "Bearer team",
        "library/x": "Bearer all",
        "team-b/x": "Bearer all",
    }


async def test_repositories_without_a_credential_are_asked_as_nobody(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.guard = None
    ours = Credential(token=SecretStr("t"), repositories=("team/**",))
    async with mirrored(tmp_path, with_account(registry, ours)) as mirror:
        await pull(mirror, IMAGE)
    assert {request.authorization for request in registry.requests} == {None}


# --- being refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "status"), [("docker.io", 404), ("ghcr.io", 403)])
async def test_nobody_is_refused_where_an_account_is_wanted(
    registry: FakeRegistry, tmp_path: Path, name: str, status: int
) -> None:
    async with mirrored(tmp_path, registry.url, name) as mirror:
        got = await mirror.get(manifest())
    assert got.status == status
    assert "WWW-Authenticate" not in got.headers


@pytest.mark.parametrize("name", ["docker.io", "ghcr.io"])
@pytest.mark.parametrize("by", ["basic", "bearer", "token server"])
async def test_our_credential_is_refused(
    tmp_path: Path, clock: FakeClock, by: str, name: str
) -> None:
    """It is our trouble: stale, else 502, never remembered, and counted."""
    async with guarded() as site:
        site.tokens.tokens.users[USER] = PASSWORD
        passwords, tokens = BasicGuard(users={USER: PASSWORD}), StaticTokens("good")
        guards: dict[str, Guard] = {
            "basic": passwords,
            "bearer": tokens,
            "token server": site.tokens.guard(),
        }
        site.registry.guard = guards[by]
        ours = account(name="ci")
        if by == "bearer":
            ours = Credential(name="ci", token=SecretStr("good"))
        async with mirror_of(
            tmp_path / "cache", {name: site.upstream([ours])}, clock=clock
        ) as mirror:
            await pull(mirror, site.image)
            stored = objects(mirror)
            passwords.users[USER] = site.tokens.tokens.users[USER] = "another"
            tokens.tokens = {"another"}
            site.tokens.expire_tokens()
            clock.advance(3600)
            stale = await mirror.get(manifest())
            other = await mirror.get(manifest("v2"))
            layer = await mirror.get(f"/v2/{REPOSITORY}/blobs/{image(9).layers[0].digest}")
            refused = await mirror.metric(REFUSED, upstream=name, account="ci")
            passwords.users[USER] = site.tokens.tokens.users[USER] = PASSWORD
            tokens.tokens = {"good"}
            healed = await mirror.get(manifest("v2"))
            assert objects(mirror) == stored

    assert stale.status == 200
    assert stale.headers["Warning"].startswith("299")
    assert [(got.status, got.error_code) for got in (other, layer)] == [(502, "UNKNOWN")] * 2
    assert all("WWW-Authenticate" not in got.headers for got in (stale, other, layer))
    assert refused >= 3
    assert healed.status == 404  # asked again, and not there


@pytest.mark.parametrize("status", [401, 403])
async def test_an_account_that_may_not_see_a_repository_is_not_a_bad_account(
    registry: FakeRegistry, tmp_path: Path, status: int
) -> None:
    """Harbor says 401 for projects that are not ours; its front door tells the difference."""
    guard = registry.guard = BasicGuard(users={USER: PASSWORD})
    registry.before = lambda request: (
        error(status, "DENIED") if request.kind is not Kind.PING else None
    )
    async with mirrored(tmp_path, with_account(registry), "harbor.example") as mirror:
        got = await mirror.get(manifest())
        refused = await mirror.total(REFUSED)
    assert guard is not None
    assert (got.status, got.error_code) == (403, "DENIED")
    assert refused == 0
    assert registry.matching(kind="ping")[-1].authorization == basic()


async def test_less_for_our_account_is_denied_and_no_trouble(tmp_path: Path) -> None:
    async with guarded() as site:
        site.tokens.tokens.users[USER] = PASSWORD
        site.tokens.tokens.policy = lambda *_: Verdict.NOTHING
        async with mirrored(tmp_path, site.upstream([account()]), "ghcr.io") as mirror:
            got = await mirror.get(manifest(site.image.digest))
            refused = await mirror.total(REFUSED)
    assert (got.status, got.error_code) == (403, "DENIED")
    assert refused == 0


def with_forbidden(site: Guarded, verdict: Verdict, *repositories: str) -> Upstream:
    """Let the token server refuse repositories to everybody; returns what has our account."""
    site.tokens.tokens.users[USER] = PASSWORD
    site.tokens.tokens.policy = lambda name, _: verdict if name in repositories else Verdict.FULL
    return site.upstream([account(name="ci")])


@pytest.mark.parametrize(("name", "status"), [("docker.io", 404), ("ghcr.io", 403)])
@pytest.mark.parametrize("verdict", [Verdict.UNAUTHORIZED, Verdict.DENIED])
async def test_a_token_server_that_refuses_a_repository_does_not_refuse_our_account(
    tmp_path: Path, verdict: Verdict, name: str, status: int
) -> None:
    """It is asked once without a scope, by as many pulls as there are, as by ``docker login``."""
    async with guarded() as site:
        upstream = with_forbidden(site, verdict, *(f"team/{number}" for number in range(9)))
        async with mirrored(tmp_path, upstream, name) as mirror:
            await pull(mirror, site.image)
            numbers = iter(range(8))
            got = await gathered(8, lambda: mirror.get(manifest("v1", f"team/{next(numbers)}")))
            got.append(await mirror.get(manifest("v1", "team/8")))
            refused = await mirror.total(REFUSED)
        scopes = [request.parameter("scope") for request in site.tokens.requests]
        assert {request.authorization for request in site.tokens.requests} == {basic()}
        assert not site.tokens.tokens.problems
    assert {each.status for each in got} == {status}
    assert refused == 0
    assert scopes.count(None) == 1
    assert len(scopes) == 1 + 9 + 1


async def test_a_token_server_that_refuses_an_identity_token_a_repository(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"auths": {"ghcr.io": {"identitytoken": "identity"}}}', encoding="utf-8")
    async with guarded() as site:
        site.tokens.tokens.accepts_post = True
        site.tokens.tokens.policy = lambda *_: Verdict.DENIED
        upstream = site.upstream([Credential(name="ci", docker_config=config)])
        async with mirrored(tmp_path, upstream, "ghcr.io") as mirror:
            got = await mirror.get(manifest())
            refused = await mirror.total(REFUSED)
        forms = [form_of(request) for request in site.tokens.requests]
    assert (got.status, got.error_code, refused) == (403, "DENIED", 0)
    assert [form.get("scope") for form in forms] == [f"repository:{REPOSITORY}:pull", None]
    assert {form["refresh_token"] for form in forms} == {"identity"}


async def test_an_account_that_is_refused_is_asked_about_once(tmp_path: Path) -> None:
    async with guarded() as site:
        upstream = with_forbidden(site, Verdict.FULL)
        site.tokens.tokens.users[USER] = "another"
        async with mirrored(tmp_path, upstream, "ghcr.io") as mirror:
            got = [await mirror.get(manifest(tag)) for tag in ("v1", "v2", "v3")]
            refused = await mirror.metric(REFUSED, upstream="ghcr.io", account="ci")
        scopes = [request.parameter("scope") for request in site.tokens.requests]
    assert {each.status for each in got} == {502}
    assert refused == 3
    assert scopes.count(None) == 1


async def test_a_token_server_that_does_not_tell_which_is_refused_is_trouble(
    tmp_path: Path,
) -> None:
    async with guarded() as site:
        upstream = with_forbidden(site, Verdict.DENIED, REPOSITORY)
        rule = site.tokens.fail(faults.status(503), skip=1)
        async with mirrored(tmp_path, upstream, "ghcr.io") as mirror:
            got = await mirror.get(manifest())
            rule.cancel()
            healed = await mirror.get(manifest())
            refused = await mirror.total(REFUSED)
    assert (got.status, healed.status, refused) == (502, 403, 0)


async def test_a_token_server_that_knows_no_question_without_a_scope_refuses_the_account(
    tmp_path: Path,
) -> None:
    async with guarded() as site:
        upstream = with_forbidden(site, Verdict.DENIED, REPOSITORY)
        site.tokens.fail(faults.status(404), skip=1)
        async with mirrored(tmp_path, upstream, "ghcr.io") as mirror:
            got = await mirror.get(manifest())
            refused = await mirror.total(REFUSED)
    assert (got.status, refused) == (502, 1)


async def test_an_outage_of_the_token_server_is_not_a_bad_account(tmp_path: Path) -> None:
    async with guarded() as site:
        site.tokens.fail(faults.status(503))
        async with mirrored(tmp_path, site.upstream([account()])) as mirror:
            got = await mirror.get(manifest())
            refused = await mirror.total(REFUSED)
    assert got.status == 502
    assert refused == 0
