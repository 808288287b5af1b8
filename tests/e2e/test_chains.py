"""Caches behind caches: ours and docker-registry in every order, cold and warm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from . import seed as names
from .clients import Containerd
from .conftest import StartClient, StartMirror, Upstreams
from .daemon import free_port
from .mirror_process import Mirror
from .registry import Registry
from .seed import Seed


@pytest.fixture
def other_cache(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path / "other", tmp_path / "other-storage", free_port())
    yield registry
    registry.stop()


@pytest.mark.parametrize("chain", ["ours, ours", "ours, docker-registry", "docker-registry, ours"])
def test_a_chain_serves_cold_and_warm(
    chain: str,
    start_mirror: StartMirror,
    other_cache: Registry,
    upstreams: Upstreams,
    seed: Seed,
    start_client: StartClient,
) -> None:
    front: Mirror | Registry
    if chain == "docker-registry, ours":
        behind = start_mirror(upstreams.settings())
        other_cache.proxy(behind.url)
        other_cache.start()
        front = other_cache
    elif chain == "ours, docker-registry":
        other_cache.proxy(upstreams.plain.url)
        other_cache.start()
        front = start_mirror({"docker.io": {"endpoints": [other_cache.url]}})
    else:
        behind = start_mirror(upstreams.settings())
        front = start_mirror({"docker.io": {"endpoints": [behind.url]}})
    client = start_client(Containerd, front)  # type: ignore[arg-type] # it asks for the port only

    for reference in (names.HELLO, names.MANY_LAYERS):
        image = seed.images[reference]
        assert image.digest in client.pull(image), "cold"
    if not chain.endswith("docker-registry"):  # that one fetches each blob twice
        blobs = [path for path in upstreams.plain.object_gets() if "/blobs/" in path]
        assert len(blobs) == len(set(blobs)), "each blob once"

    client.wipe()
    upstreams.stop()
    for reference in (names.HELLO, names.MANY_LAYERS):
        image = seed.images[reference]
        assert image.digest in client.pull(image), "warm, with nobody behind"
