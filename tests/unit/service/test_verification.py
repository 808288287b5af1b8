"""Private images by the caller's own credential: what one may see, another may not."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mirror.settings import Auth, Policy, Settings, Upstream
from mirror.settings.upstreams import Credential
from tests.fakes.answers import Answer, error
from tests.fakes.auth import BasicGuard, FakeTokenServer
from tests.fakes.clock import FakeClock
from tests.fakes.content import OCI_INDEX, OCI_MANIFEST, Blob, artifact, blob, image, index
from tests.fakes.registry import FakeRegistry, Redirect
from tests.fakes.wire import Kind, Recorded
from tests.harness import MIB, QUICK, Got, Mirror, mirror_of
from tests.unit.web.callers import basic, bearer, challenge, server
from tests.unit.web.wire import blob_path, manifest_path

OURS, THEIRS, PUBLIC = image(11), image(12), image(13)
A, B, P = "team-a/app", "team-b/app", "free/app"
ANN, BOB, EVE = basic("ann", "secret-of-ann"), basic("bob", "secret-of-bob"), basic("eve", "guess")
ALSO = basic("also-bob", "secret-of-also")
USERS = {"ann": "secret-of-ann", "bob": "secret-of-bob", "also-bob": "secret-of-also"}
PRIVATE = {A: {"ann"}, B: {"bob", "also-bob"}}
TTL_SECONDS = 300
TAG_TTL_SECONDS = 10_000
NAME = "corp.example"


@dataclass
class BasicRepositories:
    """Asks for a password where a repository is private, and says 403 to the wrong one."""

    users: dict[str, str]
    private: dict[str, set[str]]
    _passwords: BasicGuard = field(init=False)

    def __post_init__(self) -> None:
        self._passwords = BasicGuard(users=self.users)

    def refusal(self, request: Recorded) -> Answer | None:
        allowed = self.private.get(request.repository or "")
        if allowed is None:
            return None
        refusal = self._passwords.refusal(request)
        if refusal is not None:
            return refusal
        user = next(u for u, p in self.users.items() if request.authorization == said(u, p))
        return None if user in allowed else denied()


def said(user: str, password: str) -> str:
    return basic(user, password)["Authorization"]


def denied() -> Answer:
    return Answer(status=403, body=b'{"errors":[{"code":"DENIED"}]}')


@dataclass
class Corp:
    """A registry with two users, two private repositories and a public one, and its mirror."""

    registry: FakeRegistry
    mirror: Mirror
    private: dict[str, set[str]]
    users: dict[str, str]
    clock: FakeClock
    tokens: FakeTokenServer | None
    stop: Callable[[], Awaitable[None]]
    """Stops the mirror, and not the registry."""

    async def get(self, path: str, who: dict[str, str] | None = None, method: str = "GET") -> Got:
        return await self.mirror.request(method, path, who)

    async def pull(self, repository: str, who: dict[str, str] | None) -> None:
        pushed = {A: OURS, B: THEIRS, P: PUBLIC}[repository]
        got = await self.get(manifest_path("v1", repository), who)
        assert (got.status, got.body) == (200, pushed.content)
        for each in pushed.blobs:
            got = await self.get(blob_path(each.digest, repository), who)
            assert (got.status, got.body) == (200, each.content)
        await self.mirror.settled()

    def downloads(self) -> int:
        """Return how many objects were fetched; what was refused is none."""
        return sum(
            each.method == "GET" and each.status == 200 and "/tags/" not in each.path
            for each in self.registry.requests
            if each.repository
        )

    def shown(self) -> set[str]:
        """Return what the registry and its token server were shown."""
        requests = [*self.registry.requests, *(self.tokens.requests if self.tokens else [])]
        return {each.authorization or "" for each in requests}


@asynccontextmanager
async def corp(
    tmp_path: Path,
    kind: str = "tokens",
    *,
    name: str = NAME,
    auth: Auth | None = None,
    **policy: Any,  # noqa: ANN401 -- fields of Policy, which checks them
) -> AsyncIterator[Corp]:
    """Run a mirror that verifies callers at a registry with tokens, or one with passwords."""
    clock, users = FakeClock(1_800_000_000.0), dict(USERS)
    private = {key: set(names) for key, names in PRIVATE.items()}
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(FakeRegistry())
        for repository, pushed in ((A, OURS), (B, THEIRS), (P, PUBLIC)):
            registry.push(repository, pushed, ["v1"])
        tokens = None
        if kind == "tokens":
            tokens = await stack.enter_async_context(FakeTokenServer())
            tokens.tokens.users, tokens.tokens.private = users, private
            registry.guard = tokens.guard()
        else:
            registry.guard = BasicRepositories(users, private)
        verifying = Policy(
            access="verify", timeouts=QUICK, tag_ttl_seconds=TAG_TTL_SECONDS, **policy
        )
        upstreams: dict[str, Any] = {
            name: Upstream(
                endpoints=(registry.url,),
                realms=("127.0.0.1",),
                aliases=("alias.example",),
                policy=verifying,
            ),
            "other.example": Upstream(
                endpoints=(registry.url,), realms=("127.0.0.1",), policy=Policy(timeouts=QUICK)
            ),
        }
        running = await stack.enter_async_context(AsyncExitStack())
        mirror = await running.enter_async_context(
            mirror_of(
                tmp_path / "cache",
                upstreams,
                clock=clock,
                default_upstream=name,
                server=server(auth, catalog=True),
            )
        )
        yield Corp(registry, mirror, private, users, clock, tokens, running.aclose)


@pytest.fixture
async def town(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Corp]:
    async with corp(tmp_path, getattr(request, "param", "tokens")) as up:
        yield up


both = pytest.mark.parametrize("town", ["tokens", "passwords"], indirect=True)


def ways(repository: str, pushed: Blob, layer: Blob) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield every way to ask for an image: by tag, by digest, its layer whole and in part."""
    digest = pushed.digest
    for name in (repository, f"{NAME}/{repository}", f"alias.example/{repository}"):
        for path in (
            manifest_path("v1", name),
            manifest_path(digest, name),
            blob_path(layer.digest, name),
        ):
            for method in ("GET", "HEAD"):
                yield method, path, {}
            yield "GET", path, {"Range": "bytes=0-9"}
            yield "GET", path, {"If-None-Match": "*"}
        yield "GET", f"/v2/{name}/tags/list", {}
        yield "GET", f"/v2/{name}/referrers/{digest}", {}
    yield "GET", f"/v2/{repository}/manifests/v1?ns=alias.example", {}
    yield "GET", f"/{NAME}/v2/{repository}/blobs/{layer.digest}", {}


