"""``mirror healthcheck``: what the exit code says, and what is written beside it."""

import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from typer.testing import CliRunner, Result

from mirror import cli, config
from mirror.runtime.certificates import server_context
from tests.fakes.certificates import Authority


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "SEARCHED", (Path("mirror.yaml"),))
    for variable in [name for name in os.environ if name.startswith("MIRROR_")]:
        monkeypatch.delenv(variable)
    # A proxy that is not there: it must not be asked.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    return tmp_path


def healthcheck(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ("healthcheck", *arguments))


@contextmanager
def admin(
    status: int, body: bytes, context: ssl.SSLContext | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Answer every request so; yields the port and the paths asked for."""
    paths: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        timeout: ClassVar[int] = 5

        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port, paths
        server.shutdown()
        thread.join()


def test_it_asks_the_listener_of_the_configuration(directory: Path) -> None:
    with admin(200, b"ok\n") as (port, paths):
        (directory / "mirror.yaml").write_text(f"server: {{admin_listen: '0.0.0.0:{port}'}}\n")
        result = healthcheck()
    assert (result.exit_code, result.stdout, paths) == (0, "ready\n", ["/readyz"])


def test_it_says_what_the_mirror_says(directory: Path) -> None:
    with admin(503, b'{"ready": false, "reasons": ["draining", "read-only"]}') as (port, _):
        (directory / "f.yaml").write_text(f"server: {{admin_listen: '127.0.0.1:{port}'}}\n")
        text, programs = healthcheck("-c", "f.yaml"), healthcheck("-c", "f.yaml", "-o", "json")
    assert (text.exit_code, text.stdout) == (1, "")
    assert text.stderr == "mirror: not ready: draining\nmirror: not ready: read-only\n"
    assert programs.exit_code == 1
    assert json.loads(programs.stdout) == {
        "ready": False,
        "url": f"http://127.0.0.1:{port}/readyz",
        "reasons": ["draining", "read-only"],
    }


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"reasons": 3}', b"\xff"])
def test_whatever_answers_there_it_is_not_ready(body: bytes) -> None:
    with admin(404, body) as (port, paths):
        result = healthcheck("--url", f"http://127.0.0.1:{port}/v2/")
    assert result.exit_code == 1
    assert f"http://127.0.0.1:{port}/v2/ answers 404 Not Found" in result.stderr
    assert paths == ["/v2/"]


def test_nobody_there_is_not_ready() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    result = healthcheck("--url", f"http://127.0.0.1:{port}/readyz")
    assert result.exit_code == 1
    assert "does not answer: Connection refused" in result.stderr


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://127.0.0.1/", "127.0.0.1:5001", "http://", "http://x:y/"),
        *("http://[::1", "http://a..b:1/", "http://a b:1/", "http://127.0.0.1:1/\u00e9"),
    ],
)
def test_another_kind_of_address_is_a_mistake(url: str) -> None:
    assert cli.run(["healthcheck", "--url", url]) == 2


def test_a_wrong_configuration_is_a_mistake(directory: Path) -> None:
    (directory / "mirror.yaml").write_text("server: {admin_liten: x}\n")
    assert healthcheck().exit_code == 2


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of a handshake that the client breaks off
def test_over_tls_it_believes_the_certificate_of_the_configuration_only(directory: Path) -> None:
    authority = Authority(directory)
    ours, others = authority.server("ours"), authority.server("others")
    for shown, code in ((ours, 0), (others, 1)):
        with admin(200, b"ok\n", server_context(shown, "")) as (port, paths):
            (directory / "mirror.yaml").write_text(
                f"server: {{admin_listen: '127.0.0.1:{port}', admin: {{tls: "
                f"{{certificate: {ours.certificate}, key: {ours.key}}}}}}}\n"
            )
            result = healthcheck()
        assert result.exit_code == code, result.output
        assert paths == ["/readyz"] * (1 - code)
    assert "shows another certificate than" in result.stderr
    assert "try again in a few seconds" in result.stderr


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_certificate_of_an_address_is_checked_unless_told_otherwise(directory: Path) -> None:
    tls = server_context(Authority(directory).server(), "")
    with admin(200, b"ok\n", tls) as (port, _):
        url = f"https://127.0.0.1:{port}/readyz"
        strict, lax = healthcheck("--url", url), healthcheck("--url", url, "--insecure")
    assert (strict.exit_code, lax.exit_code) == (1, 0)
    assert "CERTIFICATE_VERIFY_FAILED" in strict.stderr
