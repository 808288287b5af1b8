"""Whole pulls by real clients: an image of forty layers, not cached and cached."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.bench.report import Outcome, Sample
from tests.bench.servers import NGINX, Server
from tests.bench.stage import Stage, Starting, caches
from tests.e2e import oci
from tests.e2e.clients import Client, Containerd, Docker, Skopeo
from tests.e2e.seed import Image
from tests.never_worse.targets import plain

_LAYERS: Final = 40
_LAYER_BYTES: Final = 2_000_000
_CLIENTS: Final = tuple(plain(kind) for kind in (Containerd, Docker, Skopeo))
_NAME: Final = "library/forty"


def pulls(stage: Stage) -> Outcome:
    """Return how long real clients take for an image, with and without it in the cache."""
    image = _pushed(stage)

    def measure(starting: Starting) -> Sample:
        found: dict[str, float] = {}
        for kind in _CLIENTS:
            with starting() as server, _running(kind, stage.directory(), server) as client:
                for state in ("not cached", "cached"):
                    found[f"{kind.name}, {state}, s"] = _seconds(client, image)
                    server.wait_until_quiet()
        return found

    # nginx has no registry API of its own to speak of, and clients want its headers.
    kinds = {name: kind for name, kind in caches(stage).items() if name != NGINX}
    turns = {name: partial(measure, kind) for name, kind in kinds.items()}
    what = f"{_LAYERS} layers of {_LAYER_BYTES / 1e6:.0f} MB, whole pull, real clients"
    return stage.take_turns("pulls", what, turns, rounds=min(3, stage.rounds))


def _pushed(stage: Stage) -> Image:
    repository = oci.Repository(stage.origin.url, _NAME)
    layers = [oci.random_layer(_LAYER_BYTES) for _ in range(_LAYERS)]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [oci.digest_of(layer) for layer in layers]},
    }
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": oci.DOCKER_MANIFEST,
        "config": repository.push_blob(
            "application/vnd.docker.container.image.v1+json", json.dumps(config).encode()
        ),
        "layers": [
            repository.push_blob("application/vnd.docker.image.rootfs.diff.tar", layer)
            for layer in layers
        ],
    }
    pushed = repository.push_manifest("v1", manifest)
    last = manifest["layers"][-1]
    return Image(
        f"docker.io/{_NAME}:v1",
        str(pushed["digest"]),
        oci.DOCKER_MANIFEST,
        str(last["digest"]),
        int(last["size"]),
    )


@contextmanager
def _running(kind: type[Client], work: Path, server: Server) -> Iterator[Client]:
    client = kind(work, server.port)
    client.start()
    try:
        yield client
    finally:
        client.stop()


def _seconds(client: Client, image: Image) -> float:
    """Pull into an empty store; returns how long that took."""
    client.wipe()
    os.sync()  # what the last pull has written is not this one's to wait for
    started = time.perf_counter()
    client.pull(image)
    return time.perf_counter() - started
