"""Real clients log in at the mirror: passwords, tokens, and tokens of an identity provider."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bcrypt
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from . import seed as names
from .clients import Docker
from .conftest import StartClient, StartMirror, Upstreams
from .daemon import free_port
from .logins import (
    PINGING,
    REFUSED,
    ContainerdHeader,
    CriPullSecret,
    Login,
    PodmanLogin,
    SkopeoCreds,
    WithLogin,
)
from .loop_thread import LoopThread, Server
from .mirror_process import Mirror
from .seed import Image, Seed

ANN, WRONG = Login("ann", "correct-horse-battery"), Login("ann", "staple")
NODE = Login("node-1", "5d0c66c2b1f04d9aa4f1-token-of-a-node")
RULES = [
    {"who": "user:ann", "pull": ["docker.io/library/*"]},
    {"who": "group:nodes", "pull": ["docker.io/**"]},
    {"who": "claim:team=blue", "pull": ["docker.io/library/*"]},
]
Guarded = Callable[..., Mirror]


class Issuer(Server):
    """An identity provider with one key."""

    key = ec.generate_private_key(ec.SECP256R1())

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._describe)
        app.router.add_get("/keys", self._keys)
        return app

    def token(self, **claims: str) -> str:
        """Return a token that is good for ten minutes."""
        now = int(time.time())
        usual = {"iss": self.url, "aud": "mirror", "sub": "job", "iat": now, "exp": now + 600}
        return jwt.encode(usual | claims, self.key, "ES256", {"kid": "one"})

    async def _describe(self, _request: web.Request) -> web.Response:
        return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/keys"})

    async def _keys(self, _request: web.Request) -> web.Response:
        key = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return web.json_response({"keys": [{**key, "kid": "one", "use": "sig"}]})


@pytest.fixture
def issuer(loop_thread: LoopThread) -> Iterator[Issuer]:
    server = Issuer(loop_thread, free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture
def guarded(
    start_mirror: StartMirror, upstreams: Upstreams, issuer: Issuer, tmp_path: Path
) -> Guarded:
    hashed = bcrypt.hashpw(ANN.password.encode(), bcrypt.gensalt(10)).decode()
    (tmp_path / "htpasswd").write_text(f"{ANN.user}:{hashed}\n", encoding="utf-8")
    (tmp_path / "tokens").write_text(f"{NODE.user}:{NODE.password}:nodes\n", encoding="utf-8")

    def start(challenge: str) -> Mirror:
        auth: dict[str, Any] = {
            "challenge": challenge,
            "htpasswd": {"file": str(tmp_path / "htpasswd")},
            "tokens": {"file": str(tmp_path / "tokens")},
            "oidc": [{"issuer": issuer.url, "audience": "mirror"}],
            "rules": RULES,
        }
        return start_mirror(upstreams.settings(), more={"server": {"auth": auth}})

    return start


def refuses(client: WithLogin, login: Login, image: Image) -> bool:
    """Whether a client cannot pull: some ask at the login already, some at the pull."""
    try:
        client.log_in(login)
        client.pull(image)
    except REFUSED:
        return True
    return False


@pytest.mark.parametrize("kind", PINGING, ids=lambda kind: kind.name)
def test_a_client_logs_in_and_pulls(
    kind: type[WithLogin], guarded: Guarded, seed: Seed, start_client: StartClient
) -> None:
    mirror = guarded("ping")
    client, image = start_client(kind, mirror), seed.images[names.HELLO]
    assert isinstance(client, WithLogin)
    with pytest.raises(REFUSED):
        client.pull(image)
    assert refuses(client, WRONG, image)

    client.log_in(ANN)
    assert image.digest in client.pull(image)

    with pytest.raises(REFUSED):
        client.pull(seed.images[names.MULTI])
    assert ANN.password not in mirror.log_text()
    assert '"user":"ann"' in mirror.log_text().replace('": "', '":"')


@pytest.mark.parametrize("kind", [PodmanLogin, SkopeoCreds], ids=lambda kind: kind.name)
def test_a_token_of_an_identity_provider_is_a_password(
    *,
    kind: type[WithLogin],
    guarded: Guarded,
    issuer: Issuer,
    seed: Seed,
    start_client: StartClient,
) -> None:
    client, image = start_client(kind, guarded("ping")), seed.images[names.HELLO]
    assert isinstance(client, WithLogin)
    assert refuses(client, Login("oidc", issuer.token(team="red")), image)

    client.log_in(Login("oidc", issuer.token(team="blue")))

    assert image.digest in client.pull(image)


def test_nodes_show_a_header(guarded: Guarded, seed: Seed, start_client: StartClient) -> None:
    mirror = guarded("never")
    client, image = start_client(ContainerdHeader, mirror), seed.images[names.MULTI]
    assert isinstance(client, WithLogin)
    with pytest.raises(REFUSED):
        client.pull(image)

    client.log_in(NODE)

    assert image.digest in client.pull(image)
    assert NODE.password not in mirror.log_text()


def test_a_node_shows_a_token_of_an_identity_provider(
    guarded: Guarded, issuer: Issuer, seed: Seed, start_client: StartClient
) -> None:
    client, image = start_client(ContainerdHeader, guarded("objects")), seed.images[names.HELLO]
    assert isinstance(client, WithLogin)
    client.log_in(Login("", issuer.token(team="blue")))
    assert image.digest in client.pull(image)


def test_a_pod_shows_its_pull_secret(
    guarded: Guarded, seed: Seed, start_client: StartClient
) -> None:
    client, image = start_client(CriPullSecret, guarded("objects")), seed.images[names.HELLO]
    assert isinstance(client, WithLogin)
    with pytest.raises(REFUSED):
        client.pull(image)
    client.log_in(WRONG)
    with pytest.raises(REFUSED):
        client.pull(image)

    client.log_in(ANN)

    assert image.digest in client.pull(image)


def test_docker_is_not_asked_for_its_hub_account(
    guarded: Guarded, seed: Seed, start_client: StartClient
) -> None:
    """A daemon with ``registry-mirrors`` and a login at Docker Hub."""
    mirror = guarded("objects")
    client = start_client(Docker, mirror)
    assert isinstance(client, Docker)
    hub = '{"auths": {"https://index.docker.io/v1/": {"auth": "aHVidXNlcjpodWItc2VjcmV0"}}}'
    directory = client._work / "docker"
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(hub, encoding="utf-8")

    with pytest.raises(REFUSED):
        client.pull(seed.images[names.HELLO])

    log = mirror.log_text()
    assert "/token" not in log
    assert "401" in log
    assert "hubuser" not in log
