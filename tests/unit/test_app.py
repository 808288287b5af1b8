"""The process as an operator meets it: start, ready, stop, and what it says when it cannot."""

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from mirror import app
from mirror.app import running
from mirror.settings import ListenAddress, Server
from mirror.store.store import Store
from mirror.web.banner import banner
from mirror.web.listening import ListenError, listen
from tests.fakes.content import blob
from tests.fakes.registry import FakeRegistry
from tests.harness import ANY_PORT, MIB, Mirror, mirror_of, settings

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Process:
    """``python -m mirror serve`` with a configuration file."""

    def __init__(self, directory: Path, upstream: str, **server: object) -> None:
        self.port, self.admin_port = free_port(), free_port()
        self.config = directory / "mirror.yaml"
        listeners = {
            "listen": f"127.0.0.1:{self.port}",
            "admin_listen": f"127.0.0.1:{self.admin_port}",
        }
        self.config.write_text(
            yaml.safe_dump(
                {
                    "server": {**listeners, "shutdown_grace": "10s", **server},
                    "cache": {"directory": str(directory / "cache"), "min_free": 0},
                    "builtin_upstreams": False,
                    "upstreams": {"docker.io": {"endpoints": [upstream]}},
                }
            ),
            encoding="utf-8",
        )

    @asynccontextmanager
    async def run(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """Start it; it is ended when the context ends."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mirror", "serve", "--config", str(self.config)),
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if "MIRROR" not in name},
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()

    async def ready(self, session: aiohttp.ClientSession) -> None:
        """Wait until ``/readyz`` says 200."""
        async with asyncio.timeout(20):
            while True:
                try:
                    async with session.get(f"http://127.0.0.1:{self.admin_port}/readyz") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0)


async def test_sigterm_lets_a_running_download_finish(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    pushed = blob(8 * MIB)
    upstream.push_blob("library/alpine", pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=4 * MIB)
    mirror = Process(tmp_path, upstream.url)
    url = f"http://127.0.0.1:{mirror.port}/v2/library/alpine/blobs/{pushed.digest}"
    async with mirror.run() as process, aiohttp.ClientSession() as session:
        await mirror.ready(session)
        async with session.get(url) as response:
            await gate.reached.wait()
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            async for line in process.stderr:
                if b'"stopping"' in line:
                    break
            gate.release()
            assert await response.read() == pushed.content
        await process.communicate()
        assert process.returncode == 0


async def test_it_starts_and_is_ready_without_any_network(tmp_path: Path) -> None:
    """Trap 21: distribution's proxy does not start while its upstream is away."""
    mirror = Process(tmp_path, "http://127.0.0.1:1")
    async with mirror.run() as process, aiohttp.ClientSession() as session:
        await mirror.ready(session)
        process.terminate()
        await process.communicate()
        assert process.returncode == 0


async def test_a_port_in_use_is_said_without_a_traceback(tmp_path: Path) -> None:
    mirror = Process(tmp_path, "http://127.0.0.1:1")
    with socket.create_server(("127.0.0.1", mirror.port)):
        async with mirror.run() as process:
            _, stderr = await process.communicate()

    assert process.returncode == 1
    assert f"port {mirror.port} is in use".encode() in stderr
    assert b"make run PORT=" in stderr
    assert b"Traceback" not in stderr


async def test_a_later_cache_directory_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "VERSION").write_text("99\n", encoding="ascii")
    async with Process(tmp_path, "http://127.0.0.1:1").run() as process:
        _, stderr = await process.communicate()

    assert process.returncode == 1
    assert b"another directory" in stderr
    assert b"Traceback" not in stderr


async def test_readiness_says_why_not(mirror: Mirror) -> None:
    async def readyz() -> tuple[int, str]:
        async with mirror.session.get(mirror.admin_url + "/readyz") as response:
            return response.status, await response.text()

    assert await readyz() == (200, "ok\n")
    mirror.up.health.draining = True
    status, text = await readyz()
    assert status == 503
    assert "shutting down" in text
    async with mirror.session.get(mirror.admin_url + "/livez") as response:
        assert response.status == 200


async def test_each_listener_has_its_own_routes(mirror: Mirror) -> None:
    async with mirror.session.get(mirror.admin_url + "/v2/") as response:
        assert response.status == 404
    assert (await mirror.get("/metrics")).status == 404


async def test_a_stop_with_downloads_leaves_what_can_go_on_and_no_task(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    pushed = blob(4 * MIB)
    upstream.push_blob("library/alpine", pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=MIB)
    before = asyncio.all_tasks()
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        url = f"{mirror.url}/v2/library/alpine/blobs/{pushed.digest}"
        async with mirror.session.get(url) as response:
            await gate.reached.wait()
            response.close()
    await asyncio.sleep(0)

    names = sorted(path.name for path in (tmp_path / "cache" / "partial").iterdir())
    assert len(names) == 2
    assert names[1] == f"{names[0]}.json"
    ours = [task for task in asyncio.all_tasks() - before if "fill" in task.get_name()]
    assert ours == []


async def test_two_mirrors_do_not_share_a_directory(tmp_path: Path, upstream: FakeRegistry) -> None:
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}):
        with pytest.raises(Exception, match="another mirror"):
            async with running(settings(tmp_path / "cache", {"docker.io": upstream})):
                pass


@pytest.mark.parametrize(
    ("host", "shown"),
    [("", "127.0.0.1:5000"), ("::1", "[::1]:5000"), ("10.1.2.3", "10.1.2.3:5000")],
)
def test_the_banner_names_an_address_that_works(host: str, shown: str) -> None:
    text = banner(ListenAddress(host, 5000), ListenAddress("127.0.0.1", 5001), ["docker.io"])

    assert f"http://{shown}/v2/" in text
    assert "registry-mirrors" in text
    assert "hosts.toml" in text


def test_the_banner_knows_of_tls() -> None:
    one, two = ListenAddress("127.0.0.1", 5000), ListenAddress("127.0.0.1", 5001)
    text = banner(one, two, ["docker.io"], tls=True, admin_tls=True)
    assert "https://127.0.0.1:5000/v2/" in text
    assert "https://127.0.0.1:5001/metrics" in text
    assert "http://" not in text
    assert "insecure" not in text


def test_an_address_that_is_not_ours_is_explained() -> None:
    with pytest.raises(ListenError, match=r"server\.listen"):
        listen(ListenAddress("192.0.2.1", 0), "server.listen")
    with listen(ListenAddress("", 0), "server.listen") as sock:
        assert sock.getsockname()[1]


async def test_nobody_is_let_wait_while_the_index_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client goes to another mirror if this one refuses it, and waits if it does not answer."""
    port, tried = free_port(), list[int]()
    opened = app._store

    def slow(*args: Any) -> Store:  # noqa: ANN401 -- what it is given goes on
        with socket.socket() as client:
            tried.append(client.connect_ex(("127.0.0.1", port)))
        return opened(*args)

    monkeypatch.setattr(app, "_store", slow)
    listen_at = Server(listen=ListenAddress("127.0.0.1", port), admin_listen=ANY_PORT)
    async with mirror_of(tmp_path, {"docker.io": "http://127.0.0.1:9"}, server=listen_at) as up:
        assert (await up.get("/v2/")).status == 200
    assert tried == [errno.ECONNREFUSED]
