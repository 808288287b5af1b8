"""What may pass for a manifest (cases S8, S11), and what it links (invariant 12)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.domain.errors import ManifestInvalidError
from mirror.domain.manifests import MANIFEST_MAX_BYTES, LinkKind, Manifest, read_manifest
from mirror.domain.names import Digest
from tests.fakes.content import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Image,
    Index,
    artifact,
    image,
    index,
)

IMAGE = image()
INDEX = index([IMAGE, image(1, architecture="arm64")])
DESCRIPTOR = {"mediaType": "x/y", "digest": "sha256:" + "a" * 64, "size": 1}


def read(content: bytes, content_type: str | None) -> Manifest:
    return read_manifest(content, content_type, Digest.of(content))


def build(**fields: object) -> bytes:
    return json.dumps({"schemaVersion": 2, **fields}).encode()


@pytest.mark.parametrize("pushed", [IMAGE, INDEX, image(docker=True), index([IMAGE], docker=True)])
@pytest.mark.parametrize("stated", ["as it is", "with a charset", "octets", "nothing", "garbage"])
def test_the_type_is_found_and_the_bytes_stay(pushed: Image | Index, stated: str) -> None:
    content_type = {
        "as it is": pushed.media_type,
        "with a charset": f"{pushed.media_type}; charset=utf-8",
        "octets": "application/octet-stream",
        "nothing": None,
        "garbage": "no type at all",
    }[stated]

    manifest = read(pushed.content, content_type)

    assert manifest.content is pushed.content
    assert manifest.media_type == pushed.media_type


def test_an_image_links_its_blobs_and_an_index_its_children() -> None:
    blobs = [(str(link.digest), link.kind) for link in read(IMAGE.content, None).links]
    children = [(str(link.digest), link.kind) for link in read(INDEX.content, None).links]

    assert blobs == [(each.digest, LinkKind.BLOB) for each in IMAGE.blobs]
    assert children == [(each.digest, LinkKind.MANIFEST) for each in INDEX.manifests]


def test_neither_a_subject_nor_a_foreign_layer_is_linked() -> None:
    foreign = {**DESCRIPTOR, "digest": "sha256:" + "b" * 64, "urls": ["https://elsewhere.example"]}
    manifest = read(build(config=DESCRIPTOR, layers=[foreign], subject=DESCRIPTOR), OCI_MANIFEST)
    assert [str(link.digest) for link in manifest.links] == [DESCRIPTOR["digest"]]

    about = artifact(IMAGE)
    assert IMAGE.digest not in {str(link.digest) for link in read(about.content, None).links}


def test_a_digest_that_cannot_be_verified_is_not_linked() -> None:
    unknown = {**DESCRIPTOR, "digest": "blake3:" + "c" * 64}
    manifest = read(build(config=DESCRIPTOR, layers=[unknown]), OCI_MANIFEST)
    assert len(manifest.links) == 1


WRONG = {
    "index and image": build(manifests=[], layers=[], config=DESCRIPTOR),
    "another type inside": build(mediaType=OCI_INDEX, config=DESCRIPTOR, layers=[]),
    "schema 1": build(fsLayers=[], history=[]),
    "no layers": build(config=DESCRIPTOR),
    "layers that are none": build(config=DESCRIPTOR, layers={"a": 1}),
    "config that is none": build(config=[], layers=[]),
    "digest that is none": build(config={**DESCRIPTOR, "digest": "sha256:../../x"}, layers=[]),
    "upper case hex": build(config={**DESCRIPTOR, "digest": "sha256:" + "A" * 64}, layers=[]),
    "negative size": build(config={**DESCRIPTOR, "size": -1}, layers=[]),
    "size in words": build(config={**DESCRIPTOR, "size": "1"}, layers=[]),
    "true for a size": build(config={**DESCRIPTOR, "size": True}, layers=[]),
    "key in another case": build(config=DESCRIPTOR, layers=[], Layers=[DESCRIPTOR]),
    "key in another case below": build(config={**DESCRIPTOR, "Digest": "x"}, layers=[]),
    "key twice": b'{"schemaVersion":2,"config":{},"config":{},"layers":[]}',
    "a list": b"[]",
    "not JSON": b"<html></html>",
    "not UTF-8": b'{"a":"\xff"}',
    "nothing": b"",
    "very deep": b"[" * 100_000,
    "too large": b" " * (MANIFEST_MAX_BYTES + 1),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_could_be_two_things_or_none_is_refused(name: str) -> None:
    with pytest.raises(ManifestInvalidError) as refused:
        read(WRONG[name], OCI_MANIFEST)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("content", "stated"),
    [(IMAGE.content, OCI_INDEX), (INDEX.content, DOCKER_MANIFEST), (IMAGE.content, DOCKER_LIST)],
)
def test_a_type_that_contradicts_the_content_is_refused(content: bytes, stated: str) -> None:
    with pytest.raises(ManifestInvalidError):
        read(content, stated)


@given(st.recursive(st.none() | st.integers() | st.text(max_size=9), lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["config", "layers", "manifests", "mediaType", "digest", "size"]),
        inner,
        max_size=4,
    )
), max_leaves=12))  # fmt: skip
def test_no_json_breaks_the_reader(value: object) -> None:
    content = json.dumps(value).encode()
    try:
        manifest = read(content, OCI_MANIFEST)
    except ManifestInvalidError:
        return
    assert manifest.content == content
