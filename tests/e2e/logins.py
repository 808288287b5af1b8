"""The real clients of these tests, with somebody's credential."""

from __future__ import annotations

import json
import subprocess
from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc

from . import protobuf
from .clients import Client, Containerd, Cri, Docker, Podman, Skopeo
from .daemon import CommandError, Patience, plain_environment, run
from .seed import Image


@dataclass(frozen=True)
class Login:
    """A user and a password."""

    user: str
    password: str


def log_in(login: Login, *command: str | Path, environment: dict[str, str]) -> None:
    """Run a client's ``login`` with the password on its standard input."""
    done = subprocess.run(
        [str(part) for part in command],
        input=login.password,
        capture_output=True,
        text=True,
        timeout=Patience.seconds,
        check=False,
        env=plain_environment() | environment,
    )
    if done.returncode != 0:
        raise CommandError(command, done.stdout + done.stderr)


class WithLogin(Client):
    """A client that can show a credential to the mirror."""

    @abstractmethod
    def log_in(self, login: Login) -> None:
        """Show this credential from here on."""


class DockerLogin(Docker, WithLogin):
    """``docker login`` at the mirror, whose name stands in front of the image's."""

    name = "docker-login"

    def log_in(self, login: Login) -> None:
        where = f"--host=unix://{self._socket}"
        how = ("login", "--username", login.user, "--password-stdin", self._mirror)
        environment = {"DOCKER_CONFIG": str(self._work / "docker")}
        log_in(login, "docker", where, *how, environment=environment)

    def pull(self, image: Image) -> set[str]:
        name = f"{self._mirror}/{image.reference}"
        self._docker("pull", name)
        return {found.rpartition("@")[2] for found in json.loads(self._inspect(name))}


class PodmanLogin(Podman, WithLogin):
    """``podman login`` at the mirror, which is used for every registry."""

    name = "podman-login"

    def log_in(self, login: Login) -> None:
        where = ("--tls-verify=false", "--authfile", self._authfile, self._mirror)
        how = ("login", "--username", login.user, "--password-stdin")
        conf = {"CONTAINERS_REGISTRIES_CONF": str(self._conf)}
        log_in(login, "podman", *how, *where, environment=conf)

    @property
    def _authfile(self) -> Path:
        return self._work / "auth.json"

    def _podman(self, *command: str) -> str:
        if command[0] == "pull":
            command = ("pull", "--authfile", str(self._authfile), *command[1:])
        return super()._podman(*command)


class SkopeoCreds(Skopeo, WithLogin):
    """``skopeo copy --src-creds``, which is for the host in the image's name, not for mirrors."""

    name = "skopeo-creds"
    _creds: tuple[str, ...] = ()

    def log_in(self, login: Login) -> None:
        self._creds = (f"--src-creds={login.user}:{login.password}",)

    def pull(self, image: Image) -> set[str]:
        copied = self._work / "digest"
        target = f"oci:{self._store / 'layout'}:x"
        if "docker" in image.media_type:
            target = f"dir:{self._store / 'layout'}"
        how = ("--all", "--preserve-digests", "--src-tls-verify=false", *self._creds)
        source = f"docker://{self._mirror}/{image.reference}"
        run("skopeo", "copy", *how, f"--digestfile={copied}", source, target)
        return {copied.read_text(encoding="utf-8").strip()}


class ContainerdHeader(Containerd, WithLogin):
    """containerd with a header in ``hosts.toml``; the password is a bearer token."""

    name = "containerd-header"
    _token = ""

    def log_in(self, login: Login) -> None:
        self._token = login.password
        for file in self._hosts.glob("*/hosts.toml"):
            file.write_text(self._hosts_toml(), encoding="utf-8")

    def _hosts_toml(self) -> str:
        header = f'  [host."http://{self._mirror}".header]\n    Authorization = "Bearer '
        return super()._hosts_toml() + header + f'{self._token}"\n'


class CriPullSecret(Cri, WithLogin):
    """containerd's CRI with the credential that the kubelet has from an ``imagePullSecret``."""

    name = "cri-pull-secret"
    _auth = b""

    def log_in(self, login: Login) -> None:
        # AuthConfig.username = 1, .password = 2; the kubelet names no server
        user = protobuf.field(1, login.user.encode())
        self._auth = user + protobuf.field(2, login.password.encode())

    def pull(self, image: Image) -> set[str]:
        spec = protobuf.field(1, protobuf.field(1, image.reference.encode()))
        secret = protobuf.field(2, self._auth) if self._auth else b""
        with grpc.insecure_channel(f"unix:{self._socket}") as channel:
            self._call(channel, "PullImage", spec + secret)
            answer = self._call(channel, "ImageStatus", spec)
        names = [name for found in protobuf.read(answer, 1) for name in protobuf.read(found, 3)]
        return {name.decode().rpartition("@")[2] for name in names}

    def _call(self, channel: Any, method: str, message: bytes) -> bytes:  # noqa: ANN401 -- grpc has no types here
        call = channel.unary_unary(
            f"/runtime.v1.ImageService/{method}",
            request_serializer=bytes,
            response_deserializer=bytes,
        )
        answer: bytes = call(message, timeout=Patience.seconds)
        return answer


PINGING: tuple[type[WithLogin], ...] = (DockerLogin, PodmanLogin, SkopeoCreds)
"""They look for a challenge at ``/v2/`` only."""

REFUSED = (CommandError, grpc.RpcError)


def elsewhere(image: Image, upstream: str, repository: str) -> Image:
    """Return an image under another name."""
    return replace(image, reference=f"{upstream}/{repository}:{image.tag}")
