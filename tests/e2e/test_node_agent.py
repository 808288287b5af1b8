"""A node agent beside a real containerd: while the mirror answers, and only then."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from . import seed as names
from .clients import Containerd, Cri
from .conftest import StartMirror, Upstreams
from .counting import CountingProxy
from .daemon import Daemon, Patience, assert_throughout, eventually, free_port, run
from .loop_thread import LoopThread
from .mirror_process import COMMAND, PROJECT, Mirror
from .registry import Registry
from .seed import Image, Seed

WITHIN_SECONDS = 5
"""How soon a mirror that is gone costs nothing any more, and is used again when it is back."""
NO_PENALTY_SECONDS = 5
"""Of a pull past the mirror; containerd 1.6 would wait 30 s for each object."""


class Node(Cri):
    """containerd with a directory that somebody has filled before: `ctr` and CRI."""

    name = "node"
    direct: str

    def write_hosts(self) -> None:
        hub = self.certs / "docker.io"
        if hub.exists():
            return
        hub.mkdir(parents=True)
        # A person's own file, which leads to the registry of these tests. containerd 1.6 ignores
        # a file without any host.
        text = f'# mine\nserver = "{self.direct}"\n[host."{self.direct}"] # no end of line'
        (hub / "hosts.toml").write_text(text, encoding="utf-8")
        (hub / "hosts.toml").chmod(0o640)
        authority = self.certs / "corp.example" / "ca.crt"
        authority.parent.mkdir()
        authority.write_text("not read here\n", encoding="utf-8")
        (self.certs / "empty").mkdir()

    @property
    def certs(self) -> Path:
        return self._hosts

    def pull_both_ways(self, image: Image) -> float:
        """Pull by CRI and by `ctr`, each from nothing; return the seconds of the slower one."""
        took = []
        for pull in (Cri.pull, Containerd.pull):
            self.wipe()
            begun = time.monotonic()
            assert image.digest in pull(self, image)
            took.append(time.monotonic() - begun)
        return max(took)

    def points_at(self, mirror: Mirror) -> bool:
        text = (self.certs / "docker.io" / "hosts.toml").read_text(encoding="utf-8")
        return mirror.url in text


def state(directory: Path) -> dict[str, tuple[object, ...]]:
    """Return all that one could tell apart below a directory, but the times of directories."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(directory.rglob("*")):
        facts = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        changed = None if path.is_dir() else facts.st_mtime_ns
        owner = (facts.st_mode, facts.st_uid, facts.st_gid)
        found[str(path.relative_to(directory))] = (*owner, content, changed)
    return found


def is_as(directory: Path, before: dict[str, tuple[object, ...]]) -> bool:
    try:
        return state(directory) == before
    except FileNotFoundError:  # it changes while it is looked at
        return False


@pytest.fixture
def direct(loop_thread: LoopThread, plain_registry: Registry) -> Iterator[CountingProxy]:
    """The registry itself, as a node reaches it without the mirror."""
    proxy = CountingProxy(loop_thread, free_port(), plain_registry.url)
    proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture
