"""Clients prove who they are at the registry listener, by password, token and rule."""

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from mirror.settings import Auth
from mirror.settings.server import Admin, Server
from tests.fakes.clock import FakeClock
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.harness import Mirror, mirror_of
from tests.unit.web.callers import (
    basic,
    bearer,
    challenge,
    htpasswd,
    rule,
    server,
    token_of,
    tokens,
)
from tests.unit.web.wire import blob_path, manifest_path

IMAGE = image()
LAYER = IMAGE.layers[0]
TEAM, OPEN = "team/app", "library/alpine"
SECRET: Final = "correct horse battery"
TOKEN: Final = "0123456789abcdef-node"
RULES: Final = (
    rule("anonymous", "docker.io/library/*"),
    rule("user:ann", "docker.io/team/*"),
    rule("group:nodes", "docker.io/**"),
    rule("user:ops", "docker.io/none", admin="read"),
    rule("user:root", "docker.io/none", admin="write"),
)


def auth(tmp_path: Path, **more: Any) -> Auth:  # noqa: ANN401 -- fields of Auth
    people = htpasswd(tmp_path / "htpasswd", ann=SECRET, bob="b", ops="o", root="r")
    nodes = tokens(tmp_path / "tokens", f"node-1:{TOKEN}:nodes")
    return Auth(**{"htpasswd": people, "tokens": nodes, "rules": RULES, **more})


@pytest.fixture
async def guarded(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> AsyncIterator[Mirror]:
    for name in (TEAM, OPEN):
        upstream.push(name, IMAGE, ["v1"])
    async with mirror_of(
        tmp_path / "cache",
        {"docker.io": upstream},
        clock=clock,
        server=server(auth(tmp_path), catalog=True),
    ) as up:
        yield up


async def test_rules_decide(guarded: Mirror) -> None:
    for path in (manifest_path("v1", TEAM), blob_path(LAYER.digest, TEAM), f"/v2/{TEAM}/tags/list"):
        assert (await guarded.get(path)).status == 401
        assert (await guarded.get(path, basic("ann", "wrong"))).status == 401
        assert (await guarded.get(path, basic("nobody", SECRET))).status == 401
        assert (await guarded.get(path, bearer("nonsense"))).status == 401
        assert (await guarded.get(path, {"Authorization": "Digest x"})).status == 401
        denied = await guarded.get(path, basic("bob", "b"))
        assert (denied.status, denied.error_code) == (403, "DENIED")
        assert "WWW-Authenticate" not in denied.headers
        for good in (basic("ann", SECRET), bearer(TOKEN), basic("node-1", TOKEN)):
            assert (await guarded.get(path, good)).status == 200
        assert (await guarded.head(path)).status == 401
    assert (await guarded.get(manifest_path("v1", OPEN))).status == 200
    assert (await guarded.get(manifest_path("v1", TEAM), basic("ann", TOKEN))).status == 401


async def test_objects_are_challenged_and_the_ping_is_not(guarded: Mirror) -> None:
    """Docker reads challenges of the ping only; then its Hub account would come (C2)."""
    assert (await guarded.get("/v2/")).status == 200
    got = await guarded.get(manifest_path("v1", TEAM) + "?ns=docker.io")
    assert got.error_code == "UNAUTHORIZED"
    assert challenge(got.headers) == (
        f'Bearer realm="{guarded.url}/token",service="mirror",'
        f'scope="repository:docker.io/{TEAM}:pull"'
    )
    strange = await guarded.get(manifest_path("v1", TEAM), {"Host": 'x",y="'})
    assert f'realm="{guarded.url}/token"' in challenge(strange.headers)


@pytest.mark.parametrize("mode", ["never", "ping"])
async def test_where_credentials_are_asked_for(
    mode: str, tmp_path: Path, upstream: FakeRegistry
) -> None:
    access = server(auth(tmp_path, challenge=mode, realm="https://mirror.example/token"))
    upstream.push(TEAM, IMAGE, ["v1"])
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, server=access) as mirror:
        got = await mirror.get(manifest_path("v1", TEAM))
        assert got.status == (403 if mode == "never" else 401)
        assert ("WWW-Authenticate" in got.headers) is (mode == "ping")
        ping = await mirror.get("/v2/")
        assert ping.status == (200 if mode == "never" else 401)
        if mode == "ping":
            realm = 'Bearer realm="https://mirror.example/token",service="mirror"'
            assert challenge(ping.headers) == realm
        assert (await mirror.get("/v2/", basic("bob", "b"))).status == 200
        assert (await mirror.get(manifest_path("v1", TEAM), basic("ann", SECRET))).status == 200


