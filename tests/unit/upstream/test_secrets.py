"""No secret gets out: not by a log, an error, a metric or a ``repr`` (invariant 11)."""

import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from pydantic import SecretStr

from mirror.domain.logins import Login
from mirror.domain.sigv4 import AwsKey
from mirror.settings import Credential, Upstream
from mirror.upstream.accounts import Account
from mirror.upstream.exchange import _Proof
from mirror.upstream.tokens import Token, TokenKey
from tests.fakes import faults
from tests.fakes.auth import BasicGuard, TokenService
from tests.fakes.cdn import FakeCdn
from tests.fakes.content import image
from tests.fakes.script import Fault
from tests.harness import Mirror, mirror_of
from tests.unit.upstream.pulling import (
    HASTY,
    REPOSITORY,
    USER,
    Guarded,
    account,
    basic,
    blob,
    guarded,
    manifest,
)

CANARY = "canary-7f3a"
IMAGE = image(77)


class CanaryTokens(TokenService):
    """Issues tokens with the canary in them."""

    def _token(self) -> str:
        return f"{CANARY}-{len(self.grants)}"


def leaks(text: str) -> list[str]:
    """Return which secrets are in a text: the canary, or what Basic makes of it."""
    secrets = (CANARY, basic(password=CANARY).removeprefix("Basic "))
    return [secret for secret in secrets if secret in text]


@pytest.fixture
async def site() -> AsyncIterator[Guarded]:
    async with guarded() as site:
        site.tokens.tokens = CanaryTokens(users={USER: CANARY})
        site.registry.guard = site.tokens.guard()
        yield site


async def said(mirror: Mirror, log_lines: io.StringIO) -> str:
    """Ask for all kinds of things and return all that was said about it anywhere."""
    heard = []
    for path in (
        manifest(),
        manifest(IMAGE.digest),
        blob(IMAGE.config.digest),
        f"/v2/{REPOSITORY}/tags/list",
        f"/v2/{REPOSITORY}/referrers/{IMAGE.digest}",
    ):
        for method in ("GET", "HEAD"):
            got = await mirror.request(method, path)
            heard += [str(got.headers), got.body.decode()]
    async with mirror.session.get(f"{mirror.admin_url}/metrics") as response:
        heard.append(await response.text())
    heard.append(generate_latest(mirror.up.metrics.registry).decode())
    return "".join(heard) + log_lines.getvalue()


FAULTS: dict[str, Fault | None] = {
    "none": None,
    "401": faults.status(401),
    "403": faults.status(403),
    "500": faults.status(500),
    "429": faults.too_many_requests(1),
    "told again": faults.body(f'{{"errors":"{CANARY}","token":5}}'.encode()),
    "told in the type": faults.header("Content-Type", f"text/{CANARY}"),
    "told in the digest": faults.header("Docker-Content-Digest", CANARY),
    "told in the limit": faults.header("ratelimit-remaining", CANARY),
    "broken header": faults.add_header("X-Note", f"{CANARY}\rb\0c"),
    "cut": faults.cut(3),
    "gone": faults.no_answer(),
    "redirected": faults.redirect(f"http://{CANARY}:{CANARY}@127.0.0.1/"),
    "redirected away": faults.redirect(f"http://127.0.0.1:1/x?sig={CANARY}"),
    "asked for elsewhere": faults.challenge(
        f'Bearer realm="http://{CANARY}@h/{CANARY}?x={CANARY}"'
    ),
}


@pytest.mark.parametrize("where", ["registry", "tokens"])
async def test_nothing_is_told_whatever_goes_wrong(
    site: Guarded, tmp_path: Path, log_lines: io.StringIO, where: str
) -> None:
    """The canary is the password, a part of each token, and what a strange upstream says."""
    ours = account(CANARY, name="ci")
    origin = site.registry if where == "registry" else site.tokens
    async with AsyncExitStack() as stack:
        upstream = site.upstream([ours], HASTY)
        mirrors = {"docker.io": upstream, "ghcr.io": upstream}
        mirror = await stack.enter_async_context(mirror_of(tmp_path / "cache", mirrors))
        for what, fault in FAULTS.items():
            rule = None if fault is None else origin.fail(fault)
            assert leaks(await said(mirror, log_lines)) == [], what
            if rule is not None:
                rule.cancel()
    assert CANARY in str([request.headers for request in site.registry.requests])


@pytest.mark.parametrize("kind", ["password", "token", "password_file", "token_file"])
async def test_no_refused_credential_is_told(
    site: Guarded, tmp_path: Path, log_lines: io.StringIO, kind: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(CANARY, encoding="utf-8")
    proof = {kind: secret if kind.endswith("file") else SecretStr(CANARY)}
    user = {"username": USER} if kind.startswith("password") else {}
    ours = Credential.model_validate(proof | user)
    site.registry.guard = BasicGuard(users={USER: "another"})
    upstream = site.upstream([ours], HASTY)
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        text = await said(mirror, log_lines)
        assert "refuses the configured credential" in text
        assert leaks(text) == []
        assert leaks(repr(upstream) + str(upstream) + upstream.model_dump_json()) == []
        assert leaks(_everything(mirror)) == []


async def test_no_signature_of_a_cdn_is_told(
    site: Guarded, tmp_path: Path, log_lines: io.StringIO
) -> None:
    site.registry.push(REPOSITORY, IMAGE)
    async with FakeCdn() as cdn:
        cdn.query = f"X-Amz-Signature={CANARY}"
        cdn.serve_blobs_of(site.registry)
        cdn.fail(faults.no_answer(rst=True))
        upstreams = {"docker.io": site.upstream(policy=HASTY)}
        async with mirror_of(tmp_path / "cache", upstreams) as mirror:
            text = await said(mirror, log_lines)
        assert any(CANARY in request.target for request in cdn.requests)
    assert leaks(text) == []


async def test_the_tls_of_an_upstream_tells_nothing(
    tmp_path: Path, log_lines: io.StringIO, site: Guarded
) -> None:
    url = site.registry.url.replace("http:", "https:")
    ours = Credential(token=SecretStr(CANARY))
    upstream = Upstream(endpoints=(url,), credentials=(ours,), policy=HASTY)
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        got = await mirror.get(manifest())
    assert got.status == 504
    assert leaks(got.body.decode() + log_lines.getvalue()) == []


def test_no_repr_tells() -> None:
    login = Login(USER, CANARY, CANARY, CANARY)
    ours = Account("ci", login)
    key = TokenKey("https://h/t", "s", "repository:a:pull", ours)
    for value in (
        login,
        ours,
        key,
        AwsKey(CANARY, CANARY, CANARY),
        Token(CANARY, 5),
        _Proof(f"Bearer {CANARY}", CANARY),
    ):
        assert leaks(repr(value) + str(value)) == []
    assert ours.basic() == basic(password=CANARY)


def _everything(mirror: Mirror) -> str:
    """Return the ``repr`` of what the mirror is made of, a few floors deep."""
    seen: list[object] = [mirror.up]
    for value in seen:
        if len(seen) > 5000:
            break
        inner = getattr(value, "__dict__", {})
        seen += [each for each in inner.values() if type(each).__module__.startswith("mirror")]
    return "".join(repr(value) for value in seen)