def node(direct: CountingProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    # The path of a Unix socket has 107 characters at most.
    work = Path("/tmp") / f"e2e-node-{free_port()}"  # noqa: S108 -- ours alone, by its port
    client = Node(work, 0)
    client.direct = direct.url
    client.start()
    yield client
    client.stop()
    shutil.rmtree(work)


Agent = Callable[..., Daemon]


@pytest.fixture
def agent(node: Node, tmp_path: Path) -> Iterator[Agent]:
    with ExitStack() as running:

        def start(mirror: Mirror, *options: str) -> Daemon:
            told = ("--config", str(mirror.config), "--mirror", mirror.url, *options)
            where = ("--certs-dir", str(node.certs), "--registry", "docker.io")
            # As in its Pod: root, who may do nothing but write to what belongs to root.
            bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
            command = [*bare, *COMMAND, "node-agent", *told, *where]
            daemon = Daemon("agent", command, tmp_path / "agent.log", directory=PROJECT)
            running.callback(lambda: daemon in Daemon.running and daemon.stop())
            return daemon

        yield start


@pytest.fixture
def after() -> Iterator[ExitStack]:
    """What is undone after the test, whatever becomes of it."""
    with ExitStack() as stack:
        yield stack


def killed(mirror: Mirror, _after: ExitStack) -> Callable[[], None]:
    """The process is gone: connections are refused."""
    mirror.kill()
    return mirror.start


def stopped(mirror: Mirror, after: ExitStack) -> Callable[[], None]:
    """The process hangs: connections are accepted, and nothing is ever said."""
    os.kill(mirror.pid, signal.SIGSTOP)
    after.callback(os.kill, mirror.pid, signal.SIGCONT)
    return after.close


def unreachable(mirror: Mirror, after: ExitStack) -> Callable[[], None]:
    """The machine is gone: nobody even refuses; a full queue drops what comes, as that does."""
    mirror.kill()
    listener = after.enter_context(socket.create_server(("127.0.0.1", mirror.port), backlog=0))
    for _ in range(3):
        caller = after.enter_context(socket.socket())
        caller.settimeout(0)
        caller.connect_ex(listener.getsockname())

    def back() -> None:
        after.close()
        mirror.start()

    return back


@pytest.mark.parametrize("trouble", [killed, stopped, unreachable])
def test_a_dead_mirror_costs_nothing_and_nothing_is_left_behind(
    *,
    trouble: Callable[[Mirror, ExitStack], Callable[[], None]],
    after: ExitStack,
    node: Node,
    agent: Agent,
    direct: CountingProxy,
    upstreams: Upstreams,
    start_mirror: StartMirror,
    seed: Seed,
) -> None:
    before = state(node.certs)
    mirror = start_mirror(upstreams.settings())
    daemon = agent(mirror)
    daemon.wait_until(lambda: node.points_at(mirror))

    node.pull_both_ways(seed.images[names.HELLO])
    assert direct.records == []
    assert upstreams.plain.object_gets()

    revive = trouble(mirror, after)
    within(lambda: is_as(node.certs, before), "the mirror is withdrawn")
    took = node.pull_both_ways(seed.images[names.MULTI])
    assert took < NO_PENALTY_SECONDS
    assert direct.object_gets()

    revive()
    within(lambda: node.points_at(mirror), "the mirror is used again")
    direct.forget()
    node.pull_both_ways(seed.images[names.DOCKER_LIST])
    assert direct.records == []

    assert daemon.stop() == 0
    assert state(node.certs) == before
    print(f"{trouble.__name__}: a pull past the mirror took {took:.2f} s")


def within(condition: Callable[[], bool], what: str) -> None:
    begun = time.monotonic()
    eventually(condition, what, seconds=WITHIN_SECONDS)
    print(f"{what} after {time.monotonic() - begun:.2f} s")


def test_without_the_agent_a_mirror_that_is_gone_is_waited_for(
    *,
    node: Node,
    start_mirror: StartMirror,
    upstreams: Upstreams,
    seed: Seed,
    agent: Agent,
    after: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What the test above would show if the agent did nothing: that it can fail.
    mirror = start_mirror(upstreams.settings())
    daemon = agent(mirror)
    daemon.wait_until(lambda: node.points_at(mirror))
    daemon.kill()
    unreachable(mirror, after)
    monkeypatch.setattr(Patience, "seconds", 2.0 * NO_PENALTY_SECONDS)

    with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
        Cri.pull(node, seed.images[names.HELLO])


def test_what_a_killed_agent_has_left_is_cleaned_up(
    node: Node, start_mirror: StartMirror, upstreams: Upstreams, agent: Agent
) -> None:
    before = state(node.certs)
    mirror = start_mirror(upstreams.settings())
    daemon = agent(mirror, "--catch-all")
    daemon.wait_until((node.certs / "_default" / "hosts.toml").exists)
    daemon.kill()
    assert node.points_at(mirror)

    agent(mirror, "--uninstall")
    eventually(lambda: is_as(node.certs, before), "the directory is as it was")
    assert state(node.certs) == before


def test_an_agent_that_finds_the_mirror_dead_takes_back_what_another_has_left(
    node: Node, start_mirror: StartMirror, upstreams: Upstreams, agent: Agent
) -> None:
    before = state(node.certs)
    mirror = start_mirror(upstreams.settings())
    daemon = agent(mirror)
    daemon.wait_until(lambda: node.points_at(mirror))
    daemon.kill()
    mirror.kill()

    agent(mirror)
    eventually(lambda: is_as(node.certs, before), "it is withdrawn")
    assert state(node.certs) == before


def test_in_an_air_gap_the_mirror_stays_the_only_way(
    node: Node,
    start_mirror: StartMirror,
    upstreams: Upstreams,
    agent: Agent,
    direct: CountingProxy,
    seed: Seed,
) -> None:
    before = state(node.certs)
    mirror = start_mirror(upstreams.settings())
    daemon = agent(mirror, "--air-gap")
    daemon.wait_until(lambda: node.points_at(mirror))
    node.pull_both_ways(seed.images[names.HELLO])
    mirror.kill()
    assert_throughout(lambda: node.points_at(mirror), "it is withdrawn", seconds=WITHIN_SECONDS)
    with pytest.raises(grpc.RpcError):
        Cri.pull(node, seed.images[names.MULTI])
    assert direct.records == []
    assert daemon.stop() == 0
    assert state(node.certs) == before


def test_over_tls_the_node_trusts_the_authority_that_it_is_told_of(
    *,
    node: Node,
    start_mirror: StartMirror,
    upstreams: Upstreams,
    agent: Agent,
    direct: CountingProxy,
    seed: Seed,
    tmp_path: Path,
) -> None:
    certificate, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=mirror")
    address = ("-addext", "subjectAltName=IP:127.0.0.1")
    run("openssl", *new, *address, "-keyout", key, "-out", certificate)
    mirror = start_mirror(upstreams.settings())
    mirror.stop()
    mirror.configure(
        server={
            "listen": f"127.0.0.1:{mirror.port}",
            "admin_listen": f"127.0.0.1:{mirror._admin_port}",
            "tls": {"certificate": str(certificate), "key": str(key)},
        }
    )
    mirror.start()
    mirror.url = mirror.url.replace("http:", "https:")

    daemon = agent(mirror, "--ca", str(certificate))
    daemon.wait_until(lambda: node.points_at(mirror))
    node.pull_both_ways(seed.images[names.HELLO])
    assert direct.records == []
    assert upstreams.plain.object_gets()