# --- who sees what ---------------------------------------------------------------------------


@both
async def test_what_is_cached_for_one_is_closed_to_the_other(town: Corp) -> None:
    await town.pull(B, BOB)
    before = town.downloads()

    for who in (ANN, EVE, {}):
        for method, path, headers in ways(B, THEIRS, THEIRS.layers[0]):
            got = await town.mirror.request(method, path, {**who, **headers})
            assert got.status in {401, 403}, (who, method, path)
            assert THEIRS.digest not in str(got.headers)
            assert len(got.body) < 400
    for who in (bearer("nonsense"), {"Authorization": "Basic ?"}):
        assert (await town.get(manifest_path("v1", B), who)).status == 401
    assert town.downloads() == before
    assert await town.mirror.total("mirror_upstream_credential_refused_total") == 0


async def test_nor_is_it_had_by_another_name_or_repository(town: Corp) -> None:
    await town.pull(B, BOB)
    layer = THEIRS.layers[0].digest
    for name in (A, P, f"other.example/{B}", f"other.example/{P}"):
        who = ANN if name == A else {}
        for path in (manifest_path(THEIRS.digest, name), blob_path(layer, name)):
            for method, headers in (("GET", {}), ("HEAD", {}), ("GET", {"Range": "bytes=0-9"})):
                got = await town.mirror.request(method, path, {**who, **headers})
                assert got.status in {401, 403, 404}, (name, method, path)


