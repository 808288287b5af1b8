"""Who may be asked for a token: the attack set of case S2, through the mirror."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.settings import Credential, Upstream
from mirror.upstream.upstreams import same_site
from tests.fakes import faults
from tests.fakes.auth import Challenge, FakeTokenServer
from tests.fakes.registry import FakeRegistry, Redirect
from tests.fakes.wire import Kind
from tests.unit.upstream.pulling import (
    PASSWORD,
    USER,
    Guarded,
    account,
    basic,
    guarded,
    manifest,
    mirrored,
    pull,
)


@pytest.fixture
async def site() -> AsyncIterator[Guarded]:
    async with guarded() as site:
        site.tokens.tokens.users[USER] = PASSWORD
        yield site


ATTACKS = {
    "another port": "http://127.0.0.1:{thief}/token",
    "another name": "http://localhost:{thief}/token",
    "a user": "http://127.0.0.1:{home}@127.0.0.1:{thief}/token",
    "a backslash": "http://127.0.0.1:{home}\\@127.0.0.1:{thief}/token",
    "IPv6 mapped": "http://[::ffff:127.0.0.1]:{thief}/token",
    "short form": "http://127.1:{thief}/token",
    "a number": "http://2130706433:{thief}/token",
    "the same to DNS": "http://127.0.0.1.nip.io:{thief}/token",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "no scheme": "//127.0.0.1:{thief}/token",
    "a path": "/token",
    "a file": "file:///etc/passwd",
    "nothing": "?",
}


@pytest.mark.parametrize("credentials", [(account(),), ()], ids=["account", "anonymous"])
async def test_trap_15_a_realm_elsewhere_gets_nothing(
    site: Guarded, tmp_path: Path, credentials: tuple[Credential, ...]
) -> None:
    """Distribution took the realm as it came, and sent credentials (CVE-2026-33540)."""
    home, thief = site.registry.port, site.tokens.port
    upstream = Upstream(endpoints=(site.registry.url,), credentials=credentials)
    async with mirrored(tmp_path, upstream) as mirror:
        for what, realm in ATTACKS.items():
            lie = Challenge(realm=realm.format(home=home, thief=thief))
            site.registry.guard = site.tokens.guard(lie)
            got = await mirror.get(manifest(site.image.digest))
            assert (got.status, got.error_code) == (502, "UNKNOWN"), what
            assert b"upstreams.docker.io.realms" in got.body, what
            assert PASSWORD.encode() not in got.body, what

    assert site.tokens.requests == []
    assert {request.authorization for request in site.registry.requests} == {None}


async def test_a_realm_that_the_operator_allows_gets_the_account(
    site: Guarded, tmp_path: Path
) -> None:
    async with mirrored(tmp_path, site.upstream([account()])) as mirror:
        await pull(mirror, site.image)
    assert [request.authorization for request in site.tokens.requests] == [basic()]


async def test_a_realm_that_the_operator_allows_is_one_for_the_anonymous_too(
    site: Guarded, tmp_path: Path
) -> None:
    async with mirrored(tmp_path, site.upstream()) as mirror:
        await pull(mirror, site.image)
    assert [request.authorization for request in site.tokens.requests] == [None]


async def test_a_redirect_that_is_allowed_no_realm_gets_none_elsewhere(
    site: Guarded, tmp_path: Path
) -> None:
    """A host that is redirected to may name its own origin only, whatever the operator allows."""
    async with FakeTokenServer() as thief, FakeRegistry() as front:
        site.registry.guard = thief.guard()
        front.redirects[Kind.MANIFEST] = Redirect(
            locate=lambda asked: site.registry.url + asked.path
        )
        upstream = Upstream(endpoints=(front.url,), realms=(thief.host,), credentials=(account(),))
        async with mirrored(tmp_path, upstream) as mirror:
            got = await mirror.get(manifest(site.image.digest))
        assert got.status == 502
        assert thief.requests == []
        assert {request.authorization for request in site.registry.requests} == {None}


async def test_a_token_server_that_redirects_is_not_followed(site: Guarded, tmp_path: Path) -> None:
    async with FakeTokenServer() as thief:
        site.tokens.fail(faults.redirect(thief.realm))
        async with mirrored(tmp_path, site.upstream([account()])) as mirror:
            got = await mirror.get(manifest(site.image.digest))
        assert got.status == 502
        assert thief.requests == []


@pytest.mark.parametrize(
    ("host", "other", "same"),
    [
        ("auth.docker.io", "registry-1.docker.io", True),
        ("gitlab.com", "registry.gitlab.com", True),
        ("auth.corp.example.co.uk", "registry.example.co.uk", True),
        ("evil.co.uk", "docker.co.uk", False),
        ("a.github.io", "b.github.io", False),
        ("evil.azurecr.io", "ours.azurecr.io", False),
        ("x.s3.amazonaws.com", "1.dkr.ecr.us-east-1.amazonaws.com", False),
        ("evil.pkg.dev", "us-docker.pkg.dev", False),
        ("docker.io.evil.example", "docker.io", False),
        ("registry", "auth", False),
        ("registry", "registry", False),
        ("co.uk", "co.uk", False),
        ("", "", False),
    ],
)
def test_one_site(host: str, other: str, *, same: bool) -> None:
    assert same_site(host, other) is same
    assert same_site(other, host) is same
