"""Docker's config.json and credential helpers, as programs that run."""

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.domain.errors import CredentialUnavailableError
from mirror.domain.logins import HelperCall, Login
from mirror.runtime.clock import Clock
from mirror.settings import Credential, Upstream
from mirror.upstream.helpers import ask_helper
from mirror.upstream.kept import Issued, Kept
from tests.fakes.auth import BasicGuard
from tests.fakes.clock import FakeClock
from tests.fakes.clouds import form_of
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.harness import mirror_of
from tests.unit.upstream.pulling import (
    HASTY,
    PASSWORD,
    REPOSITORY,
    USER,
    account,
    basic,
    guarded,
    manifest,
    mirrored,
    pull,
)

IMAGE, SECOND = image(), image(2)
REFUSED = "mirror_upstream_credential_refused_total"
LOGIN = json.dumps({"ServerURL": "x", "Username": USER, "Secret": PASSWORD})


def helper(tmp_path: Path, script: str, name: str = "docker-credential-test") -> Path:
    """Write a helper in shell."""
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o700)
    return path


def ask(path: Path | str, server: str = "quay.io", limit_seconds: float = 5) -> Login:
    environ = {**os.environ, "MIRROR_LOG__LEVEL": "debug", "OTHER": "kept"}
    return ask_helper(HelperCall(str(path), server), environ, limit_seconds)


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as registry:
        registry.push(REPOSITORY, IMAGE, tags=["v1"])
        registry.push(REPOSITORY, SECOND, tags=["v2"])
        registry.guard = BasicGuard(users={USER: PASSWORD})
        yield registry


# --- the protocol --------------------------------------------------------------------------------


def test_the_server_goes_in_and_the_login_comes_out(tmp_path: Path) -> None:
    told = tmp_path / "told"
    path = helper(
        tmp_path, f"echo \"$* $(cat) $OTHER [$MIRROR_LOG__LEVEL]\" > {told}\necho '{LOGIN}'"
    )
    assert ask(path, "https://index.docker.io/v1/") == Login(USER, PASSWORD)
    assert told.read_text() == "get https://index.docker.io/v1/ kept []\n"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo credentials not found in native keychain; exit 1", "has no login"),
        ("echo canary; echo canary >&2; exit 3", "ended with code 3"),
        ("kill -9 $$", "ended with code -9"),
        ("echo canary", "is not JSON"),
        ('echo \'{"Username":"canary"}\'', "no Username and Secret"),
        ("exec yes canary", "does not stop writing"),
        ("exec <&- >&-; sleep 30", "did not answer in time"),
        ("sleep 30", "did not answer in time"),
        ("sleep 30 & echo canary", "did not answer in time"),  # a child keeps the pipe open
    ],
)
def test_a_helper_that_fails_is_named_and_what_it_wrote_is_not_repeated(
    tmp_path: Path, script: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    with pytest.raises(CredentialUnavailableError, match=said) as caught:
        ask(helper(tmp_path, script), limit_seconds=0.3)
    assert time.monotonic() - began < 5
    assert "docker-credential-test" in str(caught.value)
    assert "canary" not in str(caught.value) + "".join(capfd.readouterr())


def test_a_helper_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CredentialUnavailableError, match="not on the PATH"):
        ask("docker-credential-that-nobody-has")
    path = helper(tmp_path, "exit 0")
    path.chmod(0o600)
    with pytest.raises(CredentialUnavailableError, match="cannot be run"):
        ask(path)


# --- in a mirror ---------------------------------------------------------------------------------


async def test_a_helper_is_asked_once_and_again_when_its_secret_is_refused(
    registry: FakeRegistry, tmp_path: Path, clock: FakeClock
) -> None:
    secret, runs = tmp_path / "secret", tmp_path / "runs"
    secret.write_text(LOGIN, encoding="utf-8")
    path = helper(tmp_path, f"echo run >> {runs}; cat > /dev/null; cat {secret}")
    upstream = Upstream(
        endpoints=(registry.url,), credentials=(Credential(name="ci", helper=str(path)),)
    )
    async with mirror_of(tmp_path / "cache", {"quay.io": upstream}, clock=clock) as mirror:
        await pull(mirror, IMAGE)
        assert runs.read_text() == "run\n"
        registry.guard = BasicGuard(users={USER: "another"})
        clock.advance(60)
        refused = await mirror.get(manifest("v2"))
        secret.write_text(LOGIN.replace(PASSWORD, "another"), encoding="utf-8")
        clock.advance(60)
        await pull(mirror, SECOND, "v2")
        counted = await mirror.metric(REFUSED, upstream="quay.io", account="ci")
    assert refused.status == 502
    assert counted == 1
    assert runs.read_text() == "run\n" * 3


async def test_a_broken_helper_is_our_trouble_and_does_not_run_for_each_pull(
    registry: FakeRegistry, tmp_path: Path, clock: FakeClock
) -> None:
    runs = tmp_path / "runs"
    path = helper(tmp_path, f"echo run >> {runs}; echo canary; exit 1")
    upstream = Upstream(
        endpoints=(registry.url,), credentials=(Credential(name="ci", helper=str(path)),)
    )
    async with mirror_of(tmp_path / "cache", {"quay.io": upstream}, clock=clock) as mirror:
        got = [await mirror.get(manifest()) for _ in range(3)]
        counted = await mirror.metric(REFUSED, upstream="quay.io", account="ci")
    assert [each.status for each in got] == [502] * 3
    assert b"docker-credential-test ended with code 1" in got[0].body
    assert all(b"canary" not in each.body for each in got)
    assert (counted, runs.read_text()) == (3, "run\n")
    assert registry.requests == []


