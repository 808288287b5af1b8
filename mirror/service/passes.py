"""The tokens that the mirror issues itself: short-lived, signed, good for some repositories.

What they say is signed with a key of the process and not encrypted: who, for what, until when.
"""

import base64
import hmac
from collections.abc import Collection
from typing import Final

import msgspec

from mirror.domain.access import Identity
from mirror.domain.names import Repository
from mirror.runtime.clock import Clock
from mirror.runtime.fingerprints import Fingerprints
from mirror.runtime.unreadable import UNREADABLE

_PREFIX: Final = "mirror."


class Pass(msgspec.Struct, frozen=True, array_like=True):
    """What a token says; ``user`` is empty for whoever has shown nothing."""

    user: str
    groups: tuple[str, ...]
    claims: tuple[tuple[str, str], ...]
    repositories: tuple[str, ...]
    expires_at: float

    @property
    def identity(self) -> Identity | None:
        """Who it was issued to."""
        if not self.user:
            return None
        return Identity(self.user, frozenset(self.groups), frozenset(self.claims))

    def covers(self, repository: Repository) -> bool:
        """Return whether it was issued for a repository."""
        return str(repository) in self.repositories


class Passes:
    """Issues and reads them."""

    def __init__(self, fingerprints: Fingerprints, clock: Clock, lifetime_seconds: float) -> None:
        self._fingerprints = fingerprints
        self._clock = clock
        self.lifetime_seconds = lifetime_seconds

    def issue(self, identity: Identity | None, repositories: Collection[Repository]) -> str:
        """Return a token for whoever has proved to be *identity*."""
        who = identity or Identity("")
        says = Pass(
            who.user,
            tuple(sorted(who.groups)),
            tuple(sorted(who.claims)),
            tuple(sorted(map(str, repositories))),
            self._clock.wall() + self.lifetime_seconds,
        )
        body = base64.urlsafe_b64encode(msgspec.json.encode(says)).decode().rstrip("=")
        return f"{_PREFIX}{body}.{self._signature(body)}"

    def read(self, token: str) -> Pass | None:
        """Return what a token of ours says; ``None``: it is none, or its time is over."""
        if not token.startswith(_PREFIX):
            return None
        body, _, signature = token.removeprefix(_PREFIX).rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(body).encode()):
            return None
        try:
            padded = body + "=" * (-len(body) % 4)
            says = msgspec.json.decode(base64.urlsafe_b64decode(padded), type=Pass)
        except UNREADABLE:
            return None
        return says if self._clock.wall() < says.expires_at else None

    def _signature(self, body: str) -> str:
        return self._fingerprints.of("pass", body).hex()
