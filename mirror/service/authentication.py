"""Who a caller is: passwords, static tokens, tokens of identity providers.

Nothing of a credential is kept but its keyed hash, nothing of it is logged, and it is shown to
nobody: an identity provider checks signatures by its public keys, which are fetched without it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import bcrypt

from mirror.domain.access import Identity
from mirror.domain.credentials import Basic, Bearer, Credential
from mirror.domain.errors import OverloadedError
from mirror.domain.htpasswd import Parsed
from mirror.observe.logs import get_logger
from mirror.runtime.fingerprints import Fingerprints
from mirror.runtime.pools import Pool
from mirror.runtime.recent import MemoryTier, Recent
from mirror.runtime.single_flight import SingleFlight
from mirror.service.watched_file import WatchedFile

_REMEMBERED_SECONDS: Final = 3600.0
_REFUSED_SECONDS: Final = 10.0
_WAITING_MAX: Final = 64
_ENTRY_BYTES: Final = 600
_log = get_logger("auth")

_Key = tuple[object, int, bytes]


class Source(Protocol):
    """One way of proving who one is."""

    async def identify(self, credential: Credential) -> Identity | None:
        """Return who shows a credential; ``None``: this source does not know it.

        Raises:
            TroubleError: it cannot be told now.
        """
        ...


class Authenticator:
    """All ways that are configured; the first that knows a credential counts."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)

    async def identify(self, credential: Credential) -> Identity | None:
        """Return who shows a credential; ``None``: nobody that is known here.

        Raises:
            TroubleError: it cannot be told now.
        """
        for source in self._sources:
            identity = await source.identify(credential)
            if identity is not None:
                return identity
        return None


class Passwords:
    """Users of an htpasswd file."""

    def __init__(
        self, file: WatchedFile[Parsed], pool: Pool, tier: MemoryTier, fingerprints: Fingerprints
    ) -> None:
        self._file = file
        self._pool = pool
        self._fingerprints = fingerprints
        self._known: Recent[bool] = Recent(tier, "password", lambda _: _ENTRY_BYTES)
        self._mark = object()  # not id(self): who comes after us may get the same
        self._checks: SingleFlight[_Key, bool] = SingleFlight()

    async def identify(self, credential: Credential) -> Identity | None:
        """Return the user; checked once by bcrypt, then remembered by a keyed hash."""
        if not isinstance(credential, Basic):
            return None
        passwords = (await self._file.value()).passwords
        user, secret = credential.username, credential.password
        key = (self._mark, self._file.generation, self._fingerprints.of(user, secret))
        is_right = self._known.peek(key)
        if is_right is None:
            # A hundred nodes with one user come at once, when all of them have been restarted.
            if not self._checks.is_running(key) and len(self._checks) >= _WAITING_MAX:
                raise OverloadedError("too many passwords are waiting to be checked")
            is_right = await self._checks.do(
                key, lambda: self._checked(key, secret, passwords, user)
            )
        return Identity(user) if is_right else None

    async def _checked(
        self, key: _Key, secret: str, passwords: Mapping[str, bytes], user: str
    ) -> bool:
        is_right = await self._check(secret, passwords, user)
        ttl_seconds = _REMEMBERED_SECONDS if is_right else _REFUSED_SECONDS
        await self._known.put(key, is_right, ttl_seconds=ttl_seconds)
        return is_right

    async def _check(self, secret: str, passwords: Mapping[str, bytes], user: str) -> bool:
        # Who does not exist takes as long as who does: by the password of another one.
        hashed = passwords.get(user) or next(iter(passwords.values()), None)
        if hashed is None:
            return False
        fits = await self._pool.run(_fits, secret.encode(), hashed)
        return fits and user in passwords


def _fits(secret: bytes, hashed: bytes) -> bool:
    try:
        return bcrypt.checkpw(secret, hashed)
    except ValueError:  # longer than the 72 bytes that bcrypt looks at
        return False


class StaticTokens:
    """Tokens of a file, as Bearer, or as the password of the name that they belong to."""

    def __init__(self, file: WatchedFile[Parsed], fingerprints: Fingerprints) -> None:
        self._file = file
        self._fingerprints = fingerprints
        self._generation = -1
        self._identities: dict[bytes, Identity] = {}

    async def identify(self, credential: Credential) -> Identity | None:
        """Return whose token it is; looked up by its hash, so time tells nothing of it."""
        tokens = (await self._file.value()).tokens
        if self._generation != self._file.generation:
            self._generation = self._file.generation
            self._identities = {self._fingerprints.of(one): who for one, who in tokens.items()}
        shown = credential.token if isinstance(credential, Bearer) else credential.password
        identity = self._identities.get(self._fingerprints.of(shown))
        if isinstance(credential, Basic) and identity and identity.user != credential.username:
            return None
        return identity


def read_reporting(path: Path, parse: Callable[[str], Parsed], text: str) -> Parsed:
    """Read what a file of users says; which of its lines cannot be used goes to the log."""
    parsed = parse(text)
    if parsed.problems:
        _log.warning(
            "lines of a file of users cannot be used", file=str(path), problems=parsed.problems
        )
    return parsed
