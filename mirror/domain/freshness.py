"""Whether a remembered tag, tag list or referrers list may still be used.

Source: RFC 9111 section 4.2 for the lifetime, RFC 5861 section 4 for stale-if-error.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Final

IMMUTABLE: Final = math.inf
"""The lifetime, in seconds, of what never has to be asked for again."""


class Age(StrEnum):
    """How old is what we remember, in the terms of the policy."""

    FRESH = "fresh"
    """Young enough: answer from memory."""
    EXPIRING = "soon not fresh"
    """Fresh, but within ``refresh_ahead`` of its end."""
    STALE = "stale"
    """Upstream has to be asked; while it is in trouble, the memory will do."""
    OLD = "too old"
    """Not to be shown to anyone: upstream or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """For how long something is fresh, and for how long it is held in reserve after that.

    Within ``refresh_ahead_seconds`` of its end, but for no more than the second half of its
    life, it is asked for in the background.
    """

    fresh_seconds: float
    stale_if_error_seconds: float
    refresh_ahead_seconds: float = 0.0

    @property
    def is_immutable(self) -> bool:
        """Whether it never has to be asked for again."""
        return self.fresh_seconds == IMMUTABLE

    def stretched(self, factor: float) -> "Lifetime":
        """Return the same, but asked for so many times less often."""
        return replace(self, fresh_seconds=self.fresh_seconds * factor)

    def age(self, age_seconds: float) -> Age:
        """Return how old it is what upstream confirmed *age_seconds* ago.

        A negative age (the wall clock was set back) is taken for stale, so that a jump of
        the clock costs one question and not a day of old tags.
        """
        if self.is_immutable:
            return Age.FRESH
        if 0 <= age_seconds < self.fresh_seconds:
            ahead_seconds = min(self.refresh_ahead_seconds, self.fresh_seconds / 2)
            is_fresh = age_seconds < self.fresh_seconds - ahead_seconds
            return Age.FRESH if is_fresh else Age.EXPIRING
        since_fresh_seconds = max(0.0, age_seconds - self.fresh_seconds)
        return Age.STALE if since_fresh_seconds < self.stale_if_error_seconds else Age.OLD

    def ttl_seconds(self, age_seconds: float) -> float:
        """Return how long it stays fresh; negative: for how long it has been stale."""
        return self.fresh_seconds - age_seconds


@dataclass(frozen=True, slots=True)
class TagRule:
    """One entry of ``policy.tag_rules``: a glob over ``repository:tag`` and a lifetime."""

    pattern: str
    fresh_seconds: float


def tag_lifetime_seconds(
    rules: Sequence[TagRule], default_seconds: float, repository: str, tag: str
) -> float:
    """Return the lifetime of a tag by the first rule that matches ``repository:tag``."""
    name = f"{repository}:{tag}"
    for rule in rules:
        if matches(rule.pattern, name):
            return rule.fresh_seconds
    return default_seconds


def matches(pattern: str, name: str) -> bool:
    """Return whether a glob matches a whole name: ``*`` within a component, ``**`` across.

    ``?`` is one character but ``/``. There are no other special characters.
    """
    return _compiled(pattern).fullmatch(name) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"(\*\*|\*|\?)", pattern)
    wild = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(wild.get(piece) or re.escape(piece) for piece in pieces))
