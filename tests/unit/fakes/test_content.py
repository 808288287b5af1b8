"""The content of the fakes is real: digests, sizes and archives are right."""

import gzip
import hashlib
import io
import json
import tarfile

import pytest
import zstandard

from tests.fakes import content
from tests.fakes.clock import FakeClock
from tests.fakes.content import Compression


def test_the_same_seed_gives_the_same_image_and_another_seed_another() -> None:
    assert content.image(1) == content.image(1)
    assert content.image(1).digest != content.image(2).digest
    assert content.blob(100, 1).content != content.blob(100, 2).content


@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_manifest_describes_its_blobs(algorithm: str, *, docker: bool) -> None:
    made = content.image(layers=3, docker=docker, algorithm=algorithm)
    document = json.loads(made.content)
    assert document["mediaType"] == made.media_type
    assert document["config"] == made.config.descriptor()
    assert document["layers"] == [layer.descriptor() for layer in made.layers]
    assert len(made.layers) == 3
    for blob in (made, *made.blobs):
        assert blob.digest == f"{algorithm}:{hashlib.new(algorithm, blob.content).hexdigest()}"
        assert ("docker" in blob.media_type) is docker


def _unpack(packed: bytes, compression: Compression) -> bytes:
    if compression == "gzip":
        return gzip.decompress(packed)
    if compression == "zstd":
        return zstandard.ZstdDecompressor().decompress(packed)
    return packed


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_a_layer_can_be_unpacked_and_has_its_diff_id(compression: Compression) -> None:
    layer, diff_id = content.layer(500, 7, compression=compression)
    archive = _unpack(layer.content, compression)
    assert content.digest_of(archive) == diff_id
    with tarfile.open(fileobj=io.BytesIO(archive)) as unpacked:
        assert [entry.size for entry in unpacked] == [500]
    assert layer.media_type.endswith("tar" if compression == "none" else compression)


def test_an_index_lists_images_by_platform() -> None:
    images = [content.image(1), content.image(2, architecture="arm64")]
    made = content.index(images)
    entries = json.loads(made.content)["manifests"]
    assert [entry["digest"] for entry in entries] == [each.digest for each in images]
    assert [entry["platform"]["architecture"] for entry in entries] == ["amd64", "arm64"]
    assert content.index(images, docker=True).media_type == content.DOCKER_LIST


def test_an_artifact_names_its_subject() -> None:
    subject = content.image()
    document = json.loads(content.artifact(subject, annotations={"a": "b"}).content)
    assert document["subject"] == subject.descriptor()
    assert document["artifactType"] == "application/vnd.example.sbom+json"
    assert document["annotations"] == {"a": "b"}


def test_the_clock_moves_when_it_is_told() -> None:
    clock = FakeClock(10)
    clock.advance(2.5)
    assert clock() == 12.5
