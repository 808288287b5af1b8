"""What the claims of a token say of its holder, once its signature is known to be good."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mirror.domain.access import Identity

LEEWAY_SECONDS: Final = 30.0
"""How far clocks may differ."""
_NAME_MAX_CHARS: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRules:
    """What a token of an issuer must say, and where it says who its holder is."""

    issuer: str
    audience: str
    required: Mapping[str, str]
    username_claim: str = "sub"
    groups_claim: str = "groups"
    prefix: str = ""
    wanted: Collection[str] = ()
    """Claims that the rules of the configuration ask for."""

    def identity(self, claims: Mapping[str, Any], now: float) -> Identity | None:
        """Return the holder; ``None``: the token is not for us, or not now.

        Args:
            claims: All that the token says.
            now: Seconds since the epoch.

        Source:
            RFC 7519 section 4.1; OpenID Connect Core section 3.1.3.7.
        """
        if claims.get("iss") != self.issuer or self.audience not in _texts(claims.get("aud")):
            return None
        if not _is_in_time(claims, now):
            return None
        if any(value not in _texts(claims.get(name)) for name, value in self.required.items()):
            return None
        user = claims.get(self.username_claim)
        if not isinstance(user, str) or not 0 < len(user) <= _NAME_MAX_CHARS:
            return None
        if not user.isprintable():
            return None
        groups = frozenset(self.prefix + name for name in _texts(claims.get(self.groups_claim)))
        said = {(name, value) for name in self.wanted for value in _texts(claims.get(name))}
        return Identity(self.prefix + user, groups, frozenset(said))


def _is_in_time(claims: Mapping[str, Any], now: float) -> bool:
    expires, begins = claims.get("exp"), claims.get("nbf", 0)
    if not isinstance(expires, int | float) or not isinstance(begins, int | float):
        return False
    try:
        return float(begins) - LEEWAY_SECONDS <= now < float(expires) + LEEWAY_SECONDS
    except OverflowError:  # JSON knows numbers that a float cannot hold
        return False


def _texts(value: object) -> frozenset[str]:
    """Return what a claim says, which may be one value or a list of them."""
    values = value if isinstance(value, list) else [value]
    return frozenset(filter(None, map(_text, values)))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int) else ""
