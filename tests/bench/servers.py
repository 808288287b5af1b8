"""The processes that are measured, and what the kernel says of them."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml

from tests.e2e.daemon import Daemon, free_port

MIRROR: Final = "mirror"
REGISTRY: Final = "docker-registry"
_READY: Final = {MIRROR: '"event":"serving"', REGISTRY: "listening on"}
"""What each says when it listens. A port that answers may be somebody else's."""

_PROJECT: Final = Path(__file__).parents[2]
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_QUIET_SECONDS: Final = 0.5
_POLL_SECONDS: Final = 0.05


class Server:
    """One server over a directory of its own; entering starts it, leaving stops it for good."""

    def __init__(
        self, name: str, work: Path, command: list[str], settings: dict[str, Any], port: int
    ) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self._work = work
        self._command = command
        self._settings = settings

    def __enter__(self) -> Self:
        self._work.mkdir(parents=True)
        config = self._work / "config.yml"
        config.write_text(yaml.safe_dump(self._settings), encoding="utf-8")
        command = [*self._command, str(config)]
        log = self._work / "log"
        self._daemon = Daemon(self.name, command, log, directory=_PROJECT)
        self._daemon.wait_until(lambda: _READY[self.name] in log.read_text(encoding="utf-8"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._daemon.stop()
        shutil.rmtree(self._work)

    def cpu_seconds(self) -> float:
        """Return the CPU time of the process so far, user and system; 10 ms is the grain."""
        fields = self._proc("stat").rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND

    def written_bytes(self) -> int:
        """Return what the process has written so far, to sockets above all."""
        lines = dict(line.split(": ") for line in self._proc("io").splitlines())
        return int(lines["wchar"])

    def wait_until_quiet(self) -> None:
        """Wait until the process has written nothing for half a second."""
        before, since = self.written_bytes(), time.monotonic()
        while time.monotonic() - since < _QUIET_SECONDS:
            time.sleep(_POLL_SECONDS)
            now = self.written_bytes()
            if now != before:
                before, since = now, time.monotonic()

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self._daemon._process.pid}/{name}").read_text(encoding="ascii")


def registry(work: Path, *, upstream: str | None = None) -> Server:
    """Return Debian's docker-registry as Debian sets it up, as a proxy if there is an upstream."""
    port = free_port()
    settings: dict[str, Any] = {
        "version": "0.1",
        "log": {"fields": {"service": "registry"}},
        "storage": {
            "cache": {"blobdescriptor": "inmemory"},
            "filesystem": {"rootdirectory": str(work / "storage")},
            "delete": {"enabled": True},
        },
        "http": {
            "addr": f"127.0.0.1:{port}",
            "secret": "bench",
            "headers": {"X-Content-Type-Options": ["nosniff"]},
        },
    }
    if upstream is not None:
        settings["proxy"] = {"remoteurl": upstream}
    return Server(REGISTRY, work, ["docker-registry", "serve"], settings, port)


def mirror(work: Path, *, upstream: str) -> Server:
    """Return a mirror of one upstream, with the defaults for all that is not the place."""
    port = free_port()
    settings: dict[str, Any] = {
        "server": {
            "listen": f"127.0.0.1:{port}",
            "admin_listen": f"127.0.0.1:{free_port()}",
        },
        "cache": {"directory": str(work / "cache"), "min_free": "1%"},
        "builtin_upstreams": False,
        "upstreams": {"docker.io": {"endpoints": [upstream]}},
    }
    command = [sys.executable, "-m", "mirror", "serve", "--config"]
    return Server(MIRROR, work, command, settings, port)