async def test_a_token_is_good_for_its_repositories_and_its_time(
    guarded: Mirror, clock: FakeClock
) -> None:
    scope = (
        f"service=mirror&scope=repository:docker.io/{TEAM}:pull&scope=repository:{TEAM}:pull,push"
    )
    token = await token_of(guarded, scope, basic("ann", SECRET))
    path = manifest_path("v1", TEAM)
    assert (await guarded.get(path, bearer(token))).status == 200
    assert (await guarded.get("/v2/", bearer(token))).status == 200

    other = await token_of(guarded, "scope=repository:library/alpine:pull", basic("ann", SECRET))
    refused = await guarded.get(path, bearer(other))
    assert refused.status == 401
    assert TEAM in challenge(refused.headers)

    less = await token_of(guarded, f"scope=repository:{TEAM}:pull", basic("bob", "b"))
    assert (await guarded.get(path, bearer(less))).status == 401
    for forged in (token[:-1] + ("0" if token[-1] != "0" else "1"), f"mirror.{token[7:9]}.x"):
        assert (await guarded.get(path, bearer(forged))).status == 401
    assert (await guarded.get(f"/token?scope=repository:{TEAM}:pull", bearer(token))).status == 401

    clock.advance(299)
    assert (await guarded.get(path, bearer(token))).status == 200
    clock.advance(2)
    assert (await guarded.get(path, bearer(token))).status == 401


async def test_the_token_endpoint(guarded: Mirror) -> None:
    assert (await guarded.get("/token?account=ann&service=mirror", basic("ann", "x"))).status == 401
    assert (await guarded.get("/token?service=mirror")).status == 401
    assert (await guarded.get(f"/token?scope=repository:{TEAM}:pull")).status == 401
    assert (await guarded.request("PUT", "/token")).status == 405
    login = await token_of(guarded, "account=ann&service=mirror", basic("ann", SECRET))
    assert (await guarded.get("/v2/", bearer(login))).status == 200
    free = await token_of(guarded, f"scope=repository:{OPEN}:pull&scope=repository:no.such/x:pull")
    assert (await guarded.get(manifest_path("v1", OPEN), bearer(free))).status == 200

    form = {
        "grant_type": "password",
        "service": "mirror",
        "client_id": "containerd-client",
        "scope": f"repository:{TEAM}:pull",
        "username": "ann",
        "password": SECRET,
    }
    async with guarded.session.post(f"{guarded.url}/token", data=form) as answer:
        token = (await answer.json())["access_token"]
    assert (await guarded.get(manifest_path("v1", TEAM), bearer(token))).status == 200
    for change in ({"password": "x"}, {"grant_type": "refresh_token"}, {"scope": "x" * 70_000}):
        async with guarded.session.post(f"{guarded.url}/token", data=form | change) as answer:
            assert answer.status == 401


