"""The token flow through the whole mirror."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from mirror.observe.metrics import Metrics
from mirror.runtime.pools import Pools
from mirror.runtime.recent import MemoryTier
from mirror.settings import Policy, Timeouts, Upstream
from mirror.upstream.accounts import ANONYMOUS
from mirror.upstream.tokens import TokenKey, Tokens
from mirror.upstream.transport import Transport
from tests.fakes import faults
from tests.fakes.auth import MISSING, Challenge, FakeTokenServer
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.fakes.script import Fault
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
    pull,
    statuses,
)

Fields = tuple[str, ...]


@pytest.fixture
async def site() -> AsyncIterator[Guarded]:
    async with guarded() as site:
        yield site


# --- what is asked ---------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [("token",), ("access_token",), ("token", "access_token")])
async def test_either_name_of_a_token(site: Guarded, tmp_path: Path, fields: Fields) -> None:
    site.tokens.tokens.fields = fields
    async with mirrored(tmp_path, site.upstream()) as mirror:
        await pull(mirror, site.image)
    assert site.tokens.count() == 1


@pytest.mark.parametrize("expires_in", [MISSING, "300", 10**30])
async def test_any_expiry(site: Guarded, tmp_path: Path, expires_in: object) -> None:
    site.tokens.tokens.expires_in = expires_in
    async with mirrored(tmp_path, site.upstream()) as mirror:
        await pull(mirror, site.image)
    assert site.tokens.count() == 1


@pytest.mark.parametrize(
    ("challenge", "service", "scope"),
    [
        (Challenge(), "fake.registry", f"repository:{REPOSITORY}:pull"),
        (Challenge(scheme="bEARER", spaced=True), "fake.registry", f"repository:{REPOSITORY}:pull"),
        (Challenge(has_scope=False), "fake.registry", f"repository:{REPOSITORY}:pull"),
        (Challenge(has_service=False), None, f"repository:{REPOSITORY}:pull"),
        (Challenge(only_on_ping=True), "fake.registry", f"repository:{REPOSITORY}:pull"),
        (Challenge(actions="pull,push"), "fake.registry", f"repository:{REPOSITORY}:pull,push"),
        (
            Challenge(before=('Basic realm="x"',), after=("Negotiate",)),
            "fake.registry",
            f"repository:{REPOSITORY}:pull",
        ),
        (
            Challenge(before=("Negotiate", 'Digest a="b, c"'), separate_lines=True),
            "fake.registry",
            f"repository:{REPOSITORY}:pull",
        ),
    ],
)
async def test_every_kind_of_challenge(
    site: Guarded, tmp_path: Path, challenge: Challenge, service: str | None, scope: str
) -> None:
    site.registry.guard = site.tokens.guard(challenge)
    site.tokens.tokens.service = service
    async with mirrored(tmp_path, site.upstream()) as mirror:
        await pull(mirror, site.image)

    asked = site.tokens.requests
    assert [(each.method, each.parameter("scope")) for each in asked] == [("GET", scope)]
    assert asked[0].parameter("service") == service
    assert asked[0].authorization is None
    assert not site.tokens.tokens.problems


async def test_a_refusal_without_any_challenge_is_final(site: Guarded, tmp_path: Path) -> None:
    site.registry.guard = None
    site.registry.fail(faults.status(401), kind="manifest")
    async with mirrored(tmp_path, site.upstream(), "ghcr.io") as mirror:
        got = await mirror.get(manifest(site.image.digest))
    assert (got.status, got.error_code) == (403, "DENIED")
    assert site.registry.count(kind="manifest") == 1
    assert site.registry.count(kind="ping") == 1


# --- how often -------------------------------------------------------------------------------


async def test_fifty_at_once_cost_one_token(site: Guarded, tmp_path: Path) -> None:
    pushed = [image(seed, layers=1) for seed in range(50)]
    for each in pushed:
        site.registry.push(REPOSITORY, each)
    gate = site.tokens.hold_head()
    async with mirrored(tmp_path, site.upstream()) as mirror:
        asking = [asyncio.create_task(mirror.get(manifest(each.digest))) for each in pushed]
        await site.registry.until(lambda: site.registry.count(kind="manifest") == 50)
        await gate.arrivals(1)
        gate.release()
        answers = await asyncio.gather(*asking)

    assert [answer.body for answer in answers] == [each.content for each in pushed]
    assert site.tokens.count() == 1


async def test_trap_19_a_token_is_not_asked_for_at_every_pull(
    site: Guarded, tmp_path: Path
) -> None:
    """Harbor called the login endpoint for each pull (harbor#23750)."""
    async with mirrored(tmp_path, site.upstream()) as mirror:
        for seed in range(5):
            pushed = image(seed)
            site.registry.push(REPOSITORY, pushed, tags=[f"v{seed}"])
            await pull(mirror, pushed, f"v{seed}")

    assert site.tokens.count() == 1
    assert statuses(site.registry.requests).count(401) == 1  # the first is asked as nobody


async def test_how_long_a_token_is_kept(site: Guarded) -> None:
    pools, tier = Pools(), MemoryTier(1 << 20)
    transport = Transport(
        Upstream(endpoints=(site.registry.url,), realms=(site.tokens.host,)),
        pools,
        Metrics(CollectorRegistry()),
    )
    tokens = Tokens(transport, tier, "docker.io", lambda *_: False, 1)
    key = TokenKey(site.tokens.realm, "fake.registry", "repository:a:pull", ANONYMOUS)
    token = await tokens.get(key)
    (timer,) = tier._cache._handlers.values()
    seconds = timer.when() - asyncio.get_running_loop().time()
    kept = await tokens.get(key)
    await tier.clear()
    again = await tokens.get(key)
    await tier.clear()
    await tokens.close()
    await transport.close()
    pools.close()

    assert seconds == pytest.approx(0.9 * 300, abs=1)
    assert (token.is_new, kept.is_new, again.is_new) == (True, False, True)
    assert token.value == kept.value != again.value


# --- tokens that are refused -----------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
async def test_an_expired_token_is_replaced_once(
    site: Guarded, tmp_path: Path, status: int
) -> None:
    site.registry.guard = site.tokens.guard(expired_status=status)
    second = image(2)
    site.registry.push(REPOSITORY, second)
    async with mirrored(tmp_path, site.upstream()) as mirror:
        await pull(mirror, site.image)
        site.tokens.expire_tokens()
        site.registry.clear()
        got = await mirror.get(manifest(second.digest))

    assert got.body == second.content
    assert statuses(site.registry.requests) == [status, 200]
    assert site.tokens.count() == 2


@pytest.mark.parametrize(
    ("name", "status", "code"), [("docker.io", 404, "MANIFEST_UNKNOWN"), ("ghcr.io", 403, "DENIED")]
)
@pytest.mark.parametrize("denied_status", [401, 403])
async def test_less_than_was_asked_for_is_final(
    site: Guarded, tmp_path: Path, name: str, status: int, code: str, denied_status: int
) -> None:
    site.registry.guard = site.tokens.guard(denied_status=denied_status)
    site.tokens.tokens.private[REPOSITORY] = {"somebody"}
    async with mirrored(tmp_path, site.upstream(), name) as mirror:
        got = await mirror.get(manifest(site.image.digest))

    if denied_status == 403:
        status, code = 403, "DENIED"
    assert (got.status, got.error_code) == (status, code)
    assert "WWW-Authenticate" not in got.headers
    assert statuses(site.registry.requests) == [401, denied_status]
    assert site.tokens.count() == 1


async def test_many_refused_at_once_do_not_ask_for_ever(site: Guarded, tmp_path: Path) -> None:
    async with mirrored(tmp_path, site.upstream(), "ghcr.io") as mirror:
        await pull(mirror, site.image)
        site.tokens.tokens.private[REPOSITORY] = {"somebody"}
        site.tokens.expire_tokens()
        site.registry.clear()
        paths = iter(manifest(image(seed).digest) for seed in range(100, 120))
        answers = await gathered(20, lambda: mirror.get(next(paths)))

    assert {answer.status for answer in answers} == {403}
    assert site.registry.count() <= 3 * 20


async def test_a_token_server_that_moved_is_found(site: Guarded, tmp_path: Path) -> None:
    """What the registry said the last time is not believed for ever."""
    secret = tmp_path / "password"
    secret.write_text(PASSWORD, encoding="utf-8")
    site.tokens.tokens.users[USER] = PASSWORD
    second = image(2)
    site.registry.push(REPOSITORY, second)
    async with FakeTokenServer() as new, mirrored(tmp_path, site.upstream([account(secret)])) as up:
        await pull(up, site.image)
        await site.tokens.close()
        new.tokens.users[USER] = "of-tomorrow"
        site.registry.guard = new.guard()
        secret.write_text("of-tomorrow", encoding="utf-8")  # so the kept token is no use
        first = await up.get(manifest(second.digest))
        again = await up.get(manifest(second.digest))
    assert first.status == 502
    assert again.body == second.content


# --- a token server in trouble ---------------------------------------------------------------


TROUBLE: dict[str, tuple[Fault, int]] = {
    "500": (faults.status(500), 502),
    "503": (faults.status(503), 502),
    "404": (faults.status(404), 502),
    "a page": (faults.html(), 502),
    "a list": (faults.body(b"[1]"), 502),
    "nothing in it": (faults.body(b"{}"), 502),
    "empty": (faults.empty(), 502),
    "too deep": (faults.body(b"[" * 100_000), 502),
    "cut": (faults.cut(10), 502),
    "reset": (faults.cut(10, rst=True), 502),
    "encoded": (faults.gzip(), 502),
    "gone": (faults.no_answer(rst=True), 502),
    "redirected": (faults.redirect("http://127.0.0.1:9/token"), 502),
    "401": (faults.status(401), 403),
    "403": (faults.status(403), 403),
    "400": (faults.status(400), 403),
    "429": (faults.too_many_requests(0), 503),
}


async def test_a_token_server_in_trouble(site: Guarded, tmp_path: Path) -> None:
    async with mirrored(tmp_path, site.upstream(), "ghcr.io") as mirror:
        for number, (what, (fault, status)) in enumerate(TROUBLE.items()):
            repository = f"library/x{number}"
            site.registry.push(repository, site.image)
            rule = site.tokens.fail(fault)
            got = await mirror.get(manifest(site.image.digest, repository))
            rule.cancel()
            healed = await mirror.get(manifest(site.image.digest, repository))
            assert got.status == status, what
            assert "WWW-Authenticate" not in got.headers
            assert healed.body == site.image.content, what


async def test_the_rate_limit_of_a_token_server_is_passed_on(site: Guarded, tmp_path: Path) -> None:
    site.tokens.fail(faults.too_many_requests(7))
    async with mirrored(tmp_path, site.upstream()) as mirror:
        got = await mirror.get(manifest())
    assert (got.status, got.error_code) == (503, "TOOMANYREQUESTS")
    assert got.headers["Retry-After"] == "7"


@pytest.mark.parametrize(
    ("padding_bytes", "token_bytes", "status"),
    [(0, 16_000, 200), (300_000, 0, 200), (3_000_000, 0, 502)],
)
async def test_s11_a_large_token_answer(
    site: Guarded, tmp_path: Path, padding_bytes: int, token_bytes: int, status: int
) -> None:
    site.tokens.tokens.padding_bytes, site.tokens.tokens.token_bytes = padding_bytes, token_bytes
    async with mirrored(tmp_path, site.upstream()) as mirror:
        assert (await mirror.get(manifest())).status == status


@pytest.mark.parametrize("fault", [faults.hang(), faults.hang_in_body(5)], ids=["head", "body"])
async def test_who_comes_after_a_hanging_token_request_does_not_wait_for_it(
    site: Guarded, tmp_path: Path, fault: Fault
) -> None:
    site.tokens.fail(fault, times=1)
    hasty = Policy(timeouts=Timeouts(response_seconds=0.3, idle_seconds=60))
    async with mirrored(tmp_path, site.upstream(policy=hasty)) as mirror:
        got = await mirror.get(manifest(site.image.digest))
        await site.tokens.quiet()  # it is given up, too, long before its idle time is over
        healed = await mirror.get(manifest(site.image.digest))

    assert (got.status, got.error_code) == (504, "UNKNOWN")
    assert healed.body == site.image.content


# --- whose token is it -----------------------------------------------------------------------


async def test_s15_a_token_is_for_one_repository(site: Guarded, tmp_path: Path) -> None:
    site.registry.push("library/other", site.image, tags=["v1"])
    async with mirrored(tmp_path, site.upstream()) as mirror:
        await pull(mirror, site.image)
        await pull(mirror, site.image, repository="library/other")

    scopes = [grant.scope for grant in site.tokens.tokens.grants]
    assert scopes == [f"repository:{REPOSITORY}:pull", "repository:library/other:pull"]


async def test_trap_16_a_token_is_for_one_upstream(site: Guarded, tmp_path: Path) -> None:
    """Pulp shared one token among all remotes of a process."""
    async with FakeRegistry() as other:
        other.push(REPOSITORY, site.image, tags=["v1"])
        other.guard = site.tokens.guard()
        upstreams = {
            "docker.io": site.upstream(),
            "ghcr.io": Upstream(endpoints=(other.url,), realms=(site.tokens.host,)),
        }
        async with mirror_of(tmp_path / "cache", upstreams) as mirror:
            await pull(mirror, site.image)
            await pull(mirror, site.image, repository=f"ghcr.io/{REPOSITORY}")
        used = [
            {each.authorization for each in origin.requests if each.authorization}
            for origin in (site.registry, other)
        ]

    assert len(site.tokens.tokens.grants) == 2
    assert not used[0] & used[1]


async def test_trap_17_a_token_belongs_to_its_credential(site: Guarded, tmp_path: Path) -> None:
    """Angos kept tokens under the address, and so acted under the wrong identity."""
    secret = tmp_path / "password"
    secret.write_text(PASSWORD, encoding="utf-8")
    users = site.tokens.tokens.users
    users[USER] = PASSWORD
    ours = account(secret)
    second = image(2)
    site.registry.push(REPOSITORY, second)
    async with mirrored(tmp_path, site.upstream([ours])) as mirror:
        await pull(mirror, site.image)
        secret.write_text("of-tomorrow", encoding="utf-8")
        users[USER] = "of-tomorrow"
        assert (await mirror.get(manifest(second.digest))).body == second.content

    asked = [request.authorization for request in site.tokens.requests]
    assert asked == [basic(), basic(password="of-tomorrow")]
    assert [grant.user for grant in site.tokens.tokens.grants] == [USER, USER]
    assert {request.authorization_kind for request in site.registry.requests} == {None, "bearer"}
