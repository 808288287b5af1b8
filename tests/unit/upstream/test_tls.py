"""https towards upstreams: own authorities, client certificates, and no way around either."""

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mirror.settings import Upstream, UpstreamTls
from tests.fakes import tls as fake_tls
from tests.fakes.cdn import FakeCdn
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.fakes.tls import loopback_tls
from tests.unit.upstream.pulling import REPOSITORY, blob, manifest, mirrored, pull

IMAGE = image()


def client_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = fake_tls._certificate(key, ("client",), expired=False)
    paths = folder / "client.pem", folder / "client-key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def pem_file(folder: Path, pem: bytes) -> Path:
    path = folder / "ca.pem"
    path.write_bytes(pem)
    return path


async def test_an_authority_of_our_own(tmp_path: Path) -> None:
    server, _, pem = loopback_tls()
    async with FakeRegistry(tls=server) as registry:
        registry.push(REPOSITORY, IMAGE, tags=["v1"])
        tls = UpstreamTls(ca=pem_file(tmp_path, pem))
        async with mirrored(tmp_path, Upstream(endpoints=(registry.url,), tls=tls)) as mirror:
            await pull(mirror, IMAGE)
        assert registry.count(kind="blob") == len(IMAGE.blobs)


@pytest.mark.parametrize("what", ["unknown authority", "expired", "another host"])
async def test_a_certificate_that_is_not_good(tmp_path: Path, what: str) -> None:
    host = "other.example" if what == "another host" else "127.0.0.1"
    server, _, pem = loopback_tls(host, expired=what == "expired")
    ca = None if what == "unknown authority" else pem_file(tmp_path, pem)
    async with FakeRegistry(tls=server) as registry:
        registry.push(REPOSITORY, IMAGE, tags=["v1"])
        upstream = Upstream(endpoints=(registry.url,), tls=UpstreamTls(ca=ca))
        async with mirrored(tmp_path, upstream) as mirror:
            got = await mirror.get(manifest())
        assert registry.requests == []
    assert (got.status, got.error_code) == (502, "UNKNOWN")
    assert b"certificate not accepted" in got.body


async def test_insecure_is_for_the_endpoint_and_not_for_where_it_redirects(tmp_path: Path) -> None:
    server, _, _ = loopback_tls()
    async with FakeRegistry(tls=server) as registry, FakeCdn(tls=server) as cdn:
        registry.push(REPOSITORY, IMAGE, tags=["v1"])
        upstream = Upstream(endpoints=(registry.url,), tls=UpstreamTls(insecure=True))
        async with mirrored(tmp_path, upstream) as mirror:
            await pull(mirror, IMAGE)
            other = image(2)
            registry.push(REPOSITORY, other)
            cdn.serve_blobs_of(registry)
            got = await mirror.get(blob(other.layers[0].digest))
        assert cdn.requests == []
    assert got.status == 502


async def test_a_client_certificate_is_shown_to_the_endpoint_alone(tmp_path: Path) -> None:
    server, _, pem = loopback_tls()
    certificate, key = client_certificate(tmp_path)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(certificate)
    tls = UpstreamTls(ca=pem_file(tmp_path, pem), certificate=certificate, key=key)
    other = image(2)
    async with FakeRegistry(tls=server) as registry, FakeCdn(tls=server) as cdn:
        registry.push(REPOSITORY, IMAGE, tags=["v1"])
        registry.push(REPOSITORY, other)
        upstream = Upstream(endpoints=(registry.url,), tls=tls)
        async with mirrored(tmp_path, upstream) as mirror:
            await pull(mirror, IMAGE)
            cdn.serve_blobs_of(registry)
            got = await mirror.get(blob(other.layers[0].digest))
            assert cdn.requests == []  # it wants one, and gets none
            nobody = Upstream(endpoints=(registry.url,), tls=UpstreamTls(ca=tls.ca))
            registry.clear()
            async with mirrored(tmp_path / "nobody", nobody) as without:
                refused = await without.get(manifest())
            assert registry.requests == []
    assert got.status == 502
    assert refused.status == 502
