"""The mirror as an operator runs it: a configuration file and a process."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from . import oci
from .daemon import Daemon, free_port

PROJECT = Path(__file__).parents[2]
# Another build of the mirror may be tested: an installed one, one in a container.
COMMAND = shlex.split(os.environ.get("MIRROR_E2E_COMMAND", f"{sys.executable} -m mirror"))


class Mirror:
    """One mirror process, its directory and its two addresses."""

    def __init__(self, work: Path, upstreams: Mapping[str, Any], **settings: Any) -> None:  # noqa: ANN401  # YAML is anything
        self.port, self._admin_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_url = f"http://127.0.0.1:{self._admin_port}"
        self.cache = work / "cache"
        self.command = COMMAND
        self.config = work / "mirror.yaml"
        self._work = work
        self.wrapper: tuple[str, ...] = ()
        """What runs the command, such as ``fiu-run``; it must become the mirror by exec."""
        self._daemon: Daemon | None = None
        self._settings = {
            "server": {
                "listen": f"127.0.0.1:{self.port}",
                "admin_listen": f"127.0.0.1:{self._admin_port}",
                "shutdown_grace": "5s",
            },
            "cache": {"directory": str(self.cache), "max_size": "20GiB", "min_free": "1%"},
            "builtin_upstreams": False,
            "default_upstream": "docker.io",
            "upstreams": dict(upstreams),
            "log": {"format": "json", "level": "info"},
            **settings,
        }

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration, as it was given."""
        return self._settings

    def configure(self, **settings: Any) -> None:  # noqa: ANN401  # YAML is anything
        """Set sections of the configuration, for the next start."""
        self._settings |= settings

    def extend(self, sections: Mapping[str, Any]) -> None:
        """Set keys of sections, beside those that are there."""
        for name, keys in sections.items():
            self._settings[name] = {**self._settings.get(name, {}), **keys}

    def start(self) -> None:
        """Start and wait until the mirror says that it is ready."""
        self.spawn().wait_until(self._is_ready)

    def spawn(self) -> Daemon:
        """Start and wait for nothing."""
        self._work.mkdir(parents=True, exist_ok=True)
        self.config.write_text(yaml.safe_dump(self._settings), encoding="utf-8")
        log = self._work / "mirror.log"
        command = [*self.wrapper, *self.command, "serve", "--config", str(self.config)]
        self._daemon = Daemon("mirror", command, log, directory=PROJECT)
        return self._daemon

    @property
    def pid(self) -> int:
        """The process."""
        assert self._daemon is not None
        return self._daemon.pid

    def stop(self) -> None:
        """Stop by SIGTERM, which must end the mirror in order."""
        if self._daemon is not None:
            daemon, self._daemon = self._daemon, None
            code = daemon.stop()
            assert code == 0, f"mirror ended with {code}:\n{daemon.tail()}"

    def kill(self) -> None:
        """End the mirror without a warning."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon = None

    def discard(self) -> None:
        """Stop and free the disk; the log stays."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.cache, ignore_errors=True)

    def get(self, path: str, **headers: str) -> oci.Answer:
        """Ask the registry listener, as no client in particular."""
        return oci.request(self.url + path, headers={"Accept": oci.ANY_MANIFEST, **headers})

    def blob_file(self, digest: str) -> Path:
        """Return where the cache keeps a blob."""
        algorithm, _, value = digest.partition(":")
        return self.cache / "blobs" / algorithm / value[:2] / value

    def log_text(self) -> str:
        """Return everything that the mirror said."""
        return (self._work / "mirror.log").read_text(encoding="utf-8")

    def until_logged(self, text: str) -> None:
        """Wait until the mirror has said something."""
        assert self._daemon is not None
        self._daemon.wait_until(lambda: text in self.log_text())

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        text = oci.request(f"http://127.0.0.1:{self._admin_port}/metrics").body.decode()
        sample = re.compile(rf"^{name}(?:{{.*}})? ([0-9.e+]+)$", re.MULTILINE)
        return sum(float(value) for value in sample.findall(text))

    def _is_ready(self) -> bool:
        try:
            answer = oci.request(f"http://127.0.0.1:{self._admin_port}/readyz")
        except OSError:
            return False
        return answer.status == 200
