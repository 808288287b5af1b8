"""``mirror doctor`` as an operator runs it, and as ``helm test`` does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry

from .conftest import StartMirror
from .daemon import plain_environment
from .loop_thread import LoopThread
from .mirror_process import COMMAND, PROJECT, Mirror
from .test_chart import kind, rendered

IMAGE = "docker.io/library/tiny:v1"


@pytest.fixture
def registry(loop_thread: LoopThread) -> Iterator[FakeRegistry]:
    async def begun() -> FakeRegistry:
        fake = FakeRegistry()
        fake.push("library/tiny", image(), tags=["v1"])
        await fake.come_up()
        return fake

    fake = loop_thread.run(begun())
    yield fake
    loop_thread.run(fake.close())


def doctor(*arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Run it; return its exit code and its findings by group and name."""
    done = subprocess.run(
        [*COMMAND, "doctor", "-o", "json", *arguments],
        cwd=PROJECT,
        env=plain_environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert not done.stderr, done.stderr
    found = json.loads(done.stdout)["checks"]
    return done.returncode, {f"{each['group']}/{each['name']}": each for each in found}


def test_a_mirror_that_runs_that_hangs_and_that_is_stopped(
    start_mirror: StartMirror, registry: FakeRegistry
) -> None:
    mirror = start_mirror({"docker.io": {"endpoints": [registry.url]}})
    arguments = ("--config", str(mirror.config), "--image", IMAGE)

    code, found = doctor(*arguments)
    assert code == 0, found
    assert found["the mirror/pull"]["state"] == "ok"
    assert found["this machine/port"]["found"].endswith("held by the running mirror")

    os.kill(mirror.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        code, found = doctor(*arguments)
        assert time.monotonic() - started < 15
    finally:
        os.kill(mirror.pid, signal.SIGCONT)
    assert code == 1
    assert found["this machine/directory"]["found"].endswith("in use by a running mirror")
    assert found["the mirror/pull"]["state"] == "skipped"

    mirror.stop()
    code, found = doctor(*arguments)
    assert code == 0, found
    assert found["the mirror/ready"]["state"] == "skipped"
    mirror.start()  # nothing that the doctor did is in its way


def test_it_ends_in_time_when_everything_hangs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
        port = silent.getsockname()[1]
        endpoint = f"http://127.0.0.1:{port}"
        upstreams = {f"r{number}.example": {"endpoints": [endpoint]} for number in range(8)}
        configuration = {
            "server": {"listen": f"127.0.0.1:{port}", "admin_listen": f"127.0.0.2:{port}"},
            "cache": {"directory": str(tmp_path / "cache"), "max_size": "1GiB"},
            "builtin_upstreams": False,
            "upstreams": upstreams | {"tls.example": {"endpoints": [f"https://127.0.0.1:{port}"]}},
            "default_upstream": "tls.example",
        }
        path = tmp_path / "mirror.yaml"
        path.write_text(yaml.safe_dump(configuration))
        started = time.monotonic()
        code, found = doctor("--config", str(path))
        seconds = time.monotonic() - started
    assert code == 1
    assert seconds < 15, seconds
    assert {key for key, each in found.items() if each["state"] == "failed"} == {
        "this machine/port",
        "upstream tls.example/tls",
        *(f"upstream {name}/answer" for name in upstreams),
    }


def test_helm_test(tmp_path: Path, start_mirror: StartMirror, registry: FakeRegistry) -> None:
    mirror = start_mirror({"docker.io": {"endpoints": [registry.url]}})
    code, found = doctor(*pod_arguments(tmp_path, mirror, {"image": IMAGE}))
    assert code == 0, found
    assert {key: each["state"] for key, each in found.items()} == {
        "configuration/configuration": "ok",
        "the mirror/registry": "ok",
        "the mirror/ready": "ok",
        "the mirror/pull": "ok",
    }
    mirror.stop()
    code, found = doctor(*pod_arguments(tmp_path, mirror, {"pull": False}))
    assert code == 1
    assert "the mirror/pull" not in found
    assert found["the mirror/ready"]["state"] == "failed"


def pod_arguments(folder: Path, mirror: Mirror, test: dict[str, Any]) -> list[str]:
    """Return what the chart's test Pod runs, with the addresses of a mirror that is here."""
    (pod,) = kind(rendered({"test": test}, folder), "Pod")
    (container,) = pod["spec"]["containers"]
    command, *rest = container["args"]
    arguments: list[str] = rest
    assert command == "doctor"
    here = {
        "http://mirror:5000": mirror.url,
        "http://mirror-admin:5001": mirror.admin_url,
        "/etc/mirror/mirror.yaml": str(mirror.config),
    }
    for there, instead in here.items():
        assert any(each.endswith(f"={there}") for each in arguments)
        arguments = [each.replace(f"={there}", f"={instead}") for each in arguments]
    return arguments
