"""What belongs to an image, from its first manifest down to its layers; without any I/O.

Whoever walks reads manifests where they are, upstream or on the disk, and shows each one to
the walk, which says what comes next. An image that is fetched, exported or pinned is the
same image for all three.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from mirror.domain.manifests import Descriptor, LinkKind, Manifest, is_index
from mirror.domain.names import Digest, Tag

NO_PLATFORM: Final = "unknown/unknown"
"""What builders call the attestations that they put beside the images of an index."""
DEPTH_MAX: Final = 4
_SIGNATURES: Final = ("sig", "att", "sbom")
_PLATFORM: Final = re.compile(r"[a-z0-9]+/[a-z0-9]+(?:/[a-z0-9]+)?")


class Walk:
    """One image, of which no object is named twice.

    ``offered`` are the platforms that its indexes have images for.
    """

    def __init__(self, platforms: Sequence[str] = (), *, with_attestations: bool = False) -> None:
        """Set up.

        Args:
            platforms: What is wanted of an index; without any, all of it.
            with_attestations: Also what an index has for no platform.
        """
        self._platforms = tuple(platforms)
        self._with_attestations = with_attestations
        self._depths: dict[Digest, int] = {}
        self._blobs: set[Digest] = set()
        self._offered: dict[str, None] = {}
        self._is_answered = False

    def enter(self, manifest: Manifest) -> Iterator[Descriptor]:
        """Yield what a manifest links and the walk has not named yet, in its order.

        Read and enter the manifests among it, too.
        """
        depth = self._depths.setdefault(manifest.digest, 0)
        for link in manifest.links:
            if link.kind is LinkKind.BLOB:
                if link.digest not in self._blobs:
                    self._blobs.add(link.digest)
                    yield link
            elif self._is_wanted(manifest, link) and self._is_new(link, depth):
                self._depths[link.digest] = depth + 1
                yield link

    @property
    def offered(self) -> tuple[str, ...]:
        """The platforms that there are images for, as far as the walk has come."""
        return tuple(self._offered)

    @property
    def found_nothing(self) -> bool:
        """Whether there were images by platform, and none for a platform that is wanted."""
        return bool(self._offered) and not self._is_answered

    def _is_new(self, link: Descriptor, depth: int) -> bool:
        return link.digest not in self._depths and depth < DEPTH_MAX

    def _is_wanted(self, manifest: Manifest, link: Descriptor) -> bool:
        platform = link.platform
        if not is_index(manifest.media_type) or platform is None:
            self._is_answered = True
            return True
        if platform == NO_PLATFORM:
            return self._with_attestations or not self._platforms
        self._offered[platform] = None
        is_wanted = is_chosen(platform, self._platforms)
        self._is_answered |= is_wanted
        return is_wanted


def is_platform(text: str) -> bool:
    """Return whether a text is of the form ``linux/amd64`` or ``linux/arm/v7``."""
    return _PLATFORM.fullmatch(text) is not None


def is_chosen(platform: str | None, platforms: Sequence[str]) -> bool:
    """Tell whether the image of a platform is meant; without a choice, every one is.

    A choice without a variant means all variants: many call ``linux/arm64`` what Docker Hub
    has as ``linux/arm64/v8``.
    """
    if not platforms or platform is None:
        return True
    return any(f"{_plain(platform)}/".startswith(f"{_plain(each)}/") for each in platforms)


def _plain(platform: str) -> str:
    """Return a platform in one spelling: v8 is what every arm64 is."""
    return platform.removesuffix("/v8") if platform.endswith("/arm64/v8") else platform


def signature_tags(subject: Digest) -> tuple[Tag, ...]:
    """Return the tags under which cosign keeps signatures, attestations and SBOMs.

    It did so before there were referrers, and still does by default. The digits of a sha512
    are too many for a tag.
    """
    if subject.algorithm != "sha256":
        return ()
    return tuple(Tag(f"{subject.algorithm}-{subject.hex}.{end}") for end in _SIGNATURES)
