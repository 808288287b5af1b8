"""A fake can speak https, and still cut connections."""

import aiohttp
import pytest

from tests.fakes import content, faults
from tests.fakes.registry import FakeRegistry
from tests.fakes.tls import loopback_tls

BLOB = content.blob(1 << 20)


async def test_https_with_a_certificate_that_can_be_verified() -> None:
    server, client, _ = loopback_tls()
    async with FakeRegistry(tls=server) as registry, aiohttp.ClientSession() as session:
        registry.push_blob("a", BLOB)
        url = f"{registry.url}/v2/a/blobs/{BLOB.digest}"
        assert url.startswith("https://")
        async with session.get(url, ssl=client) as response:
            assert await response.read() == BLOB.content
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(url)


@pytest.mark.parametrize("rst", [False, True])
async def test_cuts_over_https(*, rst: bool) -> None:
    server, client, _ = loopback_tls()
    async with FakeRegistry(tls=server) as registry, aiohttp.ClientSession() as session:
        registry.push_blob("a", BLOB)
        registry.fail(faults.cut(1000, rst=rst))
        url = f"{registry.url}/v2/a/blobs/{BLOB.digest}"
        async with session.get(url, ssl=client) as response:
            with pytest.raises(aiohttp.ClientError):
                await response.read()


async def test_an_expired_certificate_is_refused() -> None:
    server, client, pem = loopback_tls("127.0.0.1", expired=True)
    assert pem.startswith(b"-----BEGIN CERTIFICATE")
    async with FakeRegistry(tls=server) as registry, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(f"{registry.url}/v2/", ssl=client)
