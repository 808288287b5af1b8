"""Real clients with what ``mirror client-config`` writes, and without it again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from . import seed as names
from .clients import Client, Docker, Podman
from .conftest import Upstreams
from .counting import CountingProxy
from .daemon import Daemon, eventually, free_port, run
from .loop_thread import LoopThread
from .mirror_process import COMMAND, Mirror
from .registry import Registry
from .seed import Seed

C = TypeVar("C", bound=Client)
Start = Callable[[type[C]], C]


def client_config(mirror: Mirror, *arguments: str | Path, home: Path | None = None) -> str:
    environment = {"HOME": str(home)} if home else {}
    command = [*COMMAND, "client-config", "--config", str(mirror.config), *arguments]
    return run(*command, environment=environment)


def tree(directory: Path) -> dict[str, bytes | None]:
    paths = sorted(directory.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


class OwnDocker(Docker):
    """dockerd with a ``daemon.json`` that a person wrote, and no option that names a mirror."""

    def start(self) -> None:
        self.etc.mkdir(parents=True, exist_ok=True)
        if not self.file.exists():
            self.file.write_text('{\n\t"debug": true, "max-concurrent-downloads": 2\n}', "utf-8")
        Client.start(self)
        options = (
            f"--config-file={self.file}",
            f"--host=unix://{self._socket}",
            f"--data-root={self._store / 'data'}",
            f"--exec-root={self._store / 'exec'}",
            f"--pidfile={self._store / 'pid'}",
            *("--storage-driver=vfs", "--iptables=false", "--ip6tables=false", "--bridge=none"),
        )
        self._daemon = Daemon("dockerd", ["dockerd", *options], self._work / "dockerd.log")
        self._daemon.wait_until(self._is_ready)

    @property
    def etc(self) -> Path:
        return self._work / "root/etc/docker"

    @property
    def file(self) -> Path:
        return self.etc / "daemon.json"

    def reload(self) -> None:
        """Do what `systemctl reload docker` does."""
        assert self._daemon is not None
        os.kill(self._daemon.pid, signal.SIGHUP)

    def mirrors(self) -> list[str]:
        told = self._docker("info", "--format={{json .RegistryConfig.Mirrors}}")
        return list(json.loads(told) or [])


class OwnPodman(Podman):
    """Podman with a home directory, in which there is a registries.conf already."""

    def start(self) -> None:
        Client.start(self)
        self.home = self._work / "home"
        containers = self.home / ".config/containers"
        containers.mkdir(parents=True, exist_ok=True)
        text = 'unqualified-search-registries = ["docker.io"]\n'
        (containers / "registries.conf").write_text(text, encoding="utf-8")

    def _podman(self, *command: str) -> str:
        where = ("--root", self._store / "root", "--runroot", self._store / "run")
        home = {"HOME": str(self.home)}
        return run("podman", *where, "--storage-driver=vfs", *command, environment=home)


@pytest.fixture
def start() -> Iterator[Start[Client]]:
    # The path of a Unix socket has 107 characters at most.
    work = Path(tempfile.mkdtemp(prefix="e2e-"))
    clients: list[Client] = []

    def started(kind: type[Client]) -> Client:
        clients.append(kind(work / kind.name, 0))
        clients[-1].start()
        return clients[-1]

    yield started
    for client in clients:
        client.stop()
    shutil.rmtree(work)


def test_docker_uses_the_mirror_after_a_reload_and_forgets_it_after_a_restart(
    start: Start[OwnDocker], mirror: Mirror, upstreams: Upstreams, seed: Seed
) -> None:
    docker = start(OwnDocker)
    before = tree(docker.etc)
    root = ("--root", docker.etc.parents[1])
    assert docker.mirrors() == []

    assert "systemctl reload docker" not in client_config(mirror, "docker", "--dry-run", *root)
    assert tree(docker.etc) == before
    client_config(mirror, "docker", "--install", *root)
    docker.reload()
    eventually(lambda: docker.mirrors() == [f"{mirror.url}/"], "Docker has read it")
    image = seed.images[names.HELLO]
    assert image.digest in docker.pull(image)
    assert upstreams.plain.object_gets()

    client_config(mirror, "docker", "--undo", *root)
    assert tree(docker.etc) == before
    docker.wipe()  # a reload would not take it away
    assert docker.mirrors() == []


def test_docker_starts_with_the_file(start: Start[OwnDocker], mirror: Mirror) -> None:
    docker = start(OwnDocker)
    client_config(mirror, "docker", "--install", "--root", docker.etc.parents[1])
    docker.wipe()
    assert docker.mirrors() == [f"{mirror.url}/"]


def test_podman_uses_the_mirror_and_then_does_not(
    start: Start[OwnPodman], mirror: Mirror, upstreams: Upstreams, seed: Seed
) -> None:
    podman = start(OwnPodman)
    before = tree(podman.home)

    client_config(mirror, "podman", "--install", "--user", home=podman.home)
    for reference in (names.MULTI, names.SECRET):
        image = seed.images[reference]
        assert image.digest in podman.pull(image)
    assert upstreams.plain.object_gets()
    assert upstreams.token.object_gets()

    client_config(mirror, "podman", "--undo", "--user", home=podman.home)
    assert tree(podman.home) == before


def test_podman_goes_on_to_the_registry_when_the_mirror_is_gone(
    *,
    start: Start[OwnPodman],
    mirror: Mirror,
    upstreams: Upstreams,
    seed: Seed,
    loop_thread: LoopThread,
    plain_registry: Registry,
) -> None:
    podman = start(OwnPodman)
    direct = CountingProxy(loop_thread, free_port(), plain_registry.url)
    direct.start()
    server = ("--server", f"docker.io={direct.url}")
    client_config(mirror, "podman", "--install", "--user", *server, home=podman.home)
    mirror.kill()

    image = seed.images[names.HELLO]
    assert image.digest in podman.pull(image)
    assert direct.object_gets()
    assert upstreams.plain.records == []
    direct.stop()


@pytest.mark.parametrize("command", [("true",), ("containerd", "config", "default")])
def test_containerd_reads_what_was_added_to_its_configuration(
    command: tuple[str, ...], mirror: Mirror, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    file = root / "etc/containerd/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(run(*command), encoding="utf-8")
    before = tree(root)

    client_config(mirror, "containerd", "--install", "--root", root)
    # Merged with the defaults of all plug-ins.
    told = run("containerd", "--config", file, "config", "dump")
    assert 'config_path = "/etc/containerd/certs.d"' in told
    assert (file.parent / "certs.d/docker.io/hosts.toml").exists()

    client_config(mirror, "containerd", "--undo", "--root", root)
    assert tree(root) == before
