"""The walk through an image: what it names, what it leaves out, and that it ends."""

import pytest

from mirror.domain.manifests import Manifest, read_manifest
from mirror.domain.names import Digest
from mirror.domain.walking import Walk, is_chosen, signature_tags
from tests.fakes import content
from tests.fakes.content import image, index

AMD64, ARM64 = image(1), image(2, architecture="arm64")
PROOF = image(3, architecture="unknown")
BOTH = index([AMD64, ARM64, PROOF])
EVERYTHING = {each.digest: each for each in (AMD64, ARM64, PROOF, BOTH)}


def manifest(made: content.Manifest) -> Manifest:
    return read_manifest(made.content, made.media_type, Digest.parse(made.digest))


def walked(walk: Walk, top: content.Manifest) -> list[str]:
    """Return all that the walk names, the top included."""
    found, left = [top.digest], [top]
    while left:
        for link in walk.enter(manifest(left.pop())):
            found.append(str(link.digest))
            if str(link.digest) in EVERYTHING:
                left.append(EVERYTHING[str(link.digest)])
    return found


def whole(*images: content.Image) -> set[str]:
    return {each.digest for one in images for each in (one, *one.blobs)}


@pytest.mark.parametrize(
    ("platforms", "with_attestations", "expected"),
    [
        ((), False, whole(AMD64, ARM64, PROOF)),
        (("linux/amd64",), False, whole(AMD64)),
        (("linux/arm64/v8",), False, whole(ARM64)),
        (("linux/amd64",), True, whole(AMD64, PROOF)),
        (("linux/s390x",), False, set()),
    ],
)
def test_an_index_is_walked_by_platform(
    platforms: tuple[str, ...], expected: set[str], *, with_attestations: bool
) -> None:
    walk = Walk(platforms, with_attestations=with_attestations)
    found = walked(walk, BOTH)
    assert {*found} == {BOTH.digest, *expected}
    assert len(found) == len({*found}), "nothing is named twice"
    assert walk.offered == ("linux/amd64", "linux/arm64")
    assert walk.found_nothing is not bool(expected)


def test_nothing_found_is_told_only_of_an_index_with_platforms() -> None:
    walk = Walk(("linux/s390x",))
    assert {*walked(walk, AMD64)} == whole(AMD64), "an image is taken whatever it runs on"
    assert not walk.found_nothing
    walk = Walk(("linux/s390x",))
    walked(walk, BOTH)
    assert walk.found_nothing


def test_a_walk_down_a_tower_of_indexes_ends() -> None:
    tower = [index([AMD64])]
    for _ in range(8):
        tower.append(index([tower[-1]]))
    known = {each.digest: each for each in tower}
    walk, current, steps = Walk(), tower[-1], 0
    while links := list(walk.enter(manifest(current))):
        current, steps = known[str(links[0].digest)], steps + 1
    assert steps == 4


def test_what_two_images_share_is_named_once() -> None:
    walk = Walk()
    first = [str(each.digest) for each in walk.enter(manifest(AMD64))]
    assert len(first) == len(AMD64.blobs)
    assert not list(walk.enter(manifest(AMD64)))


@pytest.mark.parametrize(
    ("platform", "chosen", "expected"),
    [
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm/v7", "linux/arm", True),
        ("linux/arm/v7", "linux/arm/v6", False),
        ("linux/arm64", "linux/arm", False),
        ("linux/amd64", "linux/amd64/v3", False),
        ("linux/riscv64/v8", "linux/riscv64", True),
    ],
)
def test_a_choice_without_a_variant_means_all_of_them(
    platform: str, chosen: str, *, expected: bool
) -> None:
    assert is_chosen(platform, [chosen]) is expected


def test_signatures_have_tags_that_cosign_gives_them() -> None:
    digest = Digest.of(b"")
    assert [str(tag) for tag in signature_tags(digest)] == [
        f"sha256-{digest.hex}.{end}" for end in ("sig", "att", "sbom")
    ]
    assert signature_tags(Digest.of(b"", "sha512")) == (), "no tag is long enough"
