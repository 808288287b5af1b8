"""The clients that can be told of a mirror."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from mirror.clients.buildkit import RESTART_BUILDKIT, buildkit_directory, plan_buildkit
from mirror.clients.containerd import certs_directory, plan_containerd, plan_nerdctl
from mirror.clients.containers import RELOAD_CRIO, containers_directory, plan_crio, plan_podman
from mirror.clients.docker import docker_directory, plan_docker
from mirror.clients.names import ClientName
from mirror.clients.plan import Files, Plan, Wish
from mirror.clients.rancher import RESTART_K3S, RESTART_RKE2, plan_k3s, plan_rke2, rancher_directory
from mirror.clients.talos import plan_talos, talos_directory

LEDGER: Final = ".mirror"
"""Where the files of before are kept: beside the client's own, so on the same file system."""


@dataclass(frozen=True, slots=True)
class Client:
    """How one client is told."""

    plan: Callable[[Wish, Files], Plan]
    directory: Callable[[str | None, Files], str]
    """Its directory, by the home directory of the user (None: of the system)."""
    per_user: bool = False
    """Whether a user may have a configuration of his own."""
    after_undo: str | None = None
    """The command that makes it forget the mirror when its files are gone."""

    def ledger(self, home: str | None, files: Files) -> str:
        """Return the directory in which the files of before are kept."""
        return f"{self.directory(home, files)}/{LEDGER}"


CLIENTS: Final[Mapping[ClientName, Client]] = {
    ClientName.CONTAINERD: Client(plan_containerd, lambda _, files: certs_directory(files)),
    ClientName.NERDCTL: Client(
        plan_nerdctl, lambda home, files: certs_directory(files, home), per_user=True
    ),
    ClientName.DOCKER: Client(
        plan_docker,
        lambda home, _: docker_directory(home),
        per_user=True,
        # A reload, which is enough to name a mirror, does not take the last one away (20.10).
        after_undo="systemctl restart docker",
    ),
    ClientName.PODMAN: Client(
        plan_podman, lambda home, _: containers_directory(home), per_user=True
    ),
    ClientName.CRIO: Client(
        plan_crio, lambda _, __: containers_directory(None), after_undo=RELOAD_CRIO
    ),
    ClientName.K3S: Client(
        plan_k3s, lambda _, __: rancher_directory("k3s"), after_undo=RESTART_K3S
    ),
    ClientName.RKE2: Client(
        plan_rke2, lambda _, __: rancher_directory("rke2"), after_undo=RESTART_RKE2
    ),
    ClientName.BUILDKIT: Client(
        plan_buildkit,
        lambda home, _: buildkit_directory(home),
        per_user=True,
        after_undo=RESTART_BUILDKIT,
    ),
    ClientName.TALOS: Client(plan_talos, talos_directory),
}


class NoFiles:
    """A machine on which no client has a file yet."""

    def read(self, path: str) -> str | None:  # noqa: ARG002 -- so are Files
        """Return nothing."""
        return None

    def names(self, directory: str) -> list[str]:  # noqa: ARG002 -- so are Files
        """Return nothing."""
        return []
