"""Whose image it is: other registries, mirrors behind mirrors, artifacts."""

from __future__ import annotations

import pytest

from . import oci
from . import seed as names
from .clients import Client, Containerd, Podman, Skopeo
from .conftest import StartClient, StartMirror, Upstreams
from .counting import CountingProxy
from .mirror_process import Mirror
from .registry import Registry
from .seed import Seed


@pytest.mark.parametrize("kind", [Containerd, Podman, Skopeo], ids=lambda kind: kind.name)
def test_a_mirror_behind_a_mirror_keeps_the_registries_apart(
    *,
    kind: type[Client],
    start_mirror: StartMirror,
    upstreams: Upstreams,
    other: CountingProxy,
    seed: Seed,
    start_client: StartClient,
) -> None:
    docker_io = {"endpoints": [upstreams.plain.url]}
    inner = start_mirror({"docker.io": docker_io, "ghcr.io": {"endpoints": [other.url]}})
    outer = start_mirror({"docker.io": docker_io, "ghcr.io": {"endpoints": [inner.url]}})
    client = start_client(kind, outer)
    ours, namesake = seed.images[names.OTHER_SAME_NAME], seed.images[names.SAME_NAME]
    assert ours.digest != namesake.digest

    assert ours.digest in client.pull(ours)

    assert other.object_gets()
    assert upstreams.plain.records == []
    assert namesake.digest in client.pull(namesake)


@pytest.mark.parametrize(
    "path",
    [
        "/v2/registry.corp.example/team/app/manifests/latest",
        "/v2/team/app/manifests/latest?ns=registry.corp.example",
        "/registry.corp.example/v2/team/app/manifests/latest",
        "/v2/localhost/team/app/manifests/latest",
    ],
)
def test_a_registry_that_is_not_configured_is_not_asked_for(
    path: str, mirror: Mirror, upstreams: Upstreams
) -> None:
    answer = mirror.get(path)

    assert answer.status == 404
    assert answer.json()["errors"][0]["code"] == "NAME_UNKNOWN"
    assert upstreams.plain.records == upstreams.token.records == []


@pytest.mark.parametrize(
    "prefix",
    [
        "/v2/library/hello",
        "/v2/docker.io/library/hello",
        "/docker.io/v2/library/hello",
        "/v2/hello",
    ],
)
def test_all_names_of_an_image_mean_one_copy(
    prefix: str, mirror: Mirror, upstreams: Upstreams, seed: Seed
) -> None:
    image = seed.images[names.HELLO]
    named = mirror.get("/v2/library/hello/manifests/v1?ns=docker.io")
    upstreams.plain.forget()

    answer = mirror.get(f"{prefix}/manifests/v1")

    assert answer.status == 200
    assert answer.body == named.body
    assert answer.headers["docker-content-digest"] == image.digest
    assert answer.headers["content-type"] == image.media_type
    assert upstreams.plain.records == []


def test_an_artifact_and_what_refers_to_it_arrive_unchanged(
    mirror: Mirror, plain_registry: Registry, seed: Seed
) -> None:
    image = seed.images[names.ARTIFACT]
    accept = {"Accept": oci.ANY_MANIFEST}

    for reference in ("v1", image.digest, seed.referrer):
        path = f"/v2/team/artifact/manifests/{reference}"
        answer, truth = mirror.get(path), oci.request(plain_registry.url + path, headers=accept)
        assert (answer.status, answer.body) == (200, truth.body)
        assert answer.headers["content-type"] == truth.headers["content-type"]
        for layer in answer.json()["layers"]:
            blob = mirror.get(f"/v2/team/artifact/blobs/{layer['digest']}")
            assert oci.digest_of(blob.body) == layer["digest"]


def test_referrers_are_found_though_upstream_has_no_api_for_them(
    mirror: Mirror, seed: Seed
) -> None:
    path = f"/v2/team/artifact/referrers/{seed.images[names.ARTIFACT].digest}"

    answer = mirror.get(path)
    filtered = mirror.get(f"{path}?artifactType=application/vnd.example.other")

    assert answer.status == filtered.status == 200
    assert answer.headers["content-type"] == oci.INDEX
    assert [one["digest"] for one in answer.json()["manifests"]] == [seed.referrer]
    if filtered.headers.get("oci-filters-applied"):
        assert filtered.json()["manifests"] == []


def test_nothing_can_be_pushed(mirror: Mirror, upstreams: Upstreams) -> None:
    answer = oci.request(f"{mirror.url}/v2/team/app/blobs/uploads/", "POST")

    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert answer.json()["errors"][0]["code"] == "UNSUPPORTED"
    assert upstreams.plain.records == []
