"""What a check returns, and what is told of it."""

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec

LIMIT_SECONDS: Final = 3.0
"""What a check may take that does not say otherwise."""


class State(enum.StrEnum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but will not for long, or not as well as it could."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """It does not apply, or what it needs is not there."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found, and what to do about it."""

    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Something to look at.

    ``after`` are the names of checks that must have ended before it begins; when one of
    ``needs`` failed or was skipped, it is not tried.
    """

    group: str
    name: str
    examine: Callable[[], Awaitable[Verdict]]
    limit_seconds: float = LIMIT_SECONDS
    after: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """By which others name it."""
        return f"{self.group}/{self.name}"


class Finding(msgspec.Struct, frozen=True):
    """One line of the report."""

    group: str
    name: str
    state: State
    found: str
    remedy: str
    seconds: float


def fine(found: str) -> Verdict:
    """Return that all is well."""
    return Verdict(State.OK, found)


def doubtful(found: str, remedy: str) -> Verdict:
    """Return that it should be looked at."""
    return Verdict(State.WARNING, found, remedy)


def wrong(found: str, remedy: str) -> Verdict:
    """Return that it does not work."""
    return Verdict(State.FAILED, found, remedy)


def left_out(found: str, remedy: str = "") -> Verdict:
    """Return that there was nothing to look at."""
    return Verdict(State.SKIPPED, found, remedy)
