"""Files of users: htpasswd with bcrypt, and static tokens.

Lines that cannot be used are named by their number: their content is secret.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from mirror.domain.access import Identity

_BCRYPT: Final = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_COST_MAX: Final = 15
"""A password of this cost takes two seconds to check."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{16,4096}")


@dataclass(slots=True)
class Parsed:
    """What a file says: by user, or by token; and which lines cannot be used, and why."""

    passwords: dict[str, bytes] = field(default_factory=dict, repr=False)
    tokens: dict[str, Identity] = field(default_factory=dict, repr=False)
    problems: list[str] = field(default_factory=list)


def parse_htpasswd(text: str) -> Parsed:
    """Read lines ``user:hash``; only bcrypt counts (``htpasswd -B``)."""
    parsed = Parsed()
    for number, line in _lines(text):
        user, colon, hashed = line.partition(":")
        bcrypt = _BCRYPT.fullmatch(hashed)
        if not user or not colon or bcrypt is None:
            parsed.problems.append(f"line {number} is not user:bcrypt-hash (`htpasswd -B`)")
        elif int(bcrypt[1]) > _COST_MAX:
            parsed.problems.append(f"line {number} has a cost of more than {_COST_MAX}")
        else:
            parsed.passwords[user] = hashed.encode()
    return parsed


def parse_tokens(text: str) -> Parsed:
    """Read lines ``name:token`` or ``name:token:group,group``."""
    parsed = Parsed()
    for number, line in _lines(text):
        name, _, rest = line.partition(":")
        token, _, groups = rest.partition(":")
        if not name or not _TOKEN.fullmatch(token):
            parsed.problems.append(
                f"line {number} is not name:token, with a token of 16 characters or more"
            )
        else:
            names = frozenset(group.strip() for group in groups.split(",") if group.strip())
            parsed.tokens[token] = Identity(name, names)
    return parsed


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield number, line.strip()
