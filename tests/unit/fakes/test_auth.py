"""Tokens and challenges, in every variant."""

import base64
import json
from collections.abc import AsyncIterator

import pytest

from tests.fakes import faults
from tests.fakes.auth import (
    MISSING,
    BasicGuard,
    Challenge,
    FakeTokenServer,
    TokenGuard,
    TokenService,
    Verdict,
)
from tests.fakes.clients import Ended, RawAnswer, RawClient, compose, get
from tests.fakes.clock import FakeClock
from tests.fakes.registry import FakeRegistry
from tests.fakes.wire import Headers, Kind

SCOPE = "repository:a:pull"
GOOD = f"service=fake.registry&scope={SCOPE}"


@pytest.fixture
async def server() -> AsyncIterator[FakeTokenServer]:
    async with FakeTokenServer() as running:
        yield running


@pytest.fixture
async def registry(server: FakeTokenServer) -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as running:
        running.put_manifest("a", "t", b"{}", "m/t")
        running.put_manifest("b", "t", b"{}", "m/t")
        running.guard = server.guard()
        yield running


def basic(user: str, password: str) -> tuple[str, str]:
    return "Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def ask_token(
    server: FakeTokenServer, query: str = GOOD, *headers: tuple[str, str], method: str = "GET"
) -> RawAnswer:
    return await get(server.host, server.port, f"/token?{query}", headers, method=method)


async def token(server: FakeTokenServer, query: str = GOOD, *headers: tuple[str, str]) -> str:
    document = json.loads((await ask_token(server, query, *headers)).body)
    found: str = document["token"]
    return found


async def pull(registry: FakeRegistry, repository: str, bearer: str | None = None) -> RawAnswer:
    headers: Headers = [] if bearer is None else [("Authorization", f"Bearer {bearer}")]
    target = f"/v2/{repository}/manifests/t"
    return await get(registry.host, registry.port, target, headers)


async def test_the_flow_of_the_specification(
    server: FakeTokenServer, registry: FakeRegistry
) -> None:
    refused = await pull(registry, "a")
    assert refused.status == 401
    assert refused.header("WWW-Authenticate") == (
        f'Bearer realm="{server.realm}",service="fake.registry",scope="repository:a:pull"'
    )
    assert (await pull(registry, "a", await token(server))).status == 200
    assert server.count(repository="a", reference=SCOPE, kind=Kind.TOKEN) == 1
    assert [grant.scope for grant in server.tokens.grants] == [SCOPE]
    assert server.tokens.problems == []


async def test_a_token_is_good_for_its_repository_only(
    server: FakeTokenServer, registry: FakeRegistry
) -> None:
    refused = await pull(registry, "b", await token(server))
    assert refused.status == 401
    assert 'error="insufficient_scope"' in (refused.header("WWW-Authenticate") or "")
    both = await token(server, f"{GOOD}&scope=repository:b:pull,push")
    assert (await pull(registry, "b", both)).status == 200
    registry.guard = server.guard(denied_status=403)
    assert (await pull(registry, "b", await token(server))).status == 403


async def test_tokens_expire_by_the_clock_and_on_demand(
    server: FakeTokenServer, registry: FakeRegistry
) -> None:
    clock = FakeClock()
    server.tokens.clock = clock
    bearer = await token(server)
    clock.advance(299)
    assert (await pull(registry, "a", bearer)).status == 200
    clock.advance(1)
    assert (await pull(registry, "a", bearer)).status == 401
    bearer = await token(server)
    server.expire_tokens()
    assert 'error="invalid_token"' in str((await pull(registry, "a", bearer)).headers)
    registry.guard = server.guard(expired_status=403)
    assert (await pull(registry, "a", bearer)).status == 403


@pytest.mark.parametrize("expires_in", [60, "300", 59.5, 10**18, -1, 0, None, {}, "soon"])
async def test_expires_in_may_be_anything(server: FakeTokenServer, expires_in: object) -> None:
    server.tokens.expires_in = expires_in
    document = json.loads((await ask_token(server)).body)
    assert document["expires_in"] == expires_in


async def test_fields_may_be_missing(server: FakeTokenServer) -> None:
    document = json.loads((await ask_token(server)).body)
    assert set(document) == {"token", "access_token", "expires_in", "issued_at"}
    server.tokens.fields = ("access_token",)
    server.tokens.expires_in = server.tokens.issued_at = MISSING
    assert list(json.loads((await ask_token(server)).body)) == ["access_token"]
    server.tokens.issued_at = "yesterday"
    assert json.loads((await ask_token(server)).body)["issued_at"] == "yesterday"


async def test_answers_may_be_huge_or_junk(server: FakeTokenServer) -> None:
    server.tokens.token_bytes = 9000
    assert len(await token(server)) == 9000
    server.tokens.padding_bytes = 2 << 20
    assert len((await ask_token(server)).body) > 2 << 20
    server.fail(faults.body(b"not json"), kind=Kind.TOKEN, times=1)
    assert (await ask_token(server)).body == b"not json"
    server.fail(faults.hang(), times=1)
    async with await RawClient.connect(server.host, server.port) as client:
        await client.send(compose("/token"))
        assert (await client.answer(timeout_seconds=0.05)).ended is Ended.TIMEOUT


@pytest.mark.parametrize(
    "query", ["scope=repository:a:pull", "service=other", "service=fake.registry&scope=a:b"]
)
async def test_a_wrong_question_is_noted(server: FakeTokenServer, query: str) -> None:
    assert (await ask_token(server, query)).status == 400
    assert len(server.tokens.problems) == 1


