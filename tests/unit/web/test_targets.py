"""Requests whose target is a whole URL: what clients send to proxies, and servers have to take."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.settings import Auth, Upstream
from tests.fakes.clients import RawAnswer, compose, fetch
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.harness import LOOPBACK, Mirror, mirror_of
from tests.unit.web.callers import htpasswd, rule, server
from tests.unit.web.wire import REPOSITORY, blob_path, manifest_path

IMAGE, OTHER = image(1), image(2)


@pytest.fixture
async def second() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as registry:
        yield registry


@pytest.fixture
async def mirror(
    tmp_path: Path, upstream: FakeRegistry, second: FakeRegistry
) -> AsyncIterator[Mirror]:
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    second.push(REPOSITORY, OTHER, ["v1"])
    upstreams = {
        "docker.io": Upstream(endpoints=(upstream.url,), redirects=LOOPBACK),
        "quay.io": Upstream(
            endpoints=(second.url,), redirects=LOOPBACK, hosts=("quay.mirror.example",)
        ),
    }
    auth = Auth(
        htpasswd=htpasswd(tmp_path / "htpasswd", ann="a"),
        rules=(rule("anonymous", "*/library/*"), rule("user:ann", "**")),
    )
    async with mirror_of(tmp_path / "cache", upstreams, server=server(auth)) as running:
        yield running


async def ask(mirror: Mirror, target: str, host: str = "localhost") -> RawAnswer:
    return await fetch(mirror.host, mirror.port, compose(target, host=host))


@pytest.mark.parametrize("scheme", ["http", "HTTPS"])
async def test_a_whole_url_is_read_as_its_path(mirror: Mirror, scheme: str) -> None:
    for _ in range(3):  # the last times from memory
        for path in (manifest_path("v1"), manifest_path(IMAGE.digest)):
            answer = await ask(mirror, f"{scheme}://mirror.example:5000{path}")
            assert (answer.status, answer.body) == (200, IMAGE.content)
    layer = IMAGE.layers[0]
    answer = await ask(mirror, f"{scheme}://mirror.example{blob_path(layer.digest)}?ns=docker.io")
    assert (answer.status, answer.body) == (200, layer.content)
    answer = await ask(mirror, f"{scheme}://m.example/token?scope=repository:{REPOSITORY}:pull")
    assert answer.status == 200


async def test_its_host_counts_and_not_that_of_the_header(mirror: Mirror) -> None:
    path, other = manifest_path("v1"), "quay.mirror.example"
    assert (await ask(mirror, f"http://{other}{path}")).body == OTHER.content
    assert (await ask(mirror, f"http://mirror.example{path}", host=other)).body == IMAGE.content
    assert (await ask(mirror, path, host=other)).body == OTHER.content
    challenged = await ask(mirror, f"http://m.example:5000{manifest_path('v1', 'team/app')}")
    assert challenged.status == 401
    realm = challenged.header("WWW-Authenticate") or ""
    assert 'realm="http://m.example:5000/token"' in realm


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://mirror.example", 404),
        ("http://mirror.example?n=1", 404),
        ("http://user@mirror.example/v2/", 404),
        ("http:///v2/", 400),
        ("ftp://mirror.example/v2/", 404),
        ("http://mirror.example//v2/", 404),
        ("http://mirror.example/v2/", 200),
    ],
)
async def test_what_is_no_such_url_is_nothing(mirror: Mirror, target: str, status: int) -> None:
    assert (await ask(mirror, target)).status == status


async def test_a_header_that_is_no_text_changes_nothing(mirror: Mirror) -> None:
    request = compose(f"http://mirror.example{manifest_path('v1')}", host="localhost")
    odd = request.replace(b"\r\n\r\n", b"\r\nX-Odd: caf\xe9\r\n\r\n")
    answer = await fetch(mirror.host, mirror.port, odd)
    assert (answer.status, answer.body) == (200, IMAGE.content)
