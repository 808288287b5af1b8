"""The clients that can be told of a mirror, by name."""

from enum import StrEnum


class ClientName(StrEnum):
    """A client as a person names it."""

    CONTAINERD = "containerd"
    DOCKER = "docker"
    PODMAN = "podman"
    CRIO = "crio"
    K3S = "k3s"
    RKE2 = "rke2"
    TALOS = "talos"
    NERDCTL = "nerdctl"
    BUILDKIT = "buildkit"