async def test_a_scope_may_be_needed(server: FakeTokenServer) -> None:
    assert (await ask_token(server, "service=fake.registry")).status == 200
    server.tokens.needs_scope = True
    assert (await ask_token(server, "service=fake.registry")).status == 401


async def test_credentials(server: FakeTokenServer, registry: FakeRegistry) -> None:
    server.tokens.users = {"ann": "p:w"}
    server.tokens.private = {"a": {"ann"}}
    assert (await pull(registry, "a", await token(server))).status == 401
    bearer = await token(server, GOOD, basic("ann", "p:w"))
    assert (await pull(registry, "a", bearer)).status == 200
    assert server.tokens.grants[-1].user == "ann"
    assert server.requests[-1].authorization_kind == "basic"
    assert (await ask_token(server, GOOD, basic("ann", "wrong"))).status == 401
    assert (await ask_token(server, GOOD, ("Authorization", "Basic !"))).status == 401
    server.tokens.anonymous = False
    assert (await ask_token(server)).status == 401


@pytest.mark.parametrize(
    ("verdict", "status"), [("full", 200), ("nothing", 200), ("unauthorized", 401), ("denied", 403)]
)
async def test_a_policy_decides(server: FakeTokenServer, verdict: str, status: int) -> None:
    server.tokens.policy = lambda repository, user: Verdict(verdict)
    assert (await ask_token(server)).status == status


async def test_post_may_be_refused_or_taken(server: FakeTokenServer) -> None:
    for status in (404, 405):
        server.tokens.post_status = status
        assert (await ask_token(server, method="POST")).status == status
    server.tokens.accepts_post = True
    server.tokens.users = {"ann": "pw"}
    body = f"{GOOD}&grant_type=password&username=ann&password=pw".encode()
    raw = compose("/token", [("Content-Length", str(len(body)))], method="POST", body=body)
    async with await RawClient.connect(server.host, server.port) as client:
        await client.send(raw)
        assert (await client.answer()).status == 200
    assert server.tokens.grants[-1].user == "ann"


@pytest.mark.parametrize(
    ("challenge", "expected"),
    [
        (Challenge(has_scope=False), ['Bearer realm="R",service="S"']),
        (Challenge(has_service=False), ['Bearer realm="R",scope="repository:a:pull"']),
        (Challenge(has_realm=False, has_scope=False), ['Bearer service="S"']),
        (
            Challenge(scheme="bEaReR", actions="pull,push", spaced=True),
            ['bEaReR realm="R", service="S", scope="repository:a:pull,push"'],
        ),
        (
            Challenge(before=("Negotiate",), after=('Basic realm="x, y"',), has_scope=False),
            ['Negotiate, Bearer realm="R",service="S", Basic realm="x, y"'],
        ),
        (
            Challenge(before=("Negotiate",), separate_lines=True, has_scope=False),
            ["Negotiate", 'Bearer realm="R",service="S"'],
        ),
        (
            Challenge(realm="http://evil.test/", scope="aws", more=(("x", "y"),)),
            ['Bearer realm="http://evil.test/",service="S",scope="aws",x="y"'],
        ),
    ],
)
async def test_challenges(
    registry: FakeRegistry, challenge: Challenge, expected: list[str]
) -> None:
    registry.guard = TokenGuard(tokens=TokenService(service="S"), realm="R", challenge=challenge)
    assert (await pull(registry, "a")).header_lines("WWW-Authenticate") == expected


async def test_the_challenge_may_be_at_the_ping_only(
    server: FakeTokenServer, registry: FakeRegistry
) -> None:
    registry.guard = server.guard(Challenge(only_on_ping=True))
    assert (await pull(registry, "a")).header("WWW-Authenticate") is None
    ping = await get(registry.host, registry.port, "/v2/")
    assert (ping.status, "scope" in str(ping.headers)) == (401, False)
    assert "Bearer" in (ping.header("WWW-Authenticate") or "")


async def test_some_kinds_may_be_open(server: FakeTokenServer, registry: FakeRegistry) -> None:
    registry.guard = server.guard(open_kinds=frozenset({Kind.PING}))
    assert (await get(registry.host, registry.port, "/v2/")).status == 200
    assert (await pull(registry, "a")).status == 401


async def test_a_token_service_may_be_on_the_registry(registry: FakeRegistry) -> None:
    tokens = TokenService(service=None, open_scopes=frozenset({"aws"}))
    registry.mount("/auth", tokens.answer)
    registry.guard = TokenGuard(tokens=tokens, realm=f"{registry.url}/auth")
    answer = await get(registry.host, registry.port, "/auth?scope=aws")
    assert (await pull(registry, "b", json.loads(answer.body)["token"])).status == 200
    assert registry.count(kind=Kind.TOKEN, reference="aws") == 1


async def test_basic_passwords_expire(registry: FakeRegistry) -> None:
    guard = registry.guard = BasicGuard(users={"AWS": "old"})
    target = "/v2/a/manifests/t"
    refused = await get(registry.host, registry.port, target)
    assert (refused.status, "Basic realm=" in str(refused.headers)) == (401, True)
    old, new = [basic("AWS", "old")], [basic("AWS", "new")]
    assert (await get(registry.host, registry.port, target, old)).status == 200
    assert (await get(registry.host, registry.port, target, new)).status == 401
    guard.expire()
    guard.users["AWS"] = "new"
    expired = await get(registry.host, registry.port, target, old)
    assert (expired.status, b"has expired" in expired.body) == (403, True)
    assert (await get(registry.host, registry.port, target, new)).status == 200


async def test_another_path_is_not_the_token_service(server: FakeTokenServer) -> None:
    assert (await get(server.host, server.port, "/other")).status == 404
