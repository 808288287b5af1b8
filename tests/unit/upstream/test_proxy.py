"""A proxy on the way to upstream, and what the environment of the process must not do."""

import base64
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.settings import Upstream
from tests.fakes.auth import BasicGuard
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.unit.upstream.pulling import (
    PASSWORD,
    REPOSITORY,
    USER,
    account,
    manifest,
    mirrored,
    pull,
)

IMAGE = image()
FAR = "http://registry.example:8080"


@pytest.fixture(autouse=True)
def _no_proxy_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
async def proxy() -> AsyncIterator[FakeRegistry]:
    """A registry that answers for every host it is asked about, as a proxy would."""
    async with FakeRegistry() as registry:
        registry.push(REPOSITORY, IMAGE, tags=["v1"])
        yield registry


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "settings"])
async def test_plain_http_goes_through_the_proxy(
    proxy: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    upstream = Upstream(endpoints=(FAR,))
    if name == "settings":
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        upstream = Upstream(endpoints=(FAR,), proxy=proxy.url)
    else:
        monkeypatch.setenv(name, proxy.url)
    async with mirrored(tmp_path, upstream) as mirror:
        await pull(mirror, IMAGE)
    assert all(request.target.startswith(FAR) for request in proxy.requests)


@pytest.mark.parametrize("written", ["http://canary:word@{}", "canary:p%40ss@{}", "{}"])
async def test_a_proxy_in_a_private_network(
    proxy: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    """It is found by its name, with a user or without, and with a scheme or without."""
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: int, **more: int) -> object:
        return real("127.0.0.1" if host == "proxy.corp" else host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setenv("HTTP_PROXY", written.format(f"proxy.corp:{proxy.port}"))
    async with mirrored(tmp_path, Upstream(endpoints=(FAR,))) as mirror:
        await pull(mirror, IMAGE)
    shown = {request.header("Proxy-Authorization") for request in proxy.requests}
    user, at, _ = written.removeprefix("http://").replace("%40", "@").rpartition("@")
    assert shown == {"Basic " + base64.b64encode(user.encode()).decode() if at else None}


@pytest.mark.parametrize("no_proxy", ["127.0.0.1", "*", "example.org,127.0.0.1", "{authority}"])
async def test_no_proxy(
    proxy: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_proxy: str
) -> None:
    async with FakeRegistry() as near:
        near.push(REPOSITORY, IMAGE, tags=["v1"])
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", no_proxy.format(authority=near.authority))
        async with mirrored(tmp_path, near.url) as mirror:
            await pull(mirror, IMAGE)
    assert proxy.requests == []


async def test_https_goes_through_a_tunnel(
    proxy: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This proxy makes none; what counts is what it hears: no path, no credentials."""
    monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//canary:word@"))
    upstream = Upstream(endpoints=("https://registry.example",), credentials=(account(),))
    async with mirrored(tmp_path, upstream) as mirror:
        got = await mirror.get(manifest())
    assert [(each.method, each.target) for each in proxy.requests] == [
        ("CONNECT", "registry.example:443")
    ]
    assert proxy.requests[0].authorization is None
    expected = base64.b64encode(b"canary:word").decode()
    assert proxy.requests[0].header("Proxy-Authorization") == f"Basic {expected}"
    assert got.status == 502
    assert b"canary" not in got.body
    assert expected.encode() not in got.body


async def test_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Aiohttp's trust_env would send what it has for the host, unasked."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"default login {USER} password {PASSWORD}\n", encoding="utf-8")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    async with FakeRegistry() as registry:
        registry.guard = BasicGuard(users={USER: PASSWORD})
        async with mirrored(tmp_path, registry.url, "ghcr.io") as mirror:
            assert (await mirror.get(manifest())).status == 403
        assert {request.authorization for request in registry.requests} == {None}
