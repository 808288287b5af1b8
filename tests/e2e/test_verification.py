"""``policy.access: verify`` with real clients: a registry with two users and their repositories."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from aiohttp import web

from . import oci
from . import seed as names
from .conftest import StartClient, StartMirror
from .counting import CountingProxy
from .daemon import free_port, run
from .logins import PINGING, REFUSED, CriPullSecret, Login, WithLogin, elsewhere
from .loop_thread import LoopThread
from .mirror_process import Mirror
from .registry import Registry
from .seed import Image, Seed
from .token_server import LIFE_SECONDS, Key, TokenServer, claims_of

UPSTREAM = "private.example"
ANN, BOB = Login("ann", "secret-of-ann-1"), Login("bob", "secret-of-bob-1")
ALSO, EVE = Login("also-bob", "secret-of-also-1"), Login("eve", "a-guess-of-eve")
USERS = {each.user: each.password for each in (ANN, BOB, ALSO)}
ALLOWED = {"team-a/app": {"ann"}, "team-b/app": {"bob", "also-bob"}}


class PeopleServer(TokenServer):
    """Gives tokens to several people, each for its repositories and for what is public."""

    async def _token(self, request: web.Request) -> web.Response:
        user, password = _basic(request.headers.get("Authorization", ""))
        if user and USERS.get(user) != password:
            self.refused += 1
            return web.json_response({"errors": [{"code": "UNAUTHORIZED"}]}, status=401)
        self.given += 1
        scopes = [scope for part in request.query.getall("scope", []) for scope in part.split()]
        granted = [s for s in scopes if user in ALLOWED.get(s.split(":")[1], {user})]
        token = self.key.sign(claims_of(granted))
        return web.json_response({"token": token, "expires_in": LIFE_SECONDS})


def _basic(header: str) -> tuple[str, str]:
    scheme, _, encoded = header.partition(" ")
    if scheme != "Basic":
        return "", ""
    user, _, password = base64.b64decode(encoded).decode().partition(":")
    return user, password


@dataclass
class Town:
    """The registry's images, what stands before it, and a mirror that verifies."""

    ours: Image
    theirs: Image
    public: Image
    proxy: CountingProxy
    mirror: Mirror

    def get(self, path: str, login: Login | None = None, method: str = "GET", **more: str) -> int:
        """Return the status of a request by hand."""
        headers = {"Accept": oci.ANY_MANIFEST, **more}
        if login is not None:
            pair = base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        return oci.request(self.mirror.url + path, method, headers=headers).status

    def downloads(self) -> list[str]:
        """Return the objects that were taken from the registry."""
        return [r.path for r in self.proxy.records if r.is_object_get and r.status == 200]


@pytest.fixture(scope="module")
def registry(
    seed: Seed,
    plain_registry: Registry,
    loop_thread: LoopThread,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Registry]:
    """Push with an open registry, then serve the same directory with tokens."""
    work = tmp_path_factory.mktemp("people")
    open_one = Registry(work / "open", work / "storage", free_port())
    open_one.start()
    for source, target in (
        (names.HELLO, "team-a/app"),
        (names.MULTI, "team-b/app"),
        (names.DOCKER_LIST, "free/app"),
    ):
        image = seed.images[source]
        name = f"127.0.0.1:{plain_registry.port}/{image.repository}:{image.tag}"
        copy = f"127.0.0.1:{open_one.port}/{target}:v1"
        how = ("--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false")
        run("skopeo", "copy", *how, f"docker://{name}", f"docker://{copy}")
    theirs = seed.images[names.MULTI]
    subject = {"mediaType": theirs.media_type, "digest": theirs.digest, "size": 1}
    artifact = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "artifactType": "text/x-note",
        "subject": subject,
    }
    pushing = oci.Repository(open_one.url, "team-a/app")
    empty = pushing.push_blob(oci.EMPTY, b"{}")
    pushing.push_manifest("names-theirs", {**artifact, "config": empty, "layers": [empty]})
    open_one.stop()
    server = PeopleServer(loop_thread, free_port(), Key())
    server.start()
    server.key.write_certificate(work / "token.pem")
    guarded = Registry(work, work / "storage", free_port())
    guarded.require_tokens(server.realm, work / "token.pem")
    guarded.start()
    yield guarded
    guarded.stop()
    server.stop()


