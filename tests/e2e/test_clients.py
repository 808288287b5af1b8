"""Every client pulls every kind of image, and the second time upstream rests."""

from __future__ import annotations

from typing import cast

import pytest

from . import seed as names
from .clients import CLIENTS, Client, Containerd, Docker
from .conftest import StartClient, Upstreams
from .mirror_process import Mirror
from .seed import Seed

IMAGES = (names.HELLO, names.MULTI, names.DOCKER_LIST, names.MANY_LAYERS, names.ZSTD)
PULLS = [
    pytest.param(client, image, id=f"{client.name}-{image.split('/')[-1]}")
    for client in CLIENTS
    for image in IMAGES
    if client.zstd or image != names.ZSTD
] + [pytest.param(Containerd, names.BIG, id="containerd-big:v1")]


@pytest.mark.parametrize(("kind", "reference"), PULLS)
def test_a_wiped_client_pulls_again_without_upstream(
    *,
    kind: type[Client],
    reference: str,
    mirror: Mirror,
    upstreams: Upstreams,
    seed: Seed,
    start_client: StartClient,
) -> None:
    client, image = start_client(kind, mirror), seed.images[reference]

    assert image.digest in client.pull(image)
    taken = upstreams.plain.object_gets()
    assert taken
    assert len(taken) == len(set(taken)), "something was downloaded twice"

    client.wipe()
    upstreams.plain.forget()
    assert image.digest in client.pull(image)
    assert upstreams.plain.object_gets() == []


@pytest.mark.parametrize("kind", [Containerd, Docker])
def test_a_pulled_image_runs(
    kind: type[Client], mirror: Mirror, seed: Seed, start_client: StartClient
) -> None:
    client = cast("Containerd | Docker", start_client(kind, mirror))
    image = seed.images[names.HELLO]

    client.pull(image)

    assert client.run(image).strip() == names.GREETING


def test_what_one_client_pulled_is_warm_for_the_others(
    mirror: Mirror, upstreams: Upstreams, seed: Seed, start_client: StartClient
) -> None:
    image = seed.images[names.MULTI]
    first, *others = CLIENTS[::-1]  # skopeo first: it takes all platforms

    start_client(first, mirror).pull(image)
    upstreams.plain.forget()
    for kind in others:
        assert image.digest in start_client(kind, mirror).pull(image)

    assert upstreams.plain.object_gets() == []
