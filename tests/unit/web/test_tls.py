"""TLS on both listeners: what is spoken, who is let in, and certificates that change."""

import asyncio
import io
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import pytest
from cryptography.x509.oid import NameOID

from mirror.app import certificates as watching
from mirror.domain.certificates import ClientCertificate
from mirror.runtime.certificates import CertificateError, server_context
from mirror.settings import Admin, Limits, Policy, Server, ServerTls
from tests.fakes import faults
from tests.fakes.certificates import Authority
from tests.fakes.clients import RawClient
from tests.fakes.content import blob, image
from tests.fakes.registry import FakeRegistry
from tests.harness import ANY_PORT, MIB, QUICK, Mirror, gathered, in_one_process, mirror_of
from tests.unit.web.wire import REPOSITORY, blob_path, manifest_path

IMAGE = image()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> ServerTls:
    return authority.server()


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.file)


@asynccontextmanager
async def secure_mirror(
    tmp_path: Path,
    upstream: FakeRegistry,
    tls: ServerTls,
    limits: Limits | None = None,
    policy: Policy | None = None,
) -> AsyncIterator[Mirror]:
    server = Server(
        listen=ANY_PORT,
        admin_listen=ANY_PORT,
        tls=tls,
        admin=Admin(tls=tls),
        shutdown_grace_seconds=1,
        limits=limits or Limits(),
    )
    policy = policy or Policy(timeouts=QUICK)
    origins = {"docker.io": upstream}
    async with mirror_of(tmp_path / "cache", origins, server=server, policy=policy) as mirror:
        mirror.url = mirror.url.replace("http:", "https:")
        mirror.admin_url = mirror.admin_url.replace("http:", "https:")
        yield mirror


async def got(mirror: Mirror, url: str, context: ssl.SSLContext) -> tuple[int, bytes]:
    connector = aiohttp.TCPConnector(ssl=context, force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
        session.get(url) as answer,
    ):
        return answer.status, await answer.read()


async def test_both_listeners_speak_tls(
    tmp_path: Path, upstream: FakeRegistry, authority: Authority, tls: ServerTls
) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    pushed = blob(5 * MIB + 7)
    upstream.push_blob(REPOSITORY, pushed)
    context = trusting(authority)
    async with secure_mirror(tmp_path, upstream, tls) as mirror:
        assert await got(mirror, mirror.url + manifest_path("v1"), context) == (200, IMAGE.content)
        place = mirror.url + blob_path(pushed.digest)
        assert await got(mirror, place, context) == (200, pushed.content)  # as it comes in
        await mirror.settled()
        assert await got(mirror, place, context) == (200, pushed.content)  # from the disk
        assert (await got(mirror, mirror.admin_url + "/readyz", context))[0] == 200
        answers = await gathered(20, lambda: got(mirror, place, context))
        assert {body for _, body in answers} == {pushed.content}
        await mirror.becomes("mirror_connections", 0, listener="registry")


