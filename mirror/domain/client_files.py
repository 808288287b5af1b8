"""The files that point clients at a mirror, written for one address of it.

docs/clients.md says more about each client, and with which versions they were tried.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

HUB: Final = "docker.io"
_HUB_SERVER: Final = "registry-1.docker.io"
_HOST: Final = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])"
_ADDRESS: Final = re.compile(rf"{_HOST}(?::[0-9]{{1,5}})?")
Language = Literal["toml", "yaml", "json", "sh"]


@dataclass(frozen=True, slots=True)
class File:
    """A file of a client, or, without a path, commands."""

    path: str
    language: Language
    content: str


@dataclass(frozen=True, slots=True)
class ClientFiles:
    """How one client, or several that read the same files, are pointed at the mirror.

    ``then`` is what to do after the files are written, ``notes`` what one should know.
    """

    name: str
    title: str
    files: tuple[File, ...]
    then: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Mirror:
    address: str
    is_https: bool

    @property
    def url(self) -> str:
        return f"{'https' if self.is_https else 'http'}://{self.address}"

    @property
    def is_loopback(self) -> bool:
        return self.address.startswith(("127.", "localhost", "[::1]"))

    def unless_https(self, text: str) -> str:
        return "" if self.is_https else text


def client_files(
    address: str, upstreams: Sequence[str], *, is_https: bool
) -> tuple[ClientFiles, ...]:
    """Return what each client needs.

    Args:
        address: ``HOST:PORT`` by which clients reach the mirror.
        upstreams: The registries that it mirrors.
        is_https: Whether it has a certificate.

    Raises:
        ValueError: the address is none.
    """
    if _ADDRESS.fullmatch(address) is None:
        raise ValueError("write HOST:PORT, for example mirror.example:5000")
    mirror = _Mirror(address, is_https)
    return (
        _containerd(mirror, upstreams),
        _docker(mirror),
        _podman(mirror, upstreams),
        _rancher(mirror, upstreams),
        _talos(mirror, upstreams),
        _buildkit(mirror, upstreams),
        _by_name(mirror, upstreams),
    )


def _containerd(mirror: _Mirror, upstreams: Iterable[str]) -> ClientFiles:
    host = f'[host."{mirror.url}"]\n  capabilities = ["pull", "resolve"]\n  dial_timeout = "2s"\n'
    files = [
        File(
            f"/etc/containerd/certs.d/{name}/hosts.toml",
            "toml",
            f'server = "https://{_HUB_SERVER if name == HUB else name}"\n\n{host}',
        )
        for name in upstreams
    ]
    return ClientFiles(
        "containerd",
        "containerd, Kubernetes, nerdctl",
        tuple(files),
        "Nothing to restart if `config_path` is `/etc/containerd/certs.d` already.",
        (
            'config_path stands in [plugins."io.containerd.grpc.v1.cri".registry] of config.toml.',
            'In containerd 2 that is [plugins."io.containerd.cri.v1.images".registry].',
            "The registry itself is tried last, so pulls go on without the mirror.",
        ),
    )


def _docker(mirror: _Mirror) -> ClientFiles:
    fields: dict[str, list[str]] = {"registry-mirrors": [mirror.url]}
    if not mirror.is_https and not mirror.is_loopback:
        fields["insecure-registries"] = [mirror.address]
    return ClientFiles(
        "docker",
        "Docker",
        (File("/etc/docker/daemon.json", "json", json.dumps(fields, indent=2) + "\n"),),
        "sudo systemctl restart docker",
        (
            "Docker does so for Docker Hub only. For others name the mirror in the reference:",
            f"docker pull {mirror.address}/ghcr.io/org/app",
        ),
    )


def _podman(mirror: _Mirror, upstreams: Iterable[str]) -> ClientFiles:
    insecure = mirror.unless_https("insecure = true\n")
    tables = [
        f'[[registry]]\nprefix = "{name}"\nlocation = "{name}"\n\n'
        f'[[registry.mirror]]\nlocation = "{mirror.address}/{name}"\n{insecure}'
        for name in upstreams
    ]
    path = "/etc/containers/registries.conf.d/10-mirror.conf"
    return ClientFiles(
        "podman",
        "Podman, CRI-O, skopeo, buildah",
        (File(path, "toml", "\n".join(tables)),),
        "Nothing for Podman, skopeo and buildah; sudo systemctl reload crio for CRI-O.",
        ("The name behind the address is needed: these clients do not say which one they mean.",),
    )


def _rancher(mirror: _Mirror, upstreams: Iterable[str]) -> ClientFiles:
    lines = [f'  {name}:\n    endpoint: ["{mirror.url}"]\n' for name in upstreams]
    return ClientFiles(
        "k3s",
        "k3s, RKE2",
        (File("/etc/rancher/k3s/registries.yaml", "yaml", "mirrors:\n" + "".join(lines)),),
        "sudo systemctl restart k3s (k3s-agent on agents)",
        ("RKE2: /etc/rancher/rke2/registries.yaml, and rke2-server or rke2-agent.",),
    )


def _talos(mirror: _Mirror, upstreams: Iterable[str]) -> ClientFiles:
    lines = [f'      {name}:\n        endpoints: ["{mirror.url}"]\n' for name in upstreams]
    content = "machine:\n  registries:\n    mirrors:\n" + "".join(lines)
    return ClientFiles(
        "talos",
        "Talos",
        (File("mirror.patch.yaml", "yaml", content),),
        "talosctl patch machineconfig --patch @mirror.patch.yaml",
    )


def _buildkit(mirror: _Mirror, upstreams: Iterable[str]) -> ClientFiles:
    tables = [f'[registry."{name}"]\n  mirrors = ["{mirror.address}"]\n' for name in upstreams]
    tables += [f'[registry."{mirror.address}"]\n  http = true\n'] * (not mirror.is_https)
    return ClientFiles(
        "buildkit",
        "BuildKit, docker buildx",
        (File("buildkitd.toml", "toml", "\n".join(tables)),),
        "docker buildx create --use --config buildkitd.toml",
    )


def _by_name(mirror: _Mirror, upstreams: Sequence[str]) -> ClientFiles:
    name = HUB if HUB in upstreams or not upstreams else upstreams[0]
    plain = f"{mirror.address}/{name}"
    insecure = mirror.unless_https(" --insecure")
    plain_http = mirror.unless_https(" --plain-http")
    content = (
        f"crane pull{insecure} {plain}/library/alpine:3.20 alpine.tar\n"
        f"helm pull{plain_http} oci://{plain}/org/chart\n"
        f"oras pull{plain_http} {plain}/org/artifact:v1\n"
    )
    return ClientFiles(
        "others",
        "crane, helm, oras, anything else",
        (File("", "sh", content),),
        "",
        ("Put the mirror and the registry in front of the name. There is no fallback then.",),
    )
