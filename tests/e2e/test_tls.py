"""Real clients over TLS: an authority of one's own, client certificates, a renewed certificate."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from cryptography.x509.oid import NameOID

from tests.fakes.certificates import Authority

from . import seed as names
from .clients import Client, Containerd, Podman, Skopeo
from .conftest import StartClient, StartMirror, Upstreams
from .daemon import CommandError, run
from .seed import Image, Seed


class Keys:
    """What a client trusts and shows, in the form of a ``certs.d`` directory."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.directory = directory
        directory.mkdir()
        (directory / "ca.crt").write_bytes(authority.file.read_bytes())

    def show(self, certificate: Path, key: Path) -> None:
        """Show a certificate from now on."""
        (self.directory / "client.cert").write_bytes(certificate.read_bytes())
        (self.directory / "client.key").write_bytes(key.read_bytes())


class ContainerdTls(Containerd):
    """containerd that finds authority and certificate in hosts.toml."""

    keys: ClassVar[Keys]

    def pull(self, image: Image) -> set[str]:
        self.write_hosts()
        return super().pull(image)

    def _hosts_toml(self) -> str:
        certificate, key = (self.keys.directory / f"client.{end}" for end in ("cert", "key"))
        files = [f'ca = "{self.keys.directory / "ca.crt"}"']
        if certificate.exists():
            files.append(f'client = [["{certificate}", "{key}"]]')
        host = [f'[host."https://{self._mirror}"]', 'capabilities = ["pull", "resolve"]']
        return "\n".join([f'server = "https://{self._mirror}"', *files, *host, *files, ""])


class PodmanTls(Podman):
    """Podman with ``--cert-dir``."""

    keys: ClassVar[Keys]

    def pull(self, image: Image) -> set[str]:
        reference = f"{self._mirror}/{image.reference}"
        self._podman("pull", f"--cert-dir={self.keys.directory}", reference)
        return {self._podman("image", "inspect", "--format={{.Digest}}", reference).strip()}


class SkopeoTls(Skopeo):
    """skopeo with ``--src-cert-dir``."""

    keys: ClassVar[Keys]

    def pull(self, image: Image) -> set[str]:
        copied = self._work / "digest"
        how = ("--all", "--preserve-digests", f"--src-cert-dir={self.keys.directory}")
        source, target = f"docker://{self._mirror}/{image.reference}", f"dir:{self._store / 'x'}"
        run("skopeo", "copy", *how, f"--digestfile={copied}", source, target)
        return {copied.read_text(encoding="utf-8").strip()}


CLIENTS = (ContainerdTls, PodmanTls, SkopeoTls)


@pytest.mark.parametrize("kind", CLIENTS, ids=[kind.name for kind in CLIENTS])
def test_clients_pull_over_tls_and_go_on_when_the_certificate_is_renewed(
    *,
    kind: type[ContainerdTls | PodmanTls | SkopeoTls],
    start_mirror: StartMirror,
    start_client: StartClient,
    upstreams: Upstreams,
    seed: Seed,
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    server = authority.server()
    tls = {"certificate": str(server.certificate), "key": str(server.key)}
    mirror = start_mirror(upstreams.settings(), {"server": {"tls": tls}})
    kind.keys = Keys(tmp_path / "keys", authority)
    client: Client = start_client(kind, mirror)
    image = seed.images[names.MULTI]
    assert image.digest in client.pull(image)

    client.wipe()
    authority.server()  # the same files
    assert image.digest in client.pull(image)

    (tmp_path / "other").mkdir()
    kind.keys = Keys(tmp_path / "others", Authority(tmp_path / "other"))
    client.wipe()
    with pytest.raises(CommandError, match="certificate"):
        client.pull(image)


@pytest.mark.parametrize("kind", CLIENTS, ids=[kind.name for kind in CLIENTS])
def test_with_client_ca_a_client_needs_a_certificate(
    *,
    kind: type[ContainerdTls | PodmanTls | SkopeoTls],
    start_mirror: StartMirror,
    start_client: StartClient,
    upstreams: Upstreams,
    seed: Seed,
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    server = authority.server()
    tls = {"certificate": str(server.certificate), "key": str(server.key)}
    mutual = {**tls, "client_ca": str(authority.file)}
    mirror = start_mirror(upstreams.settings(), {"server": {"tls": mutual}})
    kind.keys = Keys(tmp_path / "keys", authority)
    client: Client = start_client(kind, mirror)
    image = seed.images[names.HELLO]
    with pytest.raises(CommandError, match=r"EOF|connection reset by peer"):
        client.pull(image)
    mirror.until_logged("PEER_DID_NOT_RETURN_A_CERTIFICATE")
    assert upstreams.plain.object_gets() == []

    kind.keys.show(*authority.client((NameOID.COMMON_NAME, "node-1"), uri="spiffe://x/node-1"))
    client.wipe()
    assert image.digest in client.pull(image)
    assert '"certificate": "CN=node-1"' in mirror.log_text().replace('":"', '": "')
