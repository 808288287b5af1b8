"""The files that point clients at a mirror, as the admin API shows them.

docs/clients.md says more about each client, and with which versions they were tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mirror.clients.address import MirrorAddress
from mirror.clients.buildkit import RESTART_BUILDKIT
from mirror.clients.catalogue import CLIENTS, NoFiles
from mirror.clients.containerd import CERTS, plan_hosts
from mirror.clients.containers import RELOAD_CRIO
from mirror.clients.names import ClientName
from mirror.clients.plan import Plan, Wish

_HUB: Final = "docker.io"
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
    try:
        mirror = MirrorAddress.parse(f"{'https' if is_https else 'http'}://{address}")
    except ValueError:
        raise ValueError("write HOST:PORT, for example mirror.example:5000") from None
    wish = Wish(mirror, tuple(upstreams))
    return (
        _containerd(wish),
        _docker(Wish(mirror, (_HUB,))),
        _shown(
            wish,
            ClientName.PODMAN,
            "Podman, CRI-O, skopeo, buildah",
            "toml",
            f"Nothing for Podman, skopeo and buildah; {RELOAD_CRIO} for CRI-O.",
            "The name behind the address is needed: these clients do not say which one they mean.",
        ),
        _shown(
            wish,
            ClientName.K3S,
            "k3s, RKE2",
            "yaml",
            None,
            "RKE2: /etc/rancher/rke2/registries.yaml, and rke2-server or rke2-agent.",
        ),
        _shown(wish, ClientName.TALOS, "Talos", "yaml", None),
        _shown(
            wish,
            ClientName.BUILDKIT,
            "BuildKit, docker buildx",
            "toml",
            f"{RESTART_BUILDKIT}; or docker buildx create --use --config FILE",
        ),
        _by_name(mirror, upstreams),
    )


def _shown(
    wish: Wish, name: ClientName, title: str, language: Language, then: str | None, *notes: str
) -> ClientFiles:
    plan = CLIENTS[name].plan(wish, NoFiles())
    then = plan.activate or "" if then is None else then
    return ClientFiles(name, title, _files(plan, language), then, (*notes, *_command(wish, name)))


def _files(plan: Plan, language: Language) -> tuple[File, ...]:
    return tuple(File(path, language, content) for path, content in plan.files.items())


def _command(wish: Wish, name: ClientName) -> tuple[str, ...]:
    if name is ClientName.TALOS:
        return ()
    command = f"mirror client-config {name} --mirror {wish.mirror} --install"
    return (f"`{command}` merges it with what is there; --undo takes it back.",)


def _containerd(wish: Wish) -> ClientFiles:
    return ClientFiles(
        ClientName.CONTAINERD,
        "containerd, Kubernetes, nerdctl",
        _files(plan_hosts(wish, NoFiles(), CERTS), "toml"),
        f"Nothing to restart if `config_path` is `{CERTS}` already.",
        (
            'config_path stands in [plugins."io.containerd.grpc.v1.cri".registry] of config.toml.',
            'In containerd 2 that is [plugins."io.containerd.cri.v1.images".registry].',
            "The registry itself is tried last, so pulls go on without the mirror.",
            *_command(wish, ClientName.CONTAINERD),
        ),
    )


def _docker(wish: Wish) -> ClientFiles:
    return _shown(
        wish,
        ClientName.DOCKER,
        "Docker",
        "json",
        None,
        "Docker does so for Docker Hub only. For others name the mirror in the reference:",
        f"docker pull {wish.mirror.netloc}/ghcr.io/org/app",
    )


def _by_name(mirror: MirrorAddress, upstreams: Sequence[str]) -> ClientFiles:
    name = _HUB if _HUB in upstreams or not upstreams else upstreams[0]
    plain = f"{mirror.netloc}/{name}"
    insecure = " --insecure" if mirror.is_plain else ""
    plain_http = " --plain-http" if mirror.is_plain else ""
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