async def test_a_changed_file_counts_soon(
    guarded: Mirror, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    path, ann = manifest_path("v1", TEAM), basic("ann", SECRET)
    assert (await guarded.get(path, ann)).status == 200
    htpasswd(tmp_path / "htpasswd", ann="a new one")
    clock.advance(1.5)
    assert (await guarded.get(path, ann)).status == 401
    assert (await guarded.get(path, basic("ann", "a new one"))).status == 200
    (tmp_path / "htpasswd").unlink()
    clock.advance(1.5)
    assert (await guarded.get(path, basic("ann", "a new one"))).status == 200
    assert "a file of users cannot be read" in caplog.text
    (tmp_path / "htpasswd").write_text("ann:plain-text-password\n")
    clock.advance(1.5)
    assert (await guarded.get(path, basic("ann", "a new one"))).status == 401
    assert "line 1 is not user:bcrypt-hash" in caplog.text
    assert "plain-text-password" not in caplog.text


async def test_a_password_is_checked_once(guarded: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    path, ann, wrong = manifest_path("v1", TEAM), basic("ann", SECRET), basic("ann", "wrong")
    assert (await guarded.get(path, ann)).status == 200
    assert (await guarded.get(path, wrong)).status == 401

    def never(*_: object) -> bool:
        raise AssertionError("checked again")

    monkeypatch.setattr("bcrypt.checkpw", never)
    assert (await guarded.get(path, ann)).status == 200
    assert (await guarded.get(path, wrong)).status == 401
    assert (await guarded.get(path, basic("ann", "x" * 100))).status == 503


async def test_a_password_that_is_too_long_for_bcrypt_is_wrong(guarded: Mirror) -> None:
    assert (await guarded.get(manifest_path("v1", TEAM), basic("ann", "x" * 100))).status == 401


async def test_credentials_stay_here(
    guarded: Mirror, upstream: FakeRegistry, log_lines: io.StringIO, tmp_path: Path
) -> None:
    canary = "canary-5f3a9c"
    for header in (basic("ann", canary), bearer(canary), {"Authorization": canary}):
        await guarded.get(manifest_path("v1", TEAM), header)
        await guarded.get(f"/token?scope=repository:{TEAM}:pull&password={canary}", header)
    await guarded.get(manifest_path("v1", TEAM), basic("ann", SECRET))
    token = await token_of(guarded, f"scope=repository:{TEAM}:pull", basic("ann", SECRET))
    await guarded.get(blob_path(LAYER.digest, TEAM), bearer(token))
    assert upstream.requests
    assert not any(each.authorization for each in upstream.requests)
    said = log_lines.getvalue()
    for secret in (canary, SECRET, token, basic("ann", SECRET)["Authorization"][6:]):
        assert secret not in said
    assert '"user":"ann"' in said
    kept = b"".join(path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert SECRET.encode() not in kept
    assert token.encode() not in kept


async def test_the_catalogue_shows_what_one_may_pull(guarded: Mirror) -> None:
    for name in (TEAM, OPEN):
        await guarded.get(manifest_path("v1", name), bearer(TOKEN))
    assert (await guarded.get("/v2/_catalog")).status == 401
    of_ann = json.loads((await guarded.get("/v2/_catalog", basic("ann", SECRET))).body)
    of_bob = json.loads((await guarded.get("/v2/_catalog", basic("bob", "b"))).body)
    assert of_ann["repositories"] == [f"docker.io/{OPEN}", f"docker.io/{TEAM}"]
    assert of_bob["repositories"] == [f"docker.io/{OPEN}"]


async def test_roles_open_the_admin_api(guarded: Mirror) -> None:
    async def status(method: str, headers: dict[str, str]) -> int:
        path = "/api/v1/cache/gc" if method == "POST" else "/api/v1/cache/images"
        async with guarded.session.request(
            method, guarded.admin_url + path, headers=headers
        ) as answer:
            return answer.status

    csrf = {"X-Mirror-CSRF": "1"}
    assert await status("GET", basic("ops", "o")) == 200
    assert await status("POST", basic("ops", "o") | csrf) == 403
    assert await status("POST", basic("root", "r")) == 403
    assert await status("POST", basic("root", "r") | csrf) == 200
    assert await status("GET", basic("ann", SECRET)) == 403
    assert await status("GET", basic("root", "wrong")) == 401


async def test_beside_an_admin_token_who_is_known_hears_what_is_missing(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    token = tmp_path / "token"
    token.write_text("the-admin-token")
    both = server(auth(tmp_path), admin=Admin(token_file=token))
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, server=both) as mirror:

        async def said(headers: dict[str, str]) -> str:
            url = f"{mirror.admin_url}/api/v1/cache/gc"
            async with mirror.session.post(url, headers=headers) as answer:
                return str((await answer.json()).get("error", {}).get("code", "done"))

        csrf = {"X-Mirror-CSRF": "1"}
        assert await said(basic("ops", "o") | csrf) == "role_missing"
        assert await said(bearer(TOKEN)) == "role_missing"
        assert await said(basic("root", "r")) == "csrf_header_missing"
        assert await said(basic("root", "r") | csrf) == "done"
        assert await said(bearer("the-admin-token")) == "done"
        assert await said(bearer("another")) == "token_wrong"
        assert await said(csrf) == "done", "on loopback, anybody may"


def test_credentials_in_plain_text_are_a_mistake_unless_wanted(tmp_path: Path) -> None:
    wanted = auth(tmp_path).model_copy(update={"rules": ()})
    with pytest.raises(ValueError, match="allow_plaintext"):
        Server(listen="0.0.0.0:5000", auth=wanted)
    Server(listen="127.0.0.1:5000", auth=wanted)
    plain = wanted.model_copy(update={"allow_plaintext": True})
    Server(listen="0.0.0.0:5000", auth=plain)
    with pytest.raises(ValueError, match=r"admin\.tls"):
        Server(
            listen="127.0.0.1:5000",
            admin_listen="0.0.0.0:5001",
            auth=auth(tmp_path),
        )


async def test_nobody_has_to_say_who_he_is_where_nothing_is_configured(mirror: Mirror) -> None:
    assert (await mirror.get("/token")).status == 404