@both
async def test_the_second_one_who_may_downloads_nothing(town: Corp) -> None:
    await town.pull(B, BOB)
    town.registry.clear()

    await town.pull(B, ALSO)

    asked = [each for each in town.registry.requests if each.status == 200]
    assert [(each.method, each.path) for each in asked] == [("HEAD", manifest_path("v1", B))]
    await town.pull(B, ALSO)
    assert [each for each in town.registry.requests if each.status == 200] == asked


@both
async def test_downloads_are_made_with_the_callers_credential(town: Corp) -> None:
    await town.pull(A, ANN)
    served = [
        each for each in town.registry.requests if each.status == 200 and each.repository == A
    ]
    assert served
    if town.tokens is None:
        assert {each.authorization for each in served} == {ANN["Authorization"]}
    else:
        grants = {grant.token: grant.user for grant in town.tokens.tokens.grants}
        assert {grants[(each.authorization or " ").split()[1]] for each in served} == {"ann"}
        assert not town.tokens.tokens.problems
    assert BOB["Authorization"] not in town.shown()


@both
async def test_nothing_that_one_pushes_opens_what_is_not_his(town: Corp) -> None:
    """A repository of Ann's own names Bob's digests in every way that a manifest can."""
    await town.pull(B, BOB)
    layer = THEIRS.layers[0]
    document = json.loads(OURS.content)
    document["layers"] = [layer.descriptor()]
    town.registry.put_manifest(A, "as-layer", json.dumps(document).encode(), OCI_MANIFEST)
    document["layers"] = [{**layer.descriptor(), "urls": ["https://elsewhere.example/x"]}]
    town.registry.put_manifest(A, "foreign", json.dumps(document).encode(), OCI_MANIFEST)
    town.registry.push(A, artifact(THEIRS), ["as-subject"])
    listed = index([THEIRS])
    town.registry.put_manifest(A, "as-child", listed.content, OCI_INDEX)
    for tag in ("as-layer", "foreign", "as-subject", "as-child"):
        assert (await town.get(manifest_path(tag, A), ANN)).status == 200

    for path in (blob_path(layer.digest, A), manifest_path(THEIRS.digest, A)):
        for method, headers in (("GET", {}), ("HEAD", {}), ("GET", {"Range": "bytes=0-9"})):
            got = await town.mirror.request(method, path, {**ANN, **headers})
            assert got.status == 404, (method, path)


async def test_nor_does_a_public_repository(town: Corp) -> None:
    await town.pull(B, BOB)
    layer = THEIRS.layers[0]
    document = json.loads(PUBLIC.content)
    document["layers"] = [layer.descriptor()]
    town.registry.put_manifest(P, "as-layer", json.dumps(document).encode(), OCI_MANIFEST)
    assert (await town.get(manifest_path("as-layer", P))).status == 200
    for who in (None, ANN):
        for method in ("GET", "HEAD"):
            assert (await town.get(blob_path(layer.digest, P), who, method)).status == 404


async def test_what_follows_on_a_connection_is_somebody_elses(town: Corp) -> None:
    """All requests of a connection run in one task, and so in one context."""
    await town.pull(P, None)
    for who, status in ((BOB, 200), ({}, 401), (ANN, 403), (BOB, 200)):
        assert (await town.get(manifest_path("v1", B), who)).status == status
    town.registry.push(P, image(14), ["v2"])
    town.registry.clear()
    assert (await town.get(manifest_path("v2", P))).status == 200
    grants = {grant.token: grant.user for grant in town.tokens.tokens.grants} if town.tokens else {}
    shown = {(each.authorization or " ").split(" ")[1] for each in town.registry.requests}
    assert {grants.get(token) for token in shown} == {None}


