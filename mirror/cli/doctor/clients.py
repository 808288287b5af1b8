"""Checks of the clients of this machine: which are told of the mirror, and whether rightly."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from mirror.cli.doctor.finding import Verdict, doubtful, fine, left_out, wrong
from mirror.domain.client_mirrors import ClientFileError, mirrors_in
from mirror.settings import ListenAddress

FILES: Final = (
    ("containerd", "etc/containerd/certs.d/*/hosts.toml"),
    ("docker", "etc/docker/daemon.json"),
    ("podman", "etc/containers/registries.conf"),
    ("podman", "etc/containers/registries.conf.d/*.conf"),
    ("k3s", "etc/rancher/k3s/registries.yaml"),
    ("rke2", "etc/rancher/rke2/registries.yaml"),
)
_CONTAINERD: Final = "etc/containerd/config.toml"
_CONFIG_PATH: Final = re.compile(r"^\s*config_path\s*=\s*[\"'][^\"']+[\"']", re.MULTILINE)
_LOCAL: Final = frozenset({"127.0.0.1", "localhost", "::1", "0.0.0.0"})  # noqa: S104 -- compared, not bound


def found_files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of clients that name a mirror or cannot be read, with the client."""
    for client, pattern in FILES:
        for path in sorted(root.glob(pattern)):
            try:
                says_nothing = not mirrors_in(path, path.read_text("utf-8"))
            except (OSError, ValueError):
                says_nothing = False
            if not says_nothing:
                yield client, path


def client(path: Path, root: Path, listen: ListenAddress) -> Verdict:
    """Tell whom a client's file names as its mirror."""
    name = f"/{path.relative_to(root)}"
    try:
        mirrors = mirrors_in(path, path.read_text("utf-8"))
    except ClientFileError as error:
        return wrong(f"{name}: {error}", f"correct it: the client cannot read it either; {_SEE}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        return left_out(f"{name} cannot be read: {reason}")
    named = f"{name} names {', '.join(mirrors)}"
    if not any(_is_ours(each, listen) for each in mirrors):
        return left_out(f"{named}, which is not this mirror", _SEE)
    if path.name == "hosts.toml" and not _reads_hosts(root):
        return doubtful(
            f"{named}, but /{_CONTAINERD} has no config_path",
            'set config_path = "/etc/containerd/certs.d" there, and restart containerd',
        )
    return fine(named)


def none_found() -> Verdict:
    """Tell that no client of this machine is told of any mirror."""
    return left_out("none is configured on this machine", _SEE)


def _is_ours(url: str, listen: ListenAddress) -> bool:
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return False
    is_here = parts.hostname in _LOCAL or parts.hostname == listen.host
    return port == listen.port and (is_here or not listen.is_loopback)


def _reads_hosts(root: Path) -> bool:
    """Return whether containerd looks into ``certs.d``; also if that cannot be found out."""
    try:
        text = (root / _CONTAINERD).read_text("utf-8")
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
    return _CONFIG_PATH.search(text) is not None


_SEE: Final = "`mirror client-config` says what to write, and writes it with --install"
