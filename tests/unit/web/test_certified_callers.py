"""A client certificate proves who one is, at both listeners (mTLS)."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from cryptography.x509.oid import NameOID

from mirror.settings import Admin, Auth, Server
from tests.fakes.certificates import Authority
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.harness import ANY_PORT, Mirror, mirror_of
from tests.unit.web.callers import basic, htpasswd, rule
from tests.unit.web.wire import manifest_path

PATH = manifest_path("v1", "team/app")


@asynccontextmanager
async def holding(
    authority: Authority, *names: str, organization: str = "nodes"
) -> AsyncIterator[aiohttp.ClientSession]:
    group = (NameOID.ORGANIZATION_NAME, organization)
    common = [(NameOID.COMMON_NAME, each) for each in names]
    uri = f"spiffe://example.org/{organization}"
    shown = authority.client(group, *common, uri=uri)
    context = ssl.create_default_context(cafile=authority.file)
    context.load_cert_chain(*shown)
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "authority").mkdir()
    return Authority(tmp_path / "authority")


@pytest.fixture
async def mirror(
    tmp_path: Path, upstream: FakeRegistry, authority: Authority
) -> AsyncIterator[Mirror]:
    upstream.push("team/app", image(), ["v1"])
    tls = authority.server("strict", client_ca=authority.file)
    auth = Auth(
        htpasswd=htpasswd(tmp_path / "htpasswd", ann="a"),
        rules=(
            rule("group:nodes", "docker.io/team/*"),
            rule("user:ops", "docker.io/none", admin="write"),
        ),
    )
    server = Server(
        listen=ANY_PORT,
        admin_listen=ANY_PORT,
        tls=tls,
        admin=Admin(tls=tls),
        auth=auth,
        shutdown_grace_seconds=1,
    )
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, server=server) as up:
        up.url = up.url.replace("http:", "https:")
        up.admin_url = up.admin_url.replace("http:", "https:")
        yield up


async def status(
    session: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = None
) -> int:
    async with session.get(url, headers=headers) as answer:
        return answer.status


async def test_rules_know_the_holder(mirror: Mirror, authority: Authority) -> None:
    url = mirror.url + PATH
    async with holding(authority, "node-1") as node:
        assert await status(node, url) == 200
        assert await status(node, url, basic("ann", "a")) == 403, "a credential counts first"
        assert await status(node, url, basic("ann", "wrong")) == 401
    async with holding(authority, "web-1", organization="web") as other:
        assert await status(other, url) == 403
    async with holding(authority, "node-1", "node-2") as nobody, nobody.get(url) as answer:
        assert answer.status == 401
        assert f'realm="{mirror.url}/token"' in answer.headers["WWW-Authenticate"]


async def test_a_certificate_brings_a_role(mirror: Mirror, authority: Authority) -> None:
    images, collect = (f"{mirror.admin_url}/api/v1/cache/{name}" for name in ("images", "gc"))
    async with holding(authority, "ops") as ops:
        assert await status(ops, images) == 200
        async with ops.post(collect) as answer:
            assert answer.status == 403, "a browser shows a certificate unasked"
        async with ops.post(collect, headers={"X-Mirror-CSRF": "1"}) as answer:
            assert answer.status == 200
    async with holding(authority, "node-1") as node:
        assert await status(node, images) == 403