async def test_a_range_of_a_stored_file_goes_over_tls(
    tmp_path: Path, upstream: FakeRegistry, authority: Authority, tls: ServerTls
) -> None:
    pushed = blob(3 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    async with secure_mirror(tmp_path, upstream, tls) as mirror:
        place = mirror.url + blob_path(pushed.digest)
        await got(mirror, place, trusting(authority))
        await mirror.settled()
        async with mirror.session.get(
            place, headers={"Range": "bytes=1000-2000000"}, ssl=trusting(authority)
        ) as answer:
            assert answer.status == 206
            assert await answer.read() == pushed.content[1000:2000001]


async def test_a_body_that_cannot_go_on_does_not_look_whole_over_tls(
    tmp_path: Path, upstream: FakeRegistry, authority: Authority, tls: ServerTls
) -> None:
    pushed = blob(2 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.body(blob(2 * MIB, seed=1).content), kind="blob")
    async with secure_mirror(tmp_path, upstream, tls) as mirror:
        with pytest.raises(aiohttp.ClientPayloadError):
            await got(mirror, mirror.url + blob_path(pushed.digest), trusting(authority))
        await mirror.settled()
        assert not mirror.stored(pushed.digest).exists()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "spoken"),
    [
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
async def test_it_speaks_tls_1_2_and_newer(
    tmp_path: Path,
    upstream: FakeRegistry,
    authority: Authority,
    tls: ServerTls,
    version: ssl.TLSVersion,
    *,
    spoken: bool,
) -> None:
    context = trusting(authority)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # so that this client would speak the old one
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, version
    async with secure_mirror(tmp_path, upstream, tls) as mirror:
        if spoken:
            assert (await got(mirror, mirror.url + "/v2/", context))[0] == 200
        else:
            with pytest.raises(aiohttp.ClientConnectorError):
                await got(mirror, mirror.url + "/v2/", context)
            await mirror.becomes(
                "mirror_connections_dropped_total", 1, listener="registry", reason="handshake"
            )


async def test_plain_http_to_a_tls_port_ends_at_once(
    tmp_path: Path, upstream: FakeRegistry, tls: ServerTls
) -> None:
    async with secure_mirror(tmp_path, upstream, tls) as mirror:
        answer = await mirror.raw("/v2/")
        assert answer.status == 0
        assert answer.ended in {"fin", "rst"}
        await mirror.becomes("mirror_connections", 0, listener="registry")


async def test_s13_a_handshake_that_does_not_come_to_its_end_is_closed(
    tmp_path: Path, upstream: FakeRegistry, tls: ServerTls
) -> None:
    limits = Limits(head_seconds=0.1)
    async with secure_mirror(tmp_path, upstream, tls, limits) as mirror:
        async with await RawClient.connect(mirror.host, mirror.port) as client:
            await client.send(b"\x16\x03\x01")
            assert (await client.answer()).ended in {"fin", "rst"}
        await mirror.becomes("mirror_connections", 0, listener="registry")


# --- client certificates ---------------------------------------------------------------------


async def test_with_client_ca_only_its_clients_get_in(
    tmp_path: Path, upstream: FakeRegistry, authority: Authority, log_lines: io.StringIO
) -> None:
    strict = authority.server("strict", client_ca=authority.file)
    names = [(NameOID.ORGANIZATION_NAME, "system:nodes"), (NameOID.COMMON_NAME, "node, 1")]
    shown = authority.client(*names, uri="spiffe://example.org/node/1")
    (tmp_path / "other").mkdir()
    foreign = Authority(tmp_path / "other").client(*names, uri="spiffe://example.org/node/1")
    async with secure_mirror(tmp_path, upstream, strict) as mirror:
        with pytest.raises(aiohttp.ClientError):
            await got(mirror, mirror.url + "/v2/", trusting(authority))
        context = trusting(authority)
        context.load_cert_chain(*foreign)
        with pytest.raises(aiohttp.ClientError):
            await got(mirror, mirror.url + "/v2/", context)
        assert '"kind": "ping"' not in log_lines.getvalue()
        context = trusting(authority)
        context.load_cert_chain(*shown)
        assert (await got(mirror, mirror.url + "/v2/", context))[0] == 200
        assert (await got(mirror, mirror.admin_url + "/readyz", context))[0] == 200
    logged = [json.loads(line) for line in log_lines.getvalue().splitlines()]
    assert [line["certificate"] for line in logged if line.get("kind") == "ping"] == [
        r"CN=node\, 1,O=system:nodes"
    ]


def test_who_a_certificate_names() -> None:
    read = ClientCertificate.read(
        {
            "subject": (
                (("countryName", "DE"),),
                (("organizationName", "one"), ("organizationName", 'tw"o')),
                (("commonName", " build+1"),),
            ),
            "subjectAltName": (
                ("DNS", "build.example"),
                ("URI", "spiffe://x/y"),
                ("email", "a@b"),
                ("IP Address", "::1"),
            ),
        }
    )
    assert read == ClientCertificate(
        r"CN=\ build\+1,O=tw\"o,O=one,C=DE",
        " build+1",
        ("one", 'tw"o'),
        ("build.example",),
        ("spiffe://x/y",),
        ("a@b",),
    )


def test_a_certificate_with_two_names_is_nobodys() -> None:
    subject = ((("commonName", "node"),), (("commonName", "admin"),))
    read = ClientCertificate.read({"subject": subject})
    assert read is not None
    assert read.common_name == ""
    assert read.subject == "CN=admin,CN=node"


@pytest.mark.parametrize("shown", [None, {}])
def test_no_certificate_is_nobody(shown: dict[str, object] | None) -> None:
    assert ClientCertificate.read(shown) is None


# --- files -----------------------------------------------------------------------------------


@contextmanager
def assert_refused(words: str) -> Iterator[None]:
    with pytest.raises(CertificateError) as caught:
        yield
    assert words in str(caught.value)
    assert "PRIVATE" not in str(caught.value)


def test_each_bad_file_is_named(tmp_path: Path, authority: Authority, tls: ServerTls) -> None:
    bad, other = tmp_path / "bad.pem", authority.server("other")
    with assert_refused(f"server.tls.certificate: {bad}: cannot be read: No such file"):
        server_context(tls.model_copy(update={"certificate": bad}), "server.tls")
    bad.write_text("hello")
    with assert_refused(f"server.tls.certificate: {bad} does not hold a certificate in PEM form"):
        server_context(tls.model_copy(update={"certificate": bad}), "server.tls")
    with assert_refused(f"server.tls.key: {bad} does not hold a private key in PEM form"):
        server_context(tls.model_copy(update={"key": bad}), "server.tls")
    with assert_refused(f"server.tls.client_ca: {bad} does not hold a certificate in PEM form"):
        server_context(tls.model_copy(update={"client_ca": bad}), "server.tls")
    with assert_refused(
        f"the key in {other.key} is not that of the certificate in {tls.certificate}"
    ):
        server_context(tls.model_copy(update={"key": other.key}), "server.tls")
    bad.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with assert_refused(f"server.admin.tls: {bad} and {tls.key}: cannot be read"):
        server_context(tls.model_copy(update={"certificate": bad}), "server.admin.tls")
    with assert_refused(f"server.tls.client_ca: {bad}: cannot be read"):
        server_context(tls.model_copy(update={"client_ca": bad}), "server.tls")


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(
    tmp_path: Path, tls: ServerTls
) -> None:
    from cryptography.hazmat.primitives import serialization as form  # noqa: PLC0415 -- this test

    key = form.load_pem_private_key(tls.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            form.Encoding.PEM,
            form.PrivateFormat.PKCS8,
            form.BestAvailableEncryption(b"secret"),
        )
    )
    with assert_refused(f"server.tls.key: {locked} is encrypted: give a key without a password"):
        server_context(tls.model_copy(update={"key": locked}), "server.tls")