@pytest.fixture
def town(
    request: pytest.FixtureRequest,
    registry: Registry,
    seed: Seed,
    loop_thread: LoopThread,
    start_mirror: StartMirror,
) -> Iterator[Town]:
    proxy = CountingProxy(loop_thread, free_port(), registry.url)
    proxy.start()
    same = {"endpoints": [proxy.url], "realms": ["127.0.0.1"]}
    upstreams = {
        UPSTREAM: {**same, "aliases": ["alias.example"], "policy": {"access": "verify"}},
        "ghcr.io": same,
        "docker.io": same,
    }
    server = {"auth": {"challenge": "ping"}, "workers": getattr(request, "param", 1)}
    mirror = start_mirror(upstreams, more={"server": server})
    yield Town(
        elsewhere(seed.images[names.HELLO], UPSTREAM, "team-a/app"),
        elsewhere(seed.images[names.MULTI], UPSTREAM, "team-b/app"),
        elsewhere(seed.images[names.DOCKER_LIST], UPSTREAM, "free/app"),
        proxy,
        mirror,
    )
    proxy.stop()


@pytest.mark.parametrize("kind", [CriPullSecret, *PINGING], ids=lambda kind: kind.name)
def test_a_client_pulls_what_its_user_may_and_nothing_else(
    kind: type[WithLogin], town: Town, start_client: StartClient
) -> None:
    bobs, anns, alsos = (start_client(kind, town.mirror) for _ in range(3))
    for client, login in ((bobs, BOB), (anns, ANN), (alsos, ALSO)):
        assert isinstance(client, WithLogin)
        client.log_in(login)
    assert town.theirs.digest in bobs.pull(town.theirs)
    taken = len(town.downloads())
    assert taken

    with pytest.raises(REFUSED):
        anns.pull(town.theirs)
    town.proxy.forget()
    assert town.theirs.digest in alsos.pull(town.theirs)
    asked = [(r.method, r.status) for r in town.proxy.records if r.status == 200]
    assert town.downloads() == []
    assert asked == [("HEAD", 200)], "the second one who may costs the registry one HEAD"

    assert town.ours.digest in anns.pull(town.ours)
    with pytest.raises(REFUSED):
        bobs.pull(town.ours)
    log = town.mirror.log_text()
    assert not any(login.password in log for login in (ANN, BOB, ALSO))


@pytest.mark.parametrize("kind", [CriPullSecret], ids=lambda kind: kind.name)
def test_what_is_public_needs_no_secret(
    kind: type[WithLogin], town: Town, start_client: StartClient
) -> None:
    client = start_client(kind, town.mirror)
    assert town.public.digest in client.pull(town.public)
    client.wipe()
    assert isinstance(client, WithLogin)
    client.log_in(EVE)
    town.proxy.forget()
    assert town.public.digest in client.pull(town.public)
    assert town.downloads() == []


@pytest.mark.parametrize("town", [1, 2], indirect=True, ids=["one process", "two workers"])
def test_no_way_leads_to_what_is_cached_for_others(town: Town, start_client: StartClient) -> None:
    bobs = start_client(CriPullSecret, town.mirror)
    assert isinstance(bobs, CriPullSecret)
    bobs.log_in(BOB)
    bobs.pull(town.theirs)
    blob = next(path for path in town.downloads() if "/blobs/" in path).rpartition("/")[2]
    assert town.get(f"/v2/{UPSTREAM}/team-b/app/blobs/{blob}", BOB) == 200
    assert town.get(f"/v2/{UPSTREAM}/team-a/app/manifests/names-theirs", ANN) == 200

    digest = town.theirs.digest
    for login in (ANN, EVE, None):
        for name in (
            f"{UPSTREAM}/team-b/app",
            "alias.example/team-b/app",
            f"{UPSTREAM}/team-a/app",
            "ghcr.io/team-b/app",
            "ghcr.io/team-a/app",
            "team-b/app",
        ):
            for path in (f"/v2/{name}/manifests/{digest}", f"/v2/{name}/blobs/{blob}"):
                assert town.get(path, login) in {401, 403, 404}, (login, path)
                assert town.get(path, login, "HEAD") in {401, 403, 404}, (login, path)
                part = {"Range": "bytes=0-9"}
                assert town.get(path, login, **part) in {401, 403, 404}, (login, path)
    assert town.get("/v2/_catalog", ANN) == 404


def test_while_the_registry_is_away(town: Town, start_client: StartClient) -> None:
    bobs = start_client(CriPullSecret, town.mirror)
    assert isinstance(bobs, CriPullSecret)
    bobs.log_in(BOB)
    bobs.pull(town.theirs)
    town.proxy.stop()
    bobs.wipe()
    assert town.theirs.digest in bobs.pull(town.theirs)
    path = f"/v2/{UPSTREAM}/team-b/app/manifests/v1"
    assert town.get(path, ALSO) in {502, 504}
    assert town.get(path, EVE) == 403, "the token server still answers, and it knows no Eve"
