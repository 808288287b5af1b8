"""Tokens of OpenID issuers, checked by their keys.

A module of its own, imported where there is an issuer: PyJWT and cryptography take 20 MiB.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt

from mirror.domain.access import Identity
from mirror.domain.claims import ClaimRules
from mirror.domain.credentials import Credential
from mirror.domain.errors import UpstreamTroubleError
from mirror.observe.logs import get_logger
from mirror.runtime.clock import Clock
from mirror.runtime.single_flight import SingleFlight
from mirror.service.account_tokens import shown_token

ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Signatures by a private key only: with a shared one, its public half would be a secret."""
KEYS_SECONDS: Final = 3600.0
LOOK_AGAIN_SECONDS: Final = 30.0
"""How often an unknown key may make us ask for the keys."""
_KINDS: Final = {"RSA": ("RS", "PS"), "EC": ("ES",), "OKP": ("EdDSA",)}
"""The kinds of keys, and how the names of what they sign by begin (RFC 7518 section 3.1)."""
_UNREADABLE: Final = (jwt.PyJWTError, ValueError, TypeError, RecursionError)
"""What PyJWT raises at junk: besides its own errors, those of JSON that is nested deeply, of
keys whose fields are of another type, and of text that is not UTF-8."""

_log = get_logger("auth")

FetchKeys = Callable[[], Awaitable[Sequence[Mapping[str, Any]]]]


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A public key, and the signatures that it may have made."""

    key: Any
    algorithms: list[str]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "IssuerKey":
        """Read a JSON Web Key; one that names no algorithm has any of its kind (RFC 7517 4.4).

        Raises one of ``_UNREADABLE`` where it is of a kind that is not known here.
        """
        usable = jwt.PyJWK.from_dict(dict(told))
        named = told.get("alg")
        prefixes = _KINDS[str(told.get("kty"))]
        return cls(
            usable.key,
            [each for each in ALGORITHMS if each.startswith(prefixes) and named in {None, each}],
        )


class KeyRing:
    """The keys of an issuer: fetched at the first token, once an hour, and for a new key."""

    def __init__(self, issuer: str, fetch: FetchKeys, clock: Clock) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, IssuerKey] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._flights: SingleFlight[str, None] = SingleFlight()

    async def find(self, name: str | None) -> IssuerKey | None:
        """Return the key that a token names; without a name, the only one there is.

        Raises:
            UpstreamTroubleError: the issuer's keys have never been had.
        """
        is_old = self._fetched_at is None or self._age(self._fetched_at) > KEYS_SECONDS
        if is_old or (name is not None and name not in self._keys):
            await self._look_again()
        if name is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(name)

    @property
    def is_asking(self) -> bool:
        """Whether somebody waits for the keys."""
        return len(self._flights) > 0

    async def close(self) -> None:
        """Stop asking."""
        await self._flights.close()

    async def _look_again(self) -> None:
        if self._tried_at is not None and self._age(self._tried_at) < LOOK_AGAIN_SECONDS:
            if self._fetched_at is None and not self._flights.is_running(self._issuer):
                raise UpstreamTroubleError(f"identity provider {self._issuer} has not answered")
            if not self._flights.is_running(self._issuer):
                return
        try:
            await self._flights.do(self._issuer, self._refresh)
        except UpstreamTroubleError as error:
            _log.warning("the keys of an identity provider cannot be had", reason=str(error))
            if self._fetched_at is None:
                raise error.with_traceback(None) from None

    async def _refresh(self) -> None:
        self._tried_at = self._clock.monotonic()
        self._keys = _usable(await self._fetch())
        self._fetched_at = self._clock.monotonic()

    def _age(self, at: float) -> float:
        return self._clock.monotonic() - at


def _usable(keys: Sequence[Mapping[str, Any]]) -> dict[str, IssuerKey]:
    found = {}
    for key in keys:
        if str(key.get("kty")) in _KINDS and key.get("use", "sig") == "sig":
            try:
                found[str(key.get("kid", ""))] = IssuerKey.of(key)
            except _UNREADABLE:
                continue  # of a kind that is not known here
    return found


class OidcTokens:
    """Tokens of one issuer."""

    def __init__(self, rules: ClaimRules, keys: KeyRing, clock: Clock) -> None:
        self._rules = rules
        self._keys = keys
        self._clock = clock

    async def identify(self, credential: Credential) -> Identity | None:
        """Return the holder of a token of this issuer.

        Raises:
            UpstreamTroubleError: the issuer's keys cannot be had.
        """
        token = shown_token(credential)
        if token is None:
            return None
        try:
            # Only to find the key: nothing of it counts before the signature has been checked.
            unsafe = jwt.decode_complete(token, options={"verify_signature": False})
        except _UNREADABLE:
            return None
        header, said = unsafe["header"], unsafe["payload"]
        if said.get("iss") != self._rules.issuer or header.get("alg") not in ALGORITHMS:
            return None
        name = header.get("kid")
        key = await self._keys.find(name if isinstance(name, str) else None)
        return None if key is None else self._holder(token, key)

    @property
    def is_asking(self) -> bool:
        """Whether somebody waits for the keys."""
        return self._keys.is_asking

    async def close(self) -> None:
        """Stop asking for keys."""
        await self._keys.close()

    def _holder(self, token: str, key: IssuerKey) -> Identity | None:
        try:
            claims = jwt.decode(token, key.key, algorithms=key.algorithms, options=_SIGNATURE_ONLY)
        except _UNREADABLE:
            return None
        return self._rules.identity(claims, self._clock.wall())


_SIGNATURE_ONLY: Final[Any] = {
    "verify_signature": True,
    # By ``ClaimRules``, with our own clock.
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
}
