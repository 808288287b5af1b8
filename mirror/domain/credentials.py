"""What a client shows to prove who it is; it stays out of every ``repr``."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

_MAX_CHARS: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Basic:
    """A user and a password."""

    username: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token."""

    token: str = field(repr=False)


Credential = Basic | Bearer


class MalformedError(ValueError):
    """There is an Authorization header, and nobody can tell what it means."""


def parse_authorization(lines: Sequence[str]) -> Credential | None:
    """Read the Authorization header; ``None`` where nothing is shown.

    Podman sends an empty user with an empty password when it has none.

    Raises:
        MalformedError: there are several, or it is of no known form.
    """
    if not lines:
        return None
    scheme, _, rest = lines[0].partition(" ")
    rest = rest.strip()
    if len(lines) > 1 or len(rest) > _MAX_CHARS or not rest or not rest.isascii():
        raise MalformedError  # bytes that are not ASCII cannot be encoded again later
    match scheme.lower():
        case "bearer":
            return Bearer(rest)
        case "basic":
            return _basic(rest)
        case _:
            raise MalformedError


def _basic(encoded: str) -> Basic | None:
    try:
        username, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        raise MalformedError from None
    if not colon or "\0" in password:
        raise MalformedError
    return Basic(username, password) if username or password else None