async def test_many_at_once(town: Corp) -> None:
    pushed = blob(MIB)
    town.registry.push_blob(B, pushed)
    path = blob_path(pushed.digest, B)
    assert (await town.get(manifest_path("v1", B), BOB)).status == 200
    gate = town.registry.hold_body(pushed.digest, after_bytes=1000, times=1)
    first = asyncio.create_task(town.get(path, BOB))
    await gate.reached.wait()
    others = [asyncio.create_task(town.get(path, who)) for who in (ALSO, ANN, {}, ALSO)]
    refused = [await others[1], await others[2]]
    gate.release()
    assert [each.status for each in refused] == [403, 401]
    for each in (await first, await others[0], await others[3]):
        assert each.body == pushed.content
    assert town.downloads() == 2, "the manifest and the blob, each once"


# --- what is public --------------------------------------------------------------------------


async def test_what_is_public_stays_anonymous(town: Corp) -> None:
    await town.pull(P, None)
    before = town.downloads()
    for who in (ANN, EVE, {}):
        await town.pull(P, who)
    assert town.downloads() == before
    assert not {ANN["Authorization"], EVE["Authorization"]} & town.shown()


async def test_what_was_public_is_closed_in_time(town: Corp) -> None:
    await town.pull(P, None)
    town.private[P] = {"ann"}
    town.clock.advance(TTL_SECONDS + 1)
    assert (await town.get(manifest_path("v1", P))).status == 401
    assert (await town.get(blob_path(PUBLIC.layers[0].digest, P), BOB)).status == 403
    await town.pull(P, ANN)


async def test_the_catalogue_keeps_quiet(town: Corp) -> None:
    await town.pull(B, BOB)
    assert json.loads((await town.get("/v2/_catalog")).body) == {"repositories": []}


# --- for how long ----------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["taken from the repository", "password changed"])
async def test_who_may_no_more_may_not_for_long(town: Corp, change: str) -> None:
    path = blob_path(THEIRS.layers[0].digest, B)
    await town.pull(B, BOB)
    if change == "password changed":
        town.users["bob"] = "another"
    else:
        town.private[B].discard("bob")
    town.clock.advance(TTL_SECONDS - 1)
    assert (await town.get(path, BOB)).status == 200
    town.clock.advance(2)
    assert (await town.get(path, BOB)).status == 403
    assert (await town.get(path, ALSO)).status == 200


@pytest.mark.parametrize("town", ["passwords"], indirect=True)
async def test_that_one_does_not_find_it_says_nothing_to_another(town: Corp) -> None:
    """Docker Hub says of what one may not see any more that it is not there."""
    await town.pull(B, BOB)
    await town.pull(B, ALSO)
    town.registry.push(B, OURS, ["v2"])
    gone = error(404, "MANIFEST_UNKNOWN")
    town.registry.before = lambda request: (
        gone if request.authorization == said("bob", USERS["bob"]) else None
    )
    assert (await town.get(manifest_path("v2", B), BOB)).status == 404
    assert (await town.get(manifest_path("v2", B), ALSO)).status == 200


async def test_who_may_at_last_may_soon(town: Corp) -> None:
    assert (await town.get(manifest_path("v1", B), ANN)).status == 403
    town.private[B].add("ann")
    asked = len(town.registry.requests)
    assert (await town.get(manifest_path("v1", B), ANN)).status == 403
    assert len(town.registry.requests) == asked, "a refusal is remembered for a moment"
    town.clock.advance(11)
    await town.pull(B, ANN)


async def test_what_is_not_there_is_no_proof(town: Corp) -> None:
    await town.pull(B, BOB)
    assert (await town.get(manifest_path("nothing", A), ANN)).status == 404
    assert (await town.get(manifest_path("nothing", B), ANN)).status == 403
    await town.pull(A, ANN)


# --- what each may still ask -----------------------------------------------------------------


async def test_a_429_for_one_caller_stops_nobody_else(tmp_path: Path) -> None:
    """Neither when it is checked who may, nor when an image is pulled."""
    limited = error(429, "TOOMANYREQUESTS")
    limited.headers.append(("Retry-After", "600"))
    async with corp(tmp_path, "passwords") as town:
        town.registry.before = lambda request: (
            limited if request.authorization == BOB["Authorization"] else None
        )
        assert (await town.get(manifest_path("v1", B), BOB)).status == 503
        town.registry.before = None
        asked = len(town.registry.requests)
        got = await town.get(manifest_path("v1", B), BOB)
        assert (got.status, got.headers["Retry-After"]) == (503, "600")
        assert len(town.registry.requests) == asked, "it is left alone"
        await town.pull(B, ALSO)
        await town.pull(A, ANN)
        town.clock.advance(601)
        await town.pull(B, BOB)