async def test_helpers_that_hang_do_not_hold_up_files_of_secrets(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    """As many hang as there are threads for helpers; a password comes from a file all the same."""
    runs, end, secret = tmp_path / "runs", tmp_path / "end", tmp_path / "secret"
    secret.write_text(PASSWORD, encoding="utf-8")
    script = f"echo run >> {runs}\nwhile [ ! -e {end} ]; do sleep 0.02; done; exit 1"
    upstreams: dict[str, Upstream] = {}
    for number in range(4):
        path = helper(tmp_path, script, f"docker-credential-{number}")
        ours = Credential(helper=str(path))
        upstreams[f"r{number}.example"] = Upstream(endpoints=(registry.url,), credentials=(ours,))
    ours = account(secret)
    upstreams["quay.io"] = Upstream(endpoints=(registry.url,), credentials=(ours,), policy=HASTY)
    async with mirror_of(tmp_path / "cache", upstreams) as mirror:
        hanging = [
            asyncio.create_task(mirror.get(f"/v2/{name}/x/manifests/v1"))
            for name in upstreams
            if name != "quay.io"
        ]
        try:
            async with asyncio.timeout(5):
                while not runs.exists() or runs.read_text() != "run\n" * 4:  # noqa: ASYNC110 -- programs
                    await asyncio.sleep(0.01)
            got = await mirror.get(manifest("v1", f"quay.io/{REPOSITORY}"))
            assert not any(task.done() for task in hanging)
        finally:
            end.touch()
        answers = await asyncio.gather(*hanging)
    assert (got.status, got.body) == (200, IMAGE.content)
    assert {each.status for each in answers} == {502}


async def test_a_source_rests_from_when_it_failed_and_not_from_when_it_was_asked() -> None:
    """A helper that hangs for its ten seconds would else be run again at once, for ever."""
    clock, asked = FakeClock(100), list[float]()

    async def fetch() -> Issued:
        asked.append(clock())
        clock.advance(10)
        raise CredentialUnavailableError("it did not answer in time")

    kept = Kept(fetch, Clock(wall=clock, monotonic=clock), "a helper")
    for seconds in (0, 0, 9, 2):
        clock.advance(seconds)
        with pytest.raises(CredentialUnavailableError, match="did not answer in time"):
            await kept.get()
    await kept.close()
    assert asked == [100, 121]


@pytest.mark.parametrize("kind", ["auths", "credHelpers", "credsStore", "path"])
async def test_docker_config(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    helper(tmp_path, f"test \"$(cat)\" = quay.io && echo '{LOGIN}'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    entry = {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
    documents: dict[str, object] = {
        "auths": {"auths": {registry.authority: entry}},
        "credHelpers": {"credHelpers": {"quay.io": "test"}},
        "credsStore": {"auths": {"quay.io": {}}, "credsStore": "test"},
        "path": {"auths": {"quay.io": {"auth": "eDp5"}, f"quay.io/{REPOSITORY}": entry}},
    }
    config = tmp_path / "config.json"
    config.write_text(json.dumps(documents[kind]), encoding="utf-8")
    upstream = Upstream(endpoints=(registry.url,), credentials=(Credential(docker_config=config),))
    async with mirrored(tmp_path, upstream, "quay.io") as mirror:
        await pull(mirror, IMAGE)
    assert registry.requests[-1].header("Authorization") == basic()


async def test_docker_config_is_read_again_and_must_have_the_account(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"auths": {"elsewhere.example": {"auth": "eDp5"}}}', encoding="utf-8")
    ours = Credential(name="ci", docker_config=config)
    upstream = Upstream(endpoints=(registry.url,), credentials=(ours,))
    async with mirrored(tmp_path, upstream, "quay.io") as mirror:
        missing = await mirror.get(manifest())
        config.write_text("canary", encoding="utf-8")
        broken = await mirror.get(manifest())
        user = {"username": USER, "password": PASSWORD}
        config.write_text(json.dumps({"auths": {"quay.io": user}}), encoding="utf-8")
        await pull(mirror, IMAGE)
        counted = await mirror.metric(REFUSED, upstream="quay.io", account="ci")
    assert (missing.status, broken.status, counted) == (502, 502, 2)
    assert b"docker_config has no account for this registry" in missing.body
    assert b"docker_config: it is not JSON" in broken.body


async def test_an_identity_token_is_changed_by_post(tmp_path: Path) -> None:
    """Its refusal is ours, and Basic cannot be met with it."""
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps({"auths": {"quay.io": {"identitytoken": "identity"}}}), encoding="utf-8"
    )
    async with guarded() as site:
        site.tokens.tokens.accepts_post = True
        upstream = site.upstream([Credential(name="ci", docker_config=config)])
        async with mirrored(tmp_path, upstream, "quay.io") as mirror:
            await pull(mirror, site.image)
            site.registry.guard = BasicGuard(users={})
            basic = await mirror.get(manifest("v2"))
            counted = await mirror.metric(REFUSED, upstream="quay.io", account="ci")
        asked = [form_of(request) for request in site.tokens.requests]
    assert asked[0] == {
        "grant_type": "refresh_token",
        "service": "fake.registry",
        "client_id": "mirror",
        "scope": f"repository:{REPOSITORY}:pull",
        "refresh_token": "identity",
    }
    assert all(request.authorization is None for request in site.tokens.requests)
    assert (basic.status, counted) == (502, 1)
