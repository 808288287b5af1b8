"""The CDN serves exactly what was signed, to whom it should, for a while."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
from yarl import URL

from tests.fakes import content
from tests.fakes.cdn import SIGNED_QUERY, FakeCdn
from tests.fakes.clients import RawAnswer, get
from tests.fakes.clock import FakeClock
from tests.fakes.registry import FakeRegistry
from tests.fakes.wire import Kind

BLOB = content.blob(1000)
TARGET = f"/v2/a/blobs/{BLOB.digest}"


@dataclass
class Pair:
    """A registry and where it redirects to."""

    registry: FakeRegistry
    cdn: FakeCdn
    clock: FakeClock

    async def location(self, method: str = "GET") -> str:
        answer = await get(self.registry.host, self.registry.port, TARGET, method=method)
        return answer.header("Location") or ""

    async def follow(self, url: str, *headers: tuple[str, str]) -> RawAnswer:
        target = url.removeprefix(self.cdn.url)
        return await get(self.cdn.host, self.cdn.port, target, headers)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    clock = FakeClock()
    async with FakeRegistry() as registry, FakeCdn(clock=clock) as cdn:
        registry.push_blob("a", BLOB)
        cdn.serve_blobs_of(registry)
        yield Pair(registry, cdn, clock)


async def test_a_signed_address_serves_the_blob(pair: Pair) -> None:
    url = await pair.location()
    assert url.startswith(pair.cdn.url)
    assert SIGNED_QUERY in url
    answer = await pair.follow(url)
    assert (answer.status, answer.body) == (200, BLOB.content)
    assert answer.header("Content-Type") == "binary/octet-stream"
    assert answer.header("Docker-Content-Digest") is None
    answer = await pair.follow(url, ("Range", "bytes=990-"))
    assert (answer.status, answer.body) == (206, BLOB.content[990:])
    assert pair.cdn.bytes_sent(BLOB.digest) == 1010
    assert pair.cdn.count(kind=Kind.CDN, reference=BLOB.digest) == 2


async def test_a_changed_address_is_refused(pair: Pair) -> None:
    url = await pair.location()
    for changed in (url.replace("%2F", "/"), url.replace("~", "%7E"), url + "&ns=x"):
        assert (await pair.follow(changed)).status == 403
    async with aiohttp.ClientSession() as session:
        for address, status in ((URL(url, encoded=True), 200), (URL(url), 403)):
            async with session.get(address) as response:
                assert response.status == status


async def test_addresses_expire(pair: Pair) -> None:
    url = await pair.location()
    pair.clock.advance(599)
    assert (await pair.follow(url)).status == 200
    pair.clock.advance(1)
    assert (await pair.follow(url)).status == 403
    url = await pair.location()
    pair.cdn.expire_urls()
    pair.cdn.expired_status = 400
    assert (await pair.follow(url)).status == 400
    assert (await pair.follow(await pair.location())).status == 200


async def test_an_address_may_be_good_once(pair: Pair) -> None:
    pair.cdn.single_use = True
    url = await pair.location()
    assert [(await pair.follow(url)).status for _ in range(2)] == [200, 403]


async def test_authorization_may_be_refused(pair: Pair) -> None:
    url, bearer = await pair.location(), ("Authorization", "Bearer x")
    assert (await pair.follow(url, bearer)).status == 200
    assert pair.cdn.requests[-1].authorization == "Bearer x"
    pair.cdn.refuses_authorization = True
    answer = await pair.follow(url, bearer)
    assert (answer.status, b"Only one auth mechanism allowed" in answer.body) == (400, True)


async def test_a_redirect_has_many_forms(pair: Pair) -> None:
    pair.cdn.query_padding_bytes = 9000
    assert len(await pair.location()) > 9000
    pair.cdn.serve_blobs_of(
        pair.registry, status=302, head=False, body=b"<html>", digest_header=True
    )
    answer = await get(pair.registry.host, pair.registry.port, TARGET)
    assert (answer.status, answer.body) == (302, b"<html>")
    assert answer.header("Docker-Content-Digest") == BLOB.digest
    assert await pair.location("HEAD") == ""


async def test_what_is_missing_is_not_redirected(pair: Pair) -> None:
    pair.registry.delete_blob("a", BLOB.digest)
    assert (await get(pair.registry.host, pair.registry.port, TARGET)).status == 404


async def test_a_cdn_may_not_know_ranges_or_types(pair: Pair) -> None:
    pair.cdn.ranges = False
    pair.cdn.media_type = None
    answer = await pair.follow(await pair.location(), ("Range", "bytes=0-1"))
    assert (answer.status, answer.header("Content-Type")) == (200, None)
