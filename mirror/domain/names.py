"""Names of the distribution specification: an invalid one cannot exist.

Source: OCI distribution-spec v1.1.1, "Pulling manifests" (name, tag), and
image-spec v1.1.1 ``descriptor.md`` (digest).
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final, Self

from mirror.domain.errors import (
    DigestInvalidError,
    DigestUnsupportedError,
    NameInvalidError,
    TagInvalidError,
)

_HEX_DIGITS: Final = {"sha256": 64, "sha512": 128}
_HEX: Final = re.compile(r"[0-9a-f]+")
_DIGEST: Final = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_REPOSITORY_MAX_CHARS: Final = 255
_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_UPSTREAM: Final = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A content address such as ``sha256:9f86d0…``, of an algorithm that we can check."""

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        digits = _HEX_DIGITS.get(self.algorithm)
        if digits is None and _DIGEST.fullmatch(str(self)):
            raise DigestUnsupportedError(str(self))
        if digits != len(self.hex) or _HEX.fullmatch(self.hex) is None:
            raise DigestInvalidError(str(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the form ``algorithm:hex``.

        Raises:
            DigestInvalidError: the text is not a digest.
            DigestUnsupportedError: it is one, of an algorithm that is not registered.
        """
        algorithm, _, hex_digits = text.partition(":")
        return cls(algorithm, hex_digits)

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Self:
        """Return the address of *content*."""
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    def new_hash(self) -> "hashlib._Hash":
        """Return an empty hash of this algorithm."""
        return hashlib.new(self.algorithm)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@dataclass(frozen=True, slots=True, order=True)
class Tag:
    """A tag such as ``3.20``."""

    name: str

    def __post_init__(self) -> None:
        if _TAG.fullmatch(self.name) is None:
            raise TagInvalidError(self.name)

    def __str__(self) -> str:
        return self.name


Reference = Tag | Digest


def parse_reference(text: str) -> Reference:
    """Read a tag or, when there is a colon in it, a digest."""
    return Digest.parse(text) if ":" in text else Tag(text)


@dataclass(frozen=True, slots=True, order=True)
class Repository:
    """A repository of one upstream, such as ``library/alpine`` of ``docker.io``.

    ``upstream`` is a name of the configuration, never a host that a request named.
    """

    upstream: str
    name: str

    def __post_init__(self) -> None:
        if len(self.name) > _REPOSITORY_MAX_CHARS or _REPOSITORY.fullmatch(self.name) is None:
            raise NameInvalidError(self.name)

    def __str__(self) -> str:
        return f"{self.upstream}/{self.name}"


ANONYMOUS_SCOPE: Final = "_"
"""The scope of bytes that came without credentials.

Those that came with the mirror's own have the name of their upstream, those that came with
callers' have ``callers_scope``. It breaks the grammar of upstream names, so it can never be taken
for one.
"""


def callers_scope(upstream: str) -> str:
    """Return the scope of bytes that came with the credentials of callers.

    Not that of the mirror's own account: whoever may use that one need not see what others
    could, should the configuration change.
    """
    return f"{upstream}~"


def is_upstream_name(text: str) -> bool:
    """Return whether *text* may name an upstream: ``host`` or ``host:port``, lower case."""
    return _UPSTREAM.fullmatch(text) is not None


def fallback_tag(subject: Digest) -> Tag:
    """Return the tag under which registries without the referrers API list referrers.

    Source: distribution-spec v1.1.1, "Referrers tag schema".
    """
    return Tag(f"{subject.algorithm[:32]}-{subject.hex[:64]}")