async def test_a_mirror_with_a_bad_certificate_does_not_start(
    tmp_path: Path, upstream: FakeRegistry, tls: ServerTls
) -> None:
    with assert_refused("server.tls: the key in"):
        async with secure_mirror(
            tmp_path, upstream, tls.model_copy(update={"key": Authority(tmp_path).server().key})
        ):
            pass
    assert not (tmp_path / "cache").exists()


class Volume:
    """A Secret as kubelet mounts it: links to a link to a directory, which is swapped."""

    def __init__(self, directory: Path, tls: ServerTls) -> None:
        self._directory = directory
        self._count = 0
        self.write(tls)
        for name in ("tls.crt", "tls.key"):
            (directory / name).symlink_to(Path("..data", name))
        self.tls = ServerTls(certificate=directory / "tls.crt", key=directory / "tls.key")

    def write(self, tls: ServerTls, key: Path | None = None) -> None:
        self._count += 1
        content = self._directory / f"..{self._count}"
        content.mkdir()
        (content / "tls.crt").write_bytes(tls.certificate.read_bytes())
        (content / "tls.key").write_bytes((key or tls.key).read_bytes())
        (self._directory / "..tmp").symlink_to(content.name)
        (self._directory / "..tmp").replace(self._directory / "..data")


async def serial(mirror: Mirror, context: ssl.SSLContext) -> str:
    _, writer = await asyncio.open_connection(mirror.host, mirror.port, ssl=context)
    shown = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    await writer.wait_closed()
    return str(shown)


@in_one_process  # each of several looks at the files in its own time
async def test_a_renewed_certificate_is_shown_and_a_bad_one_is_not(
    tmp_path: Path,
    upstream: FakeRegistry,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(watching.Certificates.__init__, "__defaults__", (0.01,))
    (tmp_path / "tls").mkdir()
    volume = Volume(tmp_path / "tls", authority.server("first"))
    context = trusting(authority)
    name, per_listener = "mirror_certificate_reloads_total", 2
    async with secure_mirror(tmp_path, upstream, volume.tls) as mirror:
        first = await serial(mirror, context)
        reader, writer = await asyncio.open_connection(mirror.host, mirror.port, ssl=context)
        volume.write(authority.server("second"))
        await mirror.becomes(name, per_listener, outcome="applied")
        second = await serial(mirror, context)
        assert second != first
        volume.write(authority.server("third"), key=authority.server("another").key)
        await mirror.becomes(name, per_listener, outcome="refused")
        assert await serial(mirror, context) == second
        assert "the old one stays" in caplog.text
        writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")  # from before all that
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        await writer.wait_closed()
