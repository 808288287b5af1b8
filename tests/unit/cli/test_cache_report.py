"""What ``mirror cache`` shows of images: tables in the order asked for, and trees."""

import pytest

from mirror.cli.cache_report import details_text, images_text, sorted_images
from mirror.store.inventory import ImageDetails, ImageFacts, Part
from mirror.store.referring import Referrer
from tests.harness import MIB

INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
PLATFORMS = ("linux/amd64", "linux/arm64", "linux/s390x")


def facts(tag: str | None, number: int, **more: object) -> ImageFacts:
    given: dict[str, object] = {
        "repository": "docker.io/library/alpine",
        "tag": tag,
        "digest": f"sha256:{number:064x}",
        "media_type": INDEX,
        "size_bytes": number * MIB,
        "stored_bytes": MIB // number,
        "complete": True,
        "platforms": PLATFORMS,
        "used_at": number * 1000.0,
        "pinned": False,
    }
    return ImageFacts(**(given | more))  # type: ignore[arg-type] # fields of its own


ONE, TWO, OLD = facts("a", 1, hits=3), facts("b", 2, hits=1200), facts(None, 3, used_at=None)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("name", [ONE, TWO, OLD]),
        ("size", [OLD, TWO, ONE]),
        ("here", [ONE, TWO, OLD]),
        ("used", [TWO, ONE, OLD]),
        ("hits", [TWO, ONE, OLD]),
    ],
)
def test_images_come_in_the_order_asked_for(by: str, expected: list[ImageFacts]) -> None:
    assert sorted_images([ONE, TWO, OLD], by) == expected


def test_a_table_is_narrow_or_says_all() -> None:
    narrow = images_text([ONE, TWO, OLD], is_wide=False).splitlines()
    assert narrow[0].split() == [*("IMAGE", "DIGEST", "SIZE", "HERE", "PLATFORMS", "HITS", "USED")]
    assert "linux/amd64,linux/arm64 +1" in narrow[1]
    assert "1,200" in narrow[2]
    assert "docker.io/library/alpine@000000000000…" in narrow[3]
    assert all(len(line) < 120 for line in narrow)
    wide = images_text([OLD], is_wide=True)
    assert f"alpine@{OLD.digest}" in wide
    assert "linux/s390x" in wide
    assert INDEX in wide


def test_what_two_tags_mean_counts_once() -> None:
    assert "2 images, 1.0 MiB here" in images_text([ONE, facts("same", 1)], is_wide=False)


def test_an_image_is_shown_as_a_tree() -> None:
    layers = (
        Part("sha256:" + "c" * 64, CONFIG, None, 500, stored=True),
        Part("sha256:" + "d" * 64, LAYER, None, 2 * MIB, stored=True, manifests=2),
    )
    parts = (
        Part("sha256:" + "a" * 64, None, "linux/amd64", 900, stored=True, parts=layers),
        Part("sha256:" + "b" * 64, None, "linux/arm64", 900, stored=False),
    )
    details = ImageDetails(ONE, None, (), parts, ("a", "latest"), ("sha256:" + "e" * 64,))
    signed = Referrer("sha256:" + "f" * 64, "cosign signature", None, "sha256-1.sig", stored=False)
    text = details_text(details, [signed], is_wide=False)
    assert "├─ aaaaaaaaaaaa      900 B  linux/amd64\n" in text
    assert "│  ├─ cccccccccccc      500 B  config\n" in text
    assert "│  └─ dddddddddddd    2.0 MiB  layer  shared\n" in text
    assert "└─ bbbbbbbbbbbb      900 B  linux/arm64  not here" in text
    assert "tags       latest\n" in text
    assert f"part of    sha256:{'e' * 64}\n" in text
    assert "3 hits" in text
    assert "ffffffffffff    cosign signature        not here" in text
    assert "sha256:" + "d" * 64 in details_text(details, [], is_wide=True)
