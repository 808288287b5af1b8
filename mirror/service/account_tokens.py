"""Service account tokens of Kubernetes, which are good on its word."""

from collections.abc import Awaitable, Callable
from typing import Final

from mirror.domain.access import Identity
from mirror.domain.credentials import Bearer, Credential
from mirror.runtime.fingerprints import Fingerprints
from mirror.runtime.recent import MemoryTier, Recent
from mirror.runtime.single_flight import SingleFlight
from mirror.upstream.identity import Reviewed

_REVIEWED_SECONDS: Final = 60.0
_REFUSED_SECONDS: Final = 10.0
_ENTRY_BYTES: Final = 1000
_JWT_MAX_CHARS: Final = 16 * 1024

Review = Callable[[str], Awaitable[Reviewed | None]]


def shown_token(credential: Credential) -> str | None:
    """Return the JSON Web Token that is shown: as Bearer, or as the password of any user."""
    text = credential.token if isinstance(credential, Bearer) else credential.password
    return text if text.count(".") == 2 and len(text) <= _JWT_MAX_CHARS else None


class KubernetesTokens:
    """Service account tokens by TokenReview; its word is believed for a minute."""

    def __init__(self, review: Review, tier: MemoryTier, fingerprints: Fingerprints) -> None:
        self._review = review
        self._fingerprints = fingerprints
        self._known: Recent[Reviewed | bool] = Recent(tier, "review", lambda _: _ENTRY_BYTES)
        self._flights: SingleFlight[bytes, Reviewed | None] = SingleFlight()
        self._self = object()  # not id(self): who comes after us may get the same

    async def identify(self, credential: Credential) -> Identity | None:
        """Return the service account; raises UpstreamTroubleError if that cannot be told now."""
        token = shown_token(credential)
        if token is None:
            return None
        mark = self._fingerprints.of(token)
        found: Reviewed | bool | None = await self._known.get((self._self, mark))
        if found is None:
            found = await self._flights.do(mark, lambda: self._review(token)) or False
            seconds = _REVIEWED_SECONDS if found else _REFUSED_SECONDS
            await self._known.put((self._self, mark), found, ttl_seconds=seconds)
        return Identity(found.username, found.groups) if isinstance(found, Reviewed) else None

    @property
    def is_asking(self) -> bool:
        """Whether somebody waits for an answer."""
        return len(self._flights) > 0

    async def close(self) -> None:
        """Stop asking."""
        await self._flights.close()
