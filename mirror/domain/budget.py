"""How many pulls a registry lets an account make, and how long they will last.

Source: Docker Hub's ``ratelimit-limit: 100;w=21600`` and ``ratelimit-remaining``. A registry that
sends neither has no limit that we know of.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_READINGS_MAX: Final = 200
_LOOK_BACK_SECONDS: Final = 3600.0
_RATE_MIN_SECONDS: Final = 60.0
"""A rate needs some time to be one."""
_WINDOW_SECONDS: Final = 21600
_DIGITS_MAX: Final = 12
_SOURCE_MAX_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class Reading:
    """What one answer said. ``at`` is in seconds since the epoch."""

    limit: int
    remaining: int
    window_seconds: int
    source: str
    """The address or account that is counted, in the registry's words."""
    at: float

    @classmethod
    def of(cls, headers: Mapping[str, str], at: float) -> "Reading | None":
        """Read the headers of an answer; ``None`` where they say nothing."""
        limit, window = _number(headers.get("ratelimit-limit"))
        remaining, _ = _number(headers.get("ratelimit-remaining"))
        if limit is None or remaining is None:
            return None
        source = headers.get("docker-ratelimit-source", "")[:_SOURCE_MAX_CHARS]
        return cls(limit, remaining, window or _WINDOW_SECONDS, source, at)


@dataclass(frozen=True, slots=True)
class Budget:
    """The readings of one account, the oldest first; there is at least one."""

    readings: tuple[Reading, ...]

    @property
    def last(self) -> Reading:
        """The latest reading."""
        return self.readings[-1]

    def plus(self, reading: Reading) -> "Budget":
        """Return the budget with one more reading."""
        oldest = reading.at - _LOOK_BACK_SECONDS
        kept = tuple(each for each in self.readings if each.at >= oldest)
        return Budget((*kept[-_READINGS_MAX + 1 :], reading))

    def is_known(self, now: float) -> bool:
        """Return whether the last reading still says anything: its window is not over."""
        return now - self.last.at < self.last.window_seconds

    def share(self, now: float) -> float:
        """Return which share of the limit is left, from 0 to 1; 1 where that is not known."""
        if not self.is_known(now) or not self.last.limit:
            return 1.0
        return min(1.0, self.last.remaining / self.last.limit)

    def allows_one(self, now: float, kept_share: float) -> bool:
        """Return whether one more pull leaves at least a share of the limit to others."""
        if not self.is_known(now) or not self.last.limit:
            return True
        return self.last.remaining - 1 >= kept_share * self.last.limit

    def empty_in_seconds(self, now: float) -> float | None:
        """Return when nothing is left if it goes on like this; ``None``: it does not shrink."""
        first, last = self.readings[0], self.last
        elapsed_seconds = max(now, last.at) - first.at
        used = sum(
            max(0, before.remaining - after.remaining)
            for before, after in zip(self.readings, self.readings[1:], strict=False)
        )
        if not used or elapsed_seconds < _RATE_MIN_SECONDS or not self.is_known(now):
            return None
        return last.remaining * elapsed_seconds / used


def _number(value: str | None) -> tuple[int | None, int | None]:
    """Read ``100;w=21600``; each part may be missing or junk."""
    count, _, rest = (value or "").partition(";")
    name, _, window = rest.strip().partition("=")
    return _digits(count), _digits(window) if name.strip().lower() == "w" else None


def _digits(text: str) -> int | None:
    text = text.strip()
    return int(text[:_DIGITS_MAX]) if text.isascii() and text.isdigit() else None
