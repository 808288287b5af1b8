"""Debian's docker-registry (distribution 2.8), with or without tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .daemon import Daemon, answers
from .token_server import ISSUER, SERVICE


class Registry:
    """One registry process over a directory of its own."""

    def __init__(self, work: Path, storage: Path, port: int) -> None:
        self.storage = storage
        self.port = port
        self._work = work
        self._settings = _settings(storage, port)
        self._daemon: Daemon | None = None

    @property
    def url(self) -> str:
        """Where the registry listens."""
        return f"http://127.0.0.1:{self.port}"

    def require_tokens(self, realm: str, certificate: Path) -> None:
        """Let nobody in without a token of that realm."""
        self._settings["auth"] = {
            "token": {
                "realm": realm,
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(certificate),
            }
        }

    def proxy(self, upstream: str) -> None:
        """Be a pull-through cache of another registry."""
        self._settings["proxy"] = {"remoteurl": upstream}

    def forbid_writes(self) -> None:
        """Keep the directory as it is."""
        self._settings["storage"]["maintenance"]["readonly"] = {"enabled": True}

    def start(self) -> None:
        """Start and wait for the port."""
        self._work.mkdir(parents=True, exist_ok=True)
        config = self._work / "registry.yml"
        config.write_text(yaml.safe_dump(self._settings), encoding="utf-8")
        self._daemon = Daemon(
            "docker-registry", ["docker-registry", "serve", config], self._work / "registry.log"
        )
        self._daemon.wait_until(lambda: answers(self.port))

    def stop(self) -> None:
        """Stop; harmless when stopped."""
        if self._daemon is not None:
            self._daemon.stop()
            self._daemon = None

    def blob_file(self, digest: str) -> Path:
        """Return the file that holds a blob."""
        algorithm, _, value = digest.partition(":")
        blobs = self.storage / "docker" / "registry" / "v2" / "blobs"
        return blobs / algorithm / value[:2] / value / "data"


def _settings(storage: Path, port: int) -> dict[str, Any]:
    return {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(storage), "maxthreads": 100},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": f"127.0.0.1:{port}", "secret": "e2e"},
    }