async def test_each_caller_has_a_budget_of_its_own(tmp_path: Path) -> None:
    remaining = "mirror_upstream_ratelimit_remaining"
    async with corp(tmp_path, "passwords") as town:
        headers = town.registry.options.manifest_headers
        headers |= {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "90;w=21600"}
        await town.pull(B, ALSO)
        headers["ratelimit-remaining"] = "5;w=21600"
        await town.pull(B, BOB)
        for who, ttl_seconds in ((ALSO, TAG_TTL_SECONDS), (BOB, 6 * TAG_TTL_SECONDS)):
            got = await town.get(manifest_path("v1", B), who)
            assert got.cache_status == f"mirror; hit; ttl={ttl_seconds}"
        assert await town.mirror.metric(remaining, upstream=NAME, account="caller") == 5
        assert await town.mirror.total(remaining, upstream=NAME) == 5, "all callers are one there"


# --- while upstream does not answer ----------------------------------------------------------


async def test_trouble_closes_by_default(tmp_path: Path) -> None:
    async with corp(tmp_path, "passwords") as town:
        await town.pull(B, BOB)
        await town.registry.go_down()
        assert (await town.get(manifest_path("v1", B), BOB)).status == 200
        town.clock.advance(TTL_SECONDS + 1)
        for who in (BOB, ANN, {}):
            assert (await town.get(manifest_path("v1", B), who)).status in {502, 504}


async def test_who_was_let_in_last_may_go_on_if_that_is_wanted(tmp_path: Path) -> None:
    async with corp(tmp_path, "passwords", verify_offline="last-known") as town:
        await town.pull(B, BOB)
        await town.pull(P, None)
        assert (await town.get(manifest_path("v1", B), ANN)).status == 403
        await town.registry.go_down()
        town.clock.advance(TTL_SECONDS + 1)
        await town.pull(B, BOB)
        await town.pull(P, None)
        await town.pull(P, EVE)
        assert (await town.get(manifest_path("v1", B), ANN)).status == 403
        assert (await town.get(manifest_path("v1", B), EVE)).status in {502, 504}
        assert (await town.get(manifest_path("v1", B))).status == 401


async def test_after_a_restart_strangers_see_what_strangers_brought(tmp_path: Path) -> None:
    async with corp(tmp_path, "passwords") as town:
        await town.pull(B, BOB)
        await town.pull(P, None)
    offline: Any = {"mode": "offline", "verify_offline": "last-known"}
    async with corp(tmp_path, "passwords", **offline) as town:
        await town.pull(P, None)
        for who in (BOB, {}):
            for path in (manifest_path("v1", B), blob_path(THEIRS.layers[0].digest, B)):
                assert (await town.get(path, who)).status == 404


async def test_an_account_of_the_mirror_does_not_open_what_callers_brought(tmp_path: Path) -> None:
    """The configuration goes from ``verify`` to an account that may see less than they could."""
    async with corp(tmp_path, "passwords") as town:
        await town.pull(A, ANN)
        await town.pull(B, BOB)
        account = Credential(username="ann", password="secret-of-ann")
        only = Upstream(endpoints=(town.registry.url,), credentials=(account,))
        shared = {NAME: only}
        clock = FakeClock(town.clock())
        await town.stop()
        async with mirror_of(tmp_path / "cache", shared, clock=clock) as mirror:
            for path in (
                manifest_path("v1", B),
                manifest_path(THEIRS.digest, B),
                blob_path(THEIRS.layers[0].digest, B),
            ):
                assert (await mirror.get(path)).status == 403
                assert (await mirror.head(path)).status == 403
            assert (await mirror.get(manifest_path("v1", A))).body == OURS.content


