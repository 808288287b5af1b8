"""Real clients, each with a store of its own that can be wiped."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import grpc

from . import protobuf
from .daemon import CommandError, Daemon, Patience, run
from .seed import Image

REGISTRIES = ("docker.io", "ghcr.io", "private.example")


class Client(ABC):
    """A client whose configuration sends every registry to the mirror."""

    name: ClassVar[str]
    zstd: ClassVar[bool] = True

    def __init__(self, work: Path, mirror_port: int) -> None:
        self._work = work
        self._mirror = f"127.0.0.1:{mirror_port}"
        self._store = work / "store"

    def start(self) -> None:
        """Write the configuration and start what must run."""
        self._work.mkdir(parents=True, exist_ok=True)
        self._store.mkdir()

    def stop(self) -> None:
        """Stop and remove the store."""
        shutil.rmtree(self._store, ignore_errors=True)

    def wipe(self) -> None:
        """Forget everything that was pulled."""
        self.stop()
        self.start()

    @abstractmethod
    def pull(self, image: Image) -> set[str]:
        """Pull, and return the digests by which the client knows the image now."""


class Containerd(Client):
    """containerd with ``ctr images pull --hosts-dir``."""

    name = "containerd"
    _daemon: Daemon | None = None

    def start(self) -> None:
        super().start()
        self._hosts = self._work / "certs.d"
        self.write_hosts()
        config = self._work / "config.toml"
        config.write_text(self._config(), encoding="utf-8")
        log = self._work / "containerd.log"
        self._daemon = Daemon("containerd", ["containerd", "--config", config], log)
        self._daemon.wait_until(self._is_ready)

    def write_hosts(self) -> None:
        """Say where each registry is."""
        for registry in REGISTRIES:
            directory = self._hosts / registry
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "hosts.toml").write_text(self._hosts_toml(), encoding="utf-8")

    def stop(self) -> None:
        if self._daemon is not None:
            self._daemon.stop()
            self._daemon = None
        super().stop()

    def pull(self, image: Image) -> set[str]:
        # Parallel chunks and their kind are newer; what this one sends is in the tests of ranges.
        where = ("--hosts-dir", self._hosts, "--snapshotter", "native")
        self._ctr("images", "pull", *where, image.reference)
        lines = self._ctr("images", "list", f"name=={image.reference}").splitlines()[1:]
        return {line.split()[2] for line in lines}

    def run(self, image: Image) -> str:
        """Run the image and return what it says."""
        how = ("--rm", "--net-host", "--snapshotter", "native")
        return self._ctr("run", *how, image.reference, "e2e")

    def _ctr(self, *command: str | Path) -> str:
        return run("ctr", "--address", self._socket, "--namespace", "e2e", *command)

    @property
    def _socket(self) -> Path:
        return self._store / "containerd.sock"

    def _is_ready(self) -> bool:
        try:
            self._ctr("version")
        except CommandError:
            return False
        return True

    def _hosts_toml(self) -> str:
        # The mirror is the server, too: a fallback would hide its failures.
        return (
            f'server = "http://{self._mirror}"\n'
            f'[host."http://{self._mirror}"]\n'
            '  capabilities = ["pull", "resolve"]\n'
        )

    def _config(self) -> str:
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        return "\n".join(
            (
                "version = 2",
                f'root = "{self._store / "root"}"',
                f'state = "{self._store / "state"}"',
                "[grpc]",
                f'address = "{self._socket}"',
                f"[{cri}]",
                "restrict_oom_score_adj = true",
                f"[{cri}.containerd]",
                'snapshotter = "native"',
                f"[{cri}.registry]",
                f'config_path = "{self._hosts}"',
            )
        )


class Cri(Containerd):
    """containerd as the kubelet uses it: CRI, with ``config_path``."""

    name = "cri"

    def pull(self, image: Image) -> set[str]:
        wanted = protobuf.field(1, protobuf.field(1, image.reference.encode()))
        with grpc.insecure_channel(f"unix:{self._socket}") as channel:
            for method in ("PullImage", "ImageStatus"):
                call = channel.unary_unary(
                    f"/runtime.v1.ImageService/{method}",
                    request_serializer=bytes,
                    response_deserializer=bytes,
                )
                answer = call(wanted, timeout=Patience.seconds)
        # ImageStatusResponse.image = 1, Image.repo_digests = 3
        names = [name for found in protobuf.read(answer, 1) for name in protobuf.read(found, 3)]
        return {name.decode().rpartition("@")[2] for name in names}


class Docker(Client):
    """dockerd with ``--registry-mirror``; it mirrors docker.io only."""

    name = "docker"
    zstd = False  # Docker 20.10 cannot read such layers
    _daemon: Daemon | None = None

    def start(self) -> None:
        super().start()
        config = self._work / "daemon.json"
        config.write_text("{}", encoding="utf-8")
        options = (
            f"--config-file={config}",
            f"--host=unix://{self._socket}",
            f"--data-root={self._store / 'data'}",
            f"--exec-root={self._store / 'exec'}",
            f"--pidfile={self._store / 'pid'}",
            "--storage-driver=vfs",
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
            f"--registry-mirror=http://{self._mirror}",
        )
        self._daemon = Daemon("dockerd", ["dockerd", *options], self._work / "dockerd.log")
        self._daemon.wait_until(self._is_ready)

    def stop(self) -> None:
        if self._daemon is not None:
            self._daemon.stop()
            self._daemon = None
            for mount in (self._store / "exec" / "netns").glob("*"):
                run("umount", mount)
        super().stop()

    def pull(self, image: Image) -> set[str]:
        name = image.reference.removeprefix("docker.io/").removeprefix("library/")
        self._docker("pull", name)
        names = json.loads(self._inspect(name))
        return {name.rpartition("@")[2] for name in names}

    def run(self, image: Image) -> str:
        """Run the image and return what it says."""
        name = image.reference.removeprefix("docker.io/")
        return self._docker("run", "--rm", "--network=host", name)

    def _inspect(self, name: str) -> str:
        return self._docker("image", "inspect", "--format={{json .RepoDigests}}", name)

    def _docker(self, *command: str) -> str:
        environment = {"DOCKER_CONFIG": str(self._work / "docker")}
        return run("docker", f"--host=unix://{self._socket}", *command, environment=environment)

    @property
    def _socket(self) -> Path:
        return self._store / "docker.sock"

    def _is_ready(self) -> bool:
        try:
            self._docker("version")
        except CommandError:
            return False
        return True


class ContainersImage(Client):
    """What podman and skopeo share: a registries.conf."""

    def start(self) -> None:
        super().start()
        self._conf = self._work / "registries.conf"
        entries = [
            f'[[registry]]\nprefix = "{name}"\nlocation = "{self._mirror}/{name}"\ninsecure = true'
            for name in REGISTRIES
        ]
        self._conf.write_text("\n".join(entries), encoding="utf-8")


class Podman(ContainersImage):
    """Podman with vfs storage."""

    name = "podman"

    def pull(self, image: Image) -> set[str]:
        self._podman("pull", image.reference)
        listed = self._podman("image", "inspect", image.reference)
        names = json.loads(listed)[0]["RepoDigests"]
        return {name.rpartition("@")[2] for name in names}

    def _podman(self, *command: str) -> str:
        where = ("--root", self._store / "root", "--runroot", self._store / "run")
        conf = {"CONTAINERS_REGISTRIES_CONF": str(self._conf)}
        return run("podman", *where, "--storage-driver=vfs", *command, environment=conf)


class Skopeo(ContainersImage):
    """Skopeo, which copies all platforms to a directory."""

    name = "skopeo"

    def pull(self, image: Image) -> set[str]:
        source, target = f"docker://{image.reference}", f"oci:{self._store / 'layout'}:x"
        conf = ("--registries-conf", self._conf)
        copied = self._work / "digest"
        how = ("--all", "--preserve-digests", "--digestfile", copied)
        if "docker" in image.media_type:
            target = f"dir:{self._store / 'layout'}"  # an OCI layout would mean another digest
        run("skopeo", *conf, "copy", *how, source, target)
        return {copied.read_text(encoding="utf-8").strip()}


CLIENTS: tuple[type[Client], ...] = (Containerd, Cri, Docker, Podman, Skopeo)
