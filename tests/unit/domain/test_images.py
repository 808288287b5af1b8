"""Images as people name them."""

import pytest

from mirror.domain.errors import NameUnknownError
from mirror.domain.images import parse_image, parse_pin
from mirror.domain.names import Digest, Repository, Tag
from mirror.domain.routing import Table

TABLE = Table({"docker.io": "docker.io", "ghcr.io": "ghcr.io"}, default="docker.io")
DIGEST = "sha256:" + "ab" * 32
ALPINE, APP = Repository("docker.io", "library/alpine"), Repository("ghcr.io", "team/app")


@pytest.mark.parametrize(
    ("text", "repository", "reference", "held_at"),
    [
        ("alpine", ALPINE, Tag("latest"), None),
        ("alpine:3.20", ALPINE, Tag("3.20"), None),
        ("ghcr.io/team/app:v1", APP, Tag("v1"), None),
        (f"alpine@{DIGEST}", ALPINE, Digest.parse(DIGEST), None),
        (f"ghcr.io/team/app:v1@{DIGEST}", APP, Tag("v1"), Digest.parse(DIGEST)),
    ],
)
def test_a_pin_is_a_tag_or_a_digest_or_a_tag_that_is_held(
    text: str, repository: Repository, reference: Tag | Digest, held_at: Digest | None
) -> None:
    assert parse_pin(text, TABLE) == (repository, reference, held_at)
    assert parse_image(text, TABLE) == (repository, held_at or reference)


def test_what_names_no_image_is_refused() -> None:
    with pytest.raises(NameUnknownError):
        parse_pin("", TABLE)