async def test_who_tries_out_passwords_does_it_slowly(tmp_path: Path) -> None:
    async with corp(tmp_path, "passwords") as town:
        assert (await town.get(manifest_path("v1", B))).status == 401
        gate = town.registry.hold_head(kind=Kind.MANIFEST)
        guesses = [
            asyncio.create_task(town.get(manifest_path("v1", B), basic("bob", f"guess {number}")))
            for number in range(66)
        ]
        done, waiting = await asyncio.wait(guesses, return_when=asyncio.FIRST_COMPLETED)
        assert {each.result().status for each in done} == {503}
        gate.release()
        statuses = [(await each).status for each in waiting]
        assert set(statuses) <= {403, 503}
        assert statuses.count(403) == 64


# --- how callers are asked -------------------------------------------------------------------


async def test_docker_hub_hides_what_is_private(tmp_path: Path) -> None:
    async with corp(tmp_path, name="docker.io") as town:
        await town.pull(B, BOB)
        assert (await town.get(manifest_path("v1", B))).status == 401
        asked = len(town.registry.requests)
        for _ in range(3):
            assert (await town.get(manifest_path("v1", B), ANN)).status == 404
        assert len(town.registry.requests) - asked <= 4
        assert (await town.get(manifest_path("nothing", P))).status == 401
        await town.pull(P, None)


@pytest.mark.parametrize(
    ("auth", "ping", "private"),
    [
        (Auth(challenge="never"), 200, 403),
        (Auth(challenge="objects"), 200, 401),
        (Auth(challenge="ping"), 401, 401),
    ],
)
async def test_where_callers_are_asked(tmp_path: Path, auth: Auth, ping: int, private: int) -> None:
    async with corp(tmp_path, "passwords", auth=auth) as town:
        got = await town.get("/v2/")
        assert got.status == ping
        assert (await town.get("/v2/", EVE)).status == 200
        got = await town.get(manifest_path("v1", B))
        assert got.status == private
        if private == 401:
            assert challenge(got.headers) == 'Basic realm="mirror"'
        assert (await town.get(f"/v2/other.example/{P}/tags/list")).status == 200
        await town.pull(B, BOB)


async def test_what_callers_show_goes_nowhere_else(tmp_path: Path, log_lines: io.StringIO) -> None:
    async with corp(tmp_path, "tokens") as town, FakeRegistry() as elsewhere:
        elsewhere.push(B, THEIRS, ["v1"])
        town.registry.redirects[Kind.BLOB] = Redirect(
            locate=lambda request: elsewhere.url + request.path
        )
        await town.pull(B, BOB)
        assert (await town.get(manifest_path("v1", B), EVE)).status == 403
        assert elsewhere.requests
        assert not any(each.authorization for each in elsewhere.requests)
        asked = [*town.registry.requests, *(town.tokens.requests if town.tokens else [])]
        bobs = [each.kind for each in asked if each.authorization == BOB["Authorization"]]
        assert set(bobs) == {Kind.TOKEN}
        said_so_far = log_lines.getvalue()
        for secret in ("secret-of-bob", "guess", BOB["Authorization"][6:]):
            assert secret not in said_so_far
        kept = b"".join(p.read_bytes() for p in (tmp_path / "cache").rglob("*") if p.is_file())
        assert b"secret-of-bob" not in kept
        assert BOB["Authorization"][6:].encode() not in kept


def test_mistakes_are_named(tmp_path: Path) -> None:
    account = Credential(username="me", password="s3cr3t")
    plain = {"server": {"listen": "0.0.0.0:5000"}, "policy": {"access": "verify"}}
    with pytest.raises(ValueError, match="anybody could read"):
        Settings.model_validate(plain)
    allowed = {"listen": "0.0.0.0:5000", "auth": {"allow_plaintext": True}}
    Settings.model_validate({**plain, "server": allowed})
    with pytest.raises(ValueError, match="remove its credentials"):
        Settings(
            server=server(None),
            policy=Policy(access="verify"),
            upstreams={"x.example": Upstream(endpoints=("https://x",), credentials=(account,))},
        )
