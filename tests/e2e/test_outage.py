"""What was pulled before is pulled again while upstream is away."""

from __future__ import annotations

import time

import pytest

from . import seed as names
from .clients import Client, Containerd, Cri, Docker, Podman, Skopeo
from .conftest import StartClient, StartMirror, Upstreams
from .seed import Seed

PULLS: dict[type[Client], tuple[str, ...]] = {
    Containerd: (names.HELLO, names.MANY_LAYERS, names.SECRET),
    Cri: (names.MULTI,),
    Docker: (names.HELLO,),
    Podman: (names.MULTI,),
    Skopeo: (names.MULTI, names.ZSTD, names.SECRET),
}


@pytest.mark.parametrize("tag_ttl", ["10m", "0s"])
def test_everything_pulled_before_is_there_in_an_outage_and_after_a_restart(
    tag_ttl: str,
    start_mirror: StartMirror,
    upstreams: Upstreams,
    seed: Seed,
    start_client: StartClient,
) -> None:
    mirror = start_mirror(upstreams.settings(), policy={"tag_ttl": tag_ttl})
    clients = {kind: start_client(kind, mirror) for kind in PULLS}

    def pull_everything() -> None:
        for kind, references in PULLS.items():
            for reference in references:
                image = seed.images[reference]
                assert image.digest in clients[kind].pull(image), (kind.name, reference)
            clients[kind].wipe()

    pull_everything()
    upstreams.stop()
    pull_everything()
    mirror.stop()
    mirror.start()
    pull_everything()


def test_what_was_never_pulled_is_trouble_and_not_missing(
    start_mirror: StartMirror, upstreams: Upstreams
) -> None:
    mirror = start_mirror(upstreams.settings())
    upstreams.stop()

    answer = mirror.get("/v2/library/hello/manifests/v1")

    assert answer.status in {502, 504}
    assert answer.json()["errors"]


def test_a_silent_upstream_keeps_nobody_waiting(
    start_mirror: StartMirror, upstreams: Upstreams
) -> None:
    mirror = start_mirror(upstreams.settings(), policy={"tag_ttl": "0s"})
    before = mirror.get("/v2/library/hello/manifests/v1")
    upstreams.plain.silence()

    begun = time.monotonic()
    known = mirror.get("/v2/library/hello/manifests/v1")
    known_seconds = time.monotonic() - begun
    unknown = mirror.get("/v2/team/multi/manifests/v1")
    unknown_seconds = time.monotonic() - begun - known_seconds

    assert (known.status, known.body) == (200, before.body)
    assert known_seconds < 2
    assert unknown.status == 504
    assert unknown_seconds < 10
