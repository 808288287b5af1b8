"""The town of these tests: registries, counting proxies, mirrors and clients."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .clients import Client
from .counting import CountingProxy
from .daemon import Daemon, free_port
from .loop_thread import LoopThread
from .mirror_process import Mirror
from .registry import Registry
from .seed import Seed, seeded
from .token_server import PASSWORD, USER, Key, TokenServer

TOOLS = (
    "docker-registry",
    "containerd",
    "ctr",
    "runc",
    "dockerd",
    "docker",
    "podman",
    "buildah",
    "debootstrap",
    "promtool",
    "skopeo",
    "busybox",
    "openssl",
    "chromium",
)
StartMirror = Callable[..., Mirror]
StartClient = Callable[[type[Client], Mirror], Client]


def pytest_sessionstart() -> None:
    # A CI that gives up sends SIGTERM: end as on Ctrl-C, so that no daemon is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0:
        pytest.exit("tests/e2e starts container daemons: run it as root", returncode=2)
    if missing:
        todo = "run tests/e2e/install as root"
        pytest.exit(f"tests/e2e needs {', '.join(missing)}: {todo}", returncode=2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for daemon in Daemon.running:
            if tail := daemon.tail():
                report.sections.append((f"end of {daemon.log}", tail))
    return report


def cache_directory() -> Path:
    """Return where the images are kept across runs."""
    named = os.environ.get("MIRROR_E2E_CACHE")
    xdg = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(xdg) / "mirror-e2e"


def tool(name: str) -> Path:
    """Return a program that tests/e2e/install built."""
    path = cache_directory() / "bin" / name
    if not path.exists():
        pytest.fail(f"{path} is not there: run tests/e2e/install as root")
    return path


@pytest.fixture(scope="session")
def seed() -> Seed:
    return seeded(cache_directory())


@pytest.fixture(scope="session")
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture(scope="session")
def plain_registry(seed: Seed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    registry = Registry(tmp_path_factory.mktemp("plain"), seed.storage("docker.io"), free_port())
    registry.forbid_writes()
    registry.start()
    yield registry
    registry.stop()


@pytest.fixture(scope="session")
def other_registry(seed: Seed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    registry = Registry(tmp_path_factory.mktemp("other"), seed.storage("ghcr.io"), free_port())
    registry.forbid_writes()
    registry.start()
    yield registry
    registry.stop()


@pytest.fixture(scope="session")
def token_server(loop_thread: LoopThread) -> Iterator[TokenServer]:
    server = TokenServer(loop_thread, free_port(), Key())
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def token_registry(
    seed: Seed, token_server: TokenServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    work = tmp_path_factory.mktemp("token")
    token_server.key.write_certificate(work / "token.pem")
    registry = Registry(work, seed.storage("private.example"), free_port())
    registry.require_tokens(token_server.realm, work / "token.pem")
    registry.forbid_writes()
    registry.start()
    yield registry
    registry.stop()


@dataclass(frozen=True)
class Upstreams:
    """The counting proxies before the registries, and how to name them to a mirror."""

    plain: CountingProxy
    token: CountingProxy
    password_file: Path

    def settings(self) -> dict[str, Any]:
        """Return the ``upstreams`` section of a mirror's configuration."""
        return {
            "docker.io": {"endpoints": [self.plain.url]},
            "private.example": {
                "endpoints": [self.token.url],
                "credentials": {"username": USER, "password_file": str(self.password_file)},
                "realms": ["127.0.0.1"],
            },
        }

    def stop(self) -> None:
        """Refuse all connections from now on."""
        self.plain.stop()
        self.token.stop()


@pytest.fixture
def upstreams(
    loop_thread: LoopThread, plain_registry: Registry, token_registry: Registry, tmp_path: Path
) -> Iterator[Upstreams]:
    password = tmp_path / "password"
    password.write_text(PASSWORD, encoding="utf-8")
    password.chmod(0o600)
    plain, token = (
        CountingProxy(loop_thread, free_port(), registry.url)
        for registry in (plain_registry, token_registry)
    )
    plain.start()
    token.start()
    town = Upstreams(plain, token, password)
    yield town
    town.stop()


@pytest.fixture
def other(loop_thread: LoopThread, other_registry: Registry) -> Iterator[CountingProxy]:
    proxy = CountingProxy(loop_thread, free_port(), other_registry.url)
    proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture
def start_mirror(tmp_path: Path) -> Iterator[StartMirror]:
    mirrors: list[Mirror] = []

    def start(
        upstreams: dict[str, Any],
        more: dict[str, Any] | None = None,
        **settings: Any,  # noqa: ANN401  # YAML is anything
    ) -> Mirror:
        mirror = Mirror(tmp_path / f"mirror-{len(mirrors)}", upstreams, **settings)
        mirror.extend(more or {})
        mirrors.append(mirror)
        mirror.start()
        return mirror

    yield start
    for mirror in reversed(mirrors):
        mirror.discard()


@pytest.fixture
def mirror(start_mirror: StartMirror, upstreams: Upstreams) -> Mirror:
    return start_mirror(upstreams.settings())


@pytest.fixture
def start_client() -> Iterator[StartClient]:
    # The path of a Unix socket has 107 characters at most, so not below tmp_path.
    with tempfile.TemporaryDirectory(prefix="e2e-") as work:
        clients: list[Client] = []

        def start(kind: type[Client], mirror: Mirror) -> Client:
            client = kind(Path(work) / f"{kind.name}-{len(clients)}", mirror.port)
            clients.append(client)
            client.start()
            return client

        yield start
        for client in clients:
            client.stop()
