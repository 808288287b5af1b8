"""What stands between clients and upstream: our mirror, or docker-registry as a proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest

from tests.e2e.clients import CLIENTS, REGISTRIES, Client, ContainersImage
from tests.e2e.daemon import free_port
from tests.e2e.mirror_process import Mirror
from tests.e2e.registry import Registry


class Target(Protocol):
    """One of them."""

    name: str
    port: int
    clients: tuple[type[Client], ...]
    is_measured: bool
    """Whether seconds count: then clients pull one after the other."""

    def start(self, endpoint: str) -> bool:
        """Start with an upstream; returns whether it does."""

    def stop(self) -> None:
        """Stop; the cache stays."""


class Ours:
    """The mirror; tags are asked for at each pull, the hardest case."""

    name = "Mirror"
    clients = CLIENTS
    is_measured = True

    def __init__(self, work: Path) -> None:
        self._mirror = Mirror(work, {}, policy={"tag_ttl": "0s"})
        self.port = self._mirror.port

    def start(self, endpoint: str) -> bool:
        """Start with an upstream."""
        upstream = {"endpoints": [endpoint], "redirects": ["127.0.0.0/8"]}  # of the town's CDN
        self._mirror.configure(upstreams={"docker.io": upstream})
        self._mirror.start()
        return True

    def stop(self) -> None:
        """Stop in order."""
        self._mirror.stop()


class Theirs:
    """Debian's docker-registry as a pull-through cache."""

    name = "docker-registry"
    is_measured = False

    def __init__(self, work: Path) -> None:
        self._work = work
        self.port = free_port()
        self._registry: Registry | None = None
        self.clients = tuple(plain(kind) for kind in CLIENTS)

    def start(self, endpoint: str) -> bool:
        """Start with an upstream; it does not without one (trap 21)."""
        self._registry = Registry(self._work, self._work / "storage", self.port)
        self._registry.proxy(endpoint)
        try:
            self._registry.start()
        except pytest.fail.Exception:
            self._registry = None
        return self._registry is not None

    def stop(self) -> None:
        """Stop."""
        if self._registry is not None:
            self._registry.stop()


def plain(kind: type[Client]) -> type[Client]:
    """Return a client for a mirror that knows one registry, and no prefix for it."""
    if not issubclass(kind, ContainersImage):
        return kind

    class Plain(kind):  # type: ignore[valid-type, misc] # made of a class that is a value
        def start(self) -> None:
            super().start()
            prefixes = {name: f'location = "{self._mirror}/{name}"' for name in REGISTRIES}
            text = self._conf.read_text(encoding="utf-8")
            for line in prefixes.values():
                text = text.replace(line, f'location = "{self._mirror}"')
            self._conf.write_text(text, encoding="utf-8")

    Plain.name = kind.name
    return Plain
