"""Tokens of identity providers and of Kubernetes let callers in, as far as rules say."""

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from mirror.settings import Auth, KubernetesAuth, Oidc
from tests.fakes import faults
from tests.fakes.clock import FakeClock
from tests.fakes.content import image
from tests.fakes.issuer import AUDIENCE, Issuer, KubernetesServer
from tests.fakes.registry import FakeRegistry
from tests.harness import Mirror, mirror_of
from tests.unit.web.callers import basic, bearer, rule, server, token_of
from tests.unit.web.wire import manifest_path

IMAGE = image()
PATH = manifest_path("v1", "team/app")
RULES = (
    rule("user:login:ann", "**"),
    rule("group:login:dev", "**"),
    rule("claim:repository=acme/*", "**"),
    rule("group:system:serviceaccounts:ci", "**"),
)


@pytest.fixture
async def issuer(clock: FakeClock) -> AsyncIterator[Issuer]:
    async with Issuer(clock) as running:
        yield running


@asynccontextmanager
async def guarded(
    tmp_path: Path,
    upstream: FakeRegistry,
    clock: FakeClock,
    **auth: Any,  # noqa: ANN401 -- of Auth
) -> AsyncIterator[Mirror]:
    upstream.push("team/app", IMAGE, ["v1"])
    access = server(Auth(**{"rules": RULES, **auth}))
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, clock=clock, server=access
    ) as up:
        yield up


@pytest.fixture
async def mirror(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock, issuer: Issuer
) -> AsyncIterator[Mirror]:
    oidc = Oidc(issuer=issuer.url, audience=AUDIENCE, claims={"team": "blue"}, prefix="login:")
    async with guarded(tmp_path, upstream, clock, oidc=(oidc,)) as up:
        yield up


async def status(mirror: Mirror, token: str) -> int:
    return (await mirror.get(PATH, bearer(token))).status


async def test_a_token_lets_in_whom_it_names(mirror: Mirror, issuer: Issuer) -> None:
    assert await status(mirror, issuer.token(team="blue")) == 200
    assert await status(mirror, issuer.token(team=["red", "blue"])) == 200
    assert await status(mirror, issuer.token(team="blue", aud=["x", AUDIENCE])) == 200
    assert await status(mirror, issuer.token(team="blue", sub="bob")) == 403
    assert await status(mirror, issuer.token(team="blue", sub="bob", groups=["x", "dev"])) == 200
    assert await status(mirror, issuer.token(team="blue", sub="b", repository="acme/app")) == 200
    assert issuer.count("GET") == 2, "discovery and keys are asked for once"


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256"])
async def test_a_key_that_names_no_algorithm_has_those_of_its_kind(
    mirror: Mirror, issuer: Issuer, algorithm: str
) -> None:
    private = rsa.generate_private_key(65537, 2048)
    public = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    issuer.odd_keys = [{**public, "kid": "rsa"}]
    claims = jwt.decode(issuer.token(team="blue"), options={"verify_signature": False})
    token = jwt.encode(claims, private, algorithm, headers={"kid": "rsa"})
    assert await status(mirror, token) == 200


async def test_a_key_that_names_an_algorithm_has_no_other(mirror: Mirror, issuer: Issuer) -> None:
    private = rsa.generate_private_key(65537, 2048)
    public = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    issuer.odd_keys = [{**public, "kid": "rsa", "alg": "RS512"}]
    claims = jwt.decode(issuer.token(team="blue"), options={"verify_signature": False})
    for algorithm, wanted in (("RS512", 200), ("RS256", 401)):
        token = jwt.encode(claims, private, algorithm, headers={"kid": "rsa"})
        assert await status(mirror, token) == wanted


async def test_as_a_password_too(mirror: Mirror, issuer: Issuer) -> None:
    login = basic("oidc", issuer.token(team="blue"))
    assert (await mirror.get(PATH, login)).status == 200
    token = await token_of(mirror, "scope=repository:team/app:pull", login)
    assert await status(mirror, token) == 200


async def test_what_is_not_for_us_is_refused(
    mirror: Mirror, issuer: Issuer, clock: FakeClock, log_lines: io.StringIO
) -> None:
    now = clock()
    others = Issuer(clock)  # with a key of the same name
    unsigned = jwt.encode({"iss": issuer.url, "sub": "ann"}, "", "none")
    shared = jwt.encode({"iss": issuer.url, "sub": "ann"}, "s" * 64, "HS256", {"kid": "shared"})
    good = issuer.token(team="blue")
    head, body, signature = good.split(".")
    wrong = {
        "no claim": issuer.token(),
        "another claim": issuer.token(team="red"),
        "another audience": issuer.token(team="blue", aud="other"),
        "no audience": issuer.token(team="blue", aud=None),
        "another issuer": issuer.token(team="blue", iss="https://elsewhere.example"),
        "its time is over": issuer.token(team="blue", exp=now - 31),
        "for ever": issuer.token(team="blue", exp=None),
        "not yet": issuer.token(team="blue", nbf=now + 60),
        "nobody": issuer.token(team="blue", sub=None),
        "another key": others.signers[0].sign(
            jwt.decode(good, options={"verify_signature": False})
        ),
        "not signed": unsigned,
        "a shared key": shared,
        "another body": f"{head}.{body[:-4]}AAAA.{signature}",
        "junk": "a.b.c",
    }
    for why, token in wrong.items():
        assert await status(mirror, token) == 401, why
    assert await status(mirror, good) == 200
    for token in (*wrong.values(), good):
        assert len(token) < 10 or token not in log_lines.getvalue()


