"""``mirror node-agent``: how it looks at a mirror, and its options."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from mirror import cli, config
from mirror.cli import node_agent_command as command
from mirror.clients.address import MirrorAddress

HUB = "etc/containerd/certs.d/docker.io/hosts.toml"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "SEARCHED", (Path("mirror.yaml"),))
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for variable in [name for name in os.environ if name.startswith("MIRROR_")]:
        monkeypatch.delenv(variable)
    # A proxy that is not there: it must not be asked.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    return tmp_path


@contextmanager
def answering(status: int, header: str = "registry/2.0") -> Iterator[MirrorAddress]:
    class Answer(BaseHTTPRequestHandler):
        timeout: ClassVar[int] = 5

        def do_GET(self) -> None:
            self.send_response(status if self.path == "/v2/" else 404)
            if header:
                self.send_header("Docker-Distribution-API-Version", header)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield MirrorAddress("http", "127.0.0.1", server.server_port)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "header", "failure"),
    [
        (200, "registry/2.0", None),
        (401, "registry/2.0", None),
        (503, "registry/2.0", "it answers 503"),
        (200, "", "what answers there is no registry"),
    ],
)
def test_it_looks_as_a_client_does(status: int, header: str, failure: str | None) -> None:
    with answering(status, header) as mirror:
        assert command._looker(mirror, None)() == failure


def test_nobody_there_is_of_no_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert command._looker(MirrorAddress("http", "127.0.0.1", port), None)() == "Connection refused"
    assert command._looker(MirrorAddress("https", "127.0.0.1", port), None)() is not None


def test_one_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_LOOK_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        look = command._looker(MirrorAddress("http", *silent.getsockname()), None)
        assert look() == "timed out"


def test_what_was_written_is_taken_back_without_a_mirror(machine: Path) -> None:
    where = ("--root", str(machine))
    assert cli.run(["client-config", "nerdctl", "--install", *where]) == 0
    assert (machine / HUB).exists()
    assert cli.run(["node-agent", "--uninstall", *where]) == 0
    assert list(machine.iterdir()) == []


def test_what_cannot_be_taken_back_is_a_failure(machine: Path) -> None:
    certs = machine / "etc/containerd/certs.d/.mirror"
    certs.mkdir(parents=True)
    (certs / "ledger.json").write_text("{")
    assert cli.run(["node-agent", "--undo", "--root", str(machine)]) == 1


def test_what_is_left_to_whoever_changed_it_is_named(
    machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--root", str(machine))
    assert cli.run(["client-config", "nerdctl", "--install", *where]) == 0
    with (machine / HUB).open("a") as file:
        file.write("# theirs\n")
    capsys.readouterr()
    assert cli.run(["node-agent", "--uninstall", *where]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert f"mirror: /{HUB} was changed since it was written, and is left" in said.err
    assert "--undo --force" in said.err
    assert {path.name for path in (machine / HUB).parents[1].iterdir()} == {".mirror", "docker.io"}


def test_other_clients_are_told_on_request(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    stop.set()  # one look
    monkeypatch.setattr(command, "_stopped", lambda: stop)
    clients = ("--client", "k3s", "--client", "crio")
    with answering(200) as mirror:
        agent = ("node-agent", "--mirror", str(mirror), "--root", str(machine), *clients)
        assert cli.run([*agent, "--keep"]) == 0
        text = (machine / "etc/rancher/k3s/registries.yaml").read_text()
        assert str(mirror) in text
        assert (machine / "etc/containers/registries.conf.d/10-mirror.conf").exists()
        assert cli.run(agent) == 0
    assert list(machine.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--client", "talos"], "cannot be written"),
        (["--every", "soon"], "--every"),
        (["--mirror", "m"], "--mirror"),
        (["--mirror", "https://m", "--ca", "/missing.pem"], "missing.pem: No such file"),
    ],
)
def test_misuse_is_explained(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["node-agent", *options]) == 2
    assert said in capsys.readouterr().err


def test_the_clean_up_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = iter([{"a"}, set[str](), {"a", "b"}, {"a"}, *[{"a", "b"}] * 20])
    monkeypatch.setattr(command, "_addresses", lambda _: next(told))
    monkeypatch.setattr(command, "_PAUSE_SECONDS", 0)
    monkeypatch.setattr(command, "_STEADY_SECONDS", 0)
    assert cli.run(["node-agent", "--wait-for", "all", "ready"]) == 0
    assert capsys.readouterr().out == "2 nodes are as they were before\n"


def test_nodes_that_never_answer_are_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def resolver(name: str, *_: object, **__: object) -> list[object]:
        """The machine's own may take its time to find out that there is no such name."""
        raise socket.gaierror(socket.EAI_NONAME, f"there is no {name}")

    monkeypatch.setattr(command, "_GIVE_UP_SECONDS", 0.01)
    monkeypatch.setattr(command, "_PAUSE_SECONDS", 0)
    assert command._addresses("127.0.0.1") == {"127.0.0.1"}
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    assert cli.run(["node-agent", "--wait-for", "all", "ready.invalid"]) == 1
    assert command._addresses("ready.invalid") == set()
    assert "after 0 s some nodes have not answered" in capsys.readouterr().err