@pytest.mark.parametrize(
    "shown",
    [
        b"Bearer a.b.\xff",
        b"Bearer \xff\xfe",
        b"Bearer " + b".".join([b"e30", base64.urlsafe_b64encode(b"[" * 6000), b"x"]),
        b"Basic " + base64.b64encode(b"u:a.b.\xc3\xa9"),
    ],
    ids=["not UTF-8", "no ASCII", "nested", "not ASCII"],
)
async def test_what_no_parser_expects_is_refused(
    mirror: Mirror, log_lines: io.StringIO, shown: bytes
) -> None:
    """Found by `make fuzz`: each was a failure of the mirror."""
    for path in (PATH, "/token"):
        reader, writer = await asyncio.open_connection(mirror.host, mirror.port)
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: "
        writer.write(head.encode() + shown + b"\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 401 ")
        writer.close()
    assert "failed unexpectedly" not in log_lines.getvalue()


async def test_keys_that_are_none_are_left_out(mirror: Mirror, issuer: Issuer) -> None:
    issuer.odd_keys = [{"kty": ["EC"]}, {"kty": "EC", "x": 5}, {"kty": "RSA", "n": "", "e": "?"}]
    assert await status(mirror, issuer.token(team="blue")) == 200


async def test_a_form_without_end_is_refused(mirror: Mirror, log_lines: io.StringIO) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"a" * 60_000

    async with mirror.session.post(f"{mirror.url}/token", data=endless()) as got:
        assert got.status == 401
    assert "failed unexpectedly" not in log_lines.getvalue()


async def test_keys_are_replaced(mirror: Mirror, issuer: Issuer, clock: FakeClock) -> None:
    old = issuer.token(team="blue", exp=clock() + 10_000)
    assert await status(mirror, old) == 200
    clock.advance(60)
    issuer.rotate("two")
    assert await status(mirror, issuer.token(team="blue")) == 200
    assert await status(mirror, old) == 401
    issuer.clear()
    for _ in range(5):
        assert await status(mirror, old) == 401
    assert not issuer.requests, "an unknown key makes us ask twice a minute at most"


async def test_without_its_keys_nobody_can_tell(
    mirror: Mirror, issuer: Issuer, clock: FakeClock
) -> None:
    issuer.fail(faults.status(500), times=1)
    token = issuer.token(team="blue", exp=clock() + 10_000)
    assert await status(mirror, token) == 502
    assert await status(mirror, token) == 502
    clock.advance(31)
    assert await status(mirror, token) == 200
    await issuer.go_down()
    clock.advance(3700)
    assert await status(mirror, token) == 200, "the keys that are known still count"


async def test_an_issuer_calls_itself_what_it_is_called(mirror: Mirror, issuer: Issuer) -> None:
    issuer.called = "https://elsewhere.example"
    assert await status(mirror, issuer.token(team="blue")) == 502


def test_an_issuer_needs_https() -> None:
    with pytest.raises(ValueError, match="https"):
        Oidc(issuer="http://login.example", audience=AUDIENCE)


async def test_kubernetes_reviews_service_accounts(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock, log_lines: io.StringIO
) -> None:
    own, pod, other = "own-token-of-the-mirror", "a.pod.token", "another.pods.token"
    (tmp_path / "own").write_text(own)
    async with KubernetesServer(own) as kubernetes:
        kubernetes.accounts[pod] = (
            "system:serviceaccount:ci:runner",
            ["system:serviceaccounts", "system:serviceaccounts:ci"],
        )
        kubernetes.accounts[other] = ("system:serviceaccount:web:default", [])
        wanted = KubernetesAuth(audience=AUDIENCE, url=kubernetes.url, token_file=tmp_path / "own")
        async with guarded(tmp_path, upstream, clock, kubernetes=wanted) as mirror:
            for _ in range(3):
                assert await status(mirror, pod) == 200
                assert await status(mirror, other) == 403
                assert await status(mirror, "no.bodys.token") == 401
                assert await status(mirror, "not-a-token") == 401
            assert len(kubernetes.requests) == 3, "each is reviewed once"
            kubernetes.audiences = []
            kubernetes.accounts["late.pod.token"] = kubernetes.accounts[pod]
            assert await status(mirror, "late.pod.token") == 401
            (tmp_path / "own").write_text("expired")
            assert await status(mirror, "new.pod.token") == 502
    for secret in (own, pod, other):
        assert secret not in log_lines.getvalue()
    assert "system:auth-delegator" in log_lines.getvalue()
