"""Bearer tokens: fetched once for many, kept until shortly before they expire.

Source: the distribution token specification, and what registries make of it.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode

import aiohttp

from mirror.domain.backoff import retry_after_seconds
from mirror.domain.challenge import Challenge, realm_allowed
from mirror.domain.errors import (
    CredentialRefusedError,
    RateLimitedError,
    UpstreamTimeoutError,
    UpstreamTroubleError,
)
from mirror.domain.redirects import redact
from mirror.domain.routing import Kind
from mirror.runtime.recent import MemoryTier, Recent
from mirror.runtime.single_flight import SingleFlight
from mirror.upstream.accounts import Account
from mirror.upstream.transport import Transport, translated

_DEFAULT_SECONDS: Final = 60
_MIN_SECONDS: Final = 60
_MAX_SECONDS: Final = 24 * 3600
_USED_SHARE: Final = 0.9
_BODY_MAX_BYTES: Final = 1024 * 1024
_REFUSED: Final = frozenset({400, 401, 403})
_GOOD_SECONDS: Final = 5.0
_BAD_SECONDS: Final = 10.0
"""For how long it is believed that a token endpoint lets an account in, or does not."""


class AccessRefusedError(Exception):
    """The token endpoint gives no token for this repository, which says nothing of the account."""


@dataclass(frozen=True, slots=True)
class TokenKey:
    """What a token is good for; the credential belongs to it (trap 17)."""

    realm: str
    service: str | None
    scope: str
    """What is wanted; empty for nothing but to be let in, as at a login."""
    account: Account

    def url(self) -> str:
        """Return the URL to ask, with the parameters that the challenge had."""
        fields = [("service", self.service)] if self.service is not None else []
        scopes = [("scope", self.scope)] if self.scope else []
        query = urlencode([*fields, *scopes])
        return f"{self.realm}{'&' if '?' in self.realm else '?'}{query}"

    def form(self, identity_token: str) -> bytes:
        """Return the body that asks with an identity token (OAuth 2.0, RFC 6749 section 6)."""
        fields = [
            ("grant_type", "refresh_token"),
            *([("service", self.service)] if self.service is not None else []),
            ("client_id", "mirror"),
            *([("scope", self.scope)] if self.scope else []),
            ("refresh_token", identity_token),
        ]
        return urlencode(fields).encode()


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token and how long it may be used, in seconds."""

    value: str = field(repr=False)
    lifetime_seconds: float
    is_new: bool = True


class Tokens:
    """The tokens of one upstream."""

    def __init__(
        self,
        transport: Transport,
        tier: MemoryTier,
        upstream: str,
        same_site: Callable[[str, str], bool],
        patience_seconds: float,
    ) -> None:
        self._transport = transport
        self._patience_seconds = patience_seconds
        self._upstream = upstream
        self._same_site = same_site
        self._flights: SingleFlight[TokenKey, Token] = SingleFlight()
        self._cache: Recent[Token] = Recent(
            tier, f"token {upstream}", lambda token: len(token.value) + 500
        )
        self._logins: SingleFlight[TokenKey, bool] = SingleFlight()
        self._good: Recent[bool] = Recent(tier, f"login {upstream}", lambda _: 500)

    async def get(self, key: TokenKey, *, not_this: str | None = None) -> Token:
        """Return a token, asked for at most once at a time.

        Args:
            key: What it is for.
            not_this: A token that the registry has just refused.

        Raises:
            AccessRefusedError: there is none for who asks, whose account is not to blame.
            CredentialRefusedError: our configured account is refused.
            TroubleError: the token endpoint is in trouble or limits our rate.
        """
        cached = await self._cache.get(key)
        if cached is not None and cached.value != not_this:
            return replace(cached, is_new=False)
        return await self._flights.do(key, lambda: self._fetch(key))

    def check_realm(self, challenge: Challenge, url: str, extra_hosts: tuple[str, ...]) -> str:
        """Return the realm of a challenge that *url* sent, if a token may be asked for there.

        Raises:
            UpstreamTroubleError: it may not (CVE-2026-33540).
        """
        realm = (challenge.get("realm") or "").partition("#")[0]
        if realm_allowed(realm, url, extra_hosts=extra_hosts, same_site=self._same_site):
            return realm
        raise UpstreamTroubleError(
            f"{redact(url)} names the token endpoint {redact(realm)}, which is not allowed; "
            f"if it is right, add its host to upstreams.{self._upstream}.realms"
        )

    async def close(self) -> None:
        """Stop asking."""
        await self._flights.close()
        await self._logins.close()

    async def _fetch(self, key: TokenKey) -> Token:
        response, body = await self._answer(key)
        if response.status in _REFUSED:
            if await self._is_let_in(key):
                raise AccessRefusedError
            raise CredentialRefusedError(f"{redact(key.realm)}: status {response.status}")
        self._raise_trouble(response, key)
        token = read_token(body, key.realm)
        await self._cache.put(key, token, ttl_seconds=token.lifetime_seconds)
        return token

    async def _is_let_in(self, key: TokenKey) -> bool:
        """Tell whether it is the repository that was refused, and not who asked for it.

        Token endpoints say 401 and 403 for both (ghcr.io does). Asked without a scope, as
        ``docker login`` asks, they tell them apart. The anonymous has nothing that could be wrong,
        and what is wrong with a caller's login is the caller's affair.
        """
        if key.account.is_anonymous or key.account.is_callers:
            return True
        if not key.scope:
            return False
        login = replace(key, scope="")
        known = await self._good.get(login)
        return await self._logins.do(login, lambda: self._log_in(login)) if known is None else known

    async def _log_in(self, key: TokenKey) -> bool:
        response, _ = await self._answer(key)
        is_good = 200 <= response.status < 300
        if response.status == 429 or response.status >= 500:
            self._raise_trouble(response, key)
        await self._good.put(key, is_good, ttl_seconds=_GOOD_SECONDS if is_good else _BAD_SECONDS)
        return is_good

    async def _answer(self, key: TokenKey) -> tuple[aiohttp.ClientResponse, bytes]:
        try:
            # A limit of its own: whoever asks next would otherwise join what hangs.
            async with asyncio.timeout(self._patience_seconds):
                return await self._ask(key)
        except TimeoutError:
            raise UpstreamTimeoutError(redact(key.realm)) from None

    async def _ask(self, key: TokenKey) -> tuple[aiohttp.ClientResponse, bytes]:
        """Ask by GET, which all token endpoints know; an identity token needs a POST."""
        headers = {"Accept": "application/json"}
        if key.account.identity_token is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            sending = self._transport.send(
                "POST",
                key.realm,
                headers,
                Kind.OTHER,
                body=key.form(key.account.identity_token),
                named_by="realms",
            )
        else:
            if basic := key.account.basic():
                headers["Authorization"] = basic
            sending = self._transport.send("GET", key.url(), headers, Kind.OTHER, named_by="realms")
        response = await sending
        try:
            return response, await _read(response, key.realm)
        finally:
            response.close()

    def _raise_trouble(self, response: aiohttp.ClientResponse, key: TokenKey) -> None:
        status = response.status
        if status == 200:
            return
        if status == 429:
            wait = response.headers.get("Retry-After")
            raise RateLimitedError(self._upstream, retry_after_seconds(wait, datetime.now(UTC)))
        raise UpstreamTroubleError(f"{redact(key.realm)}: status {status}")


async def _read(response: aiohttp.ClientResponse, realm: str) -> bytes:
    body = bytearray()
    try:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > _BODY_MAX_BYTES:
                raise UpstreamTroubleError(f"{redact(realm)}: the token answer is too large")
    except (aiohttp.ClientError, OSError) as error:
        raise translated(error, realm) from None
    return bytes(body)


def read_token(body: bytes, realm: str) -> Token:
    """Read a token answer, whatever dialect it is in.

    ``token`` or ``access_token``; ``expires_in`` may be missing (60 s, as the
    specification says), a string, a fraction or absurd.
    """
    try:
        fields = json.loads(body, parse_int=float)  # a number may have any number of digits
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise UpstreamTroubleError(f"{redact(realm)}: the token answer is not a JSON object")
    value = fields.get("token") or fields.get("access_token")
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise UpstreamTroubleError(f"{redact(realm)}: the token answer has no usable token")
    return Token(value, _USED_SHARE * _lifetime(fields.get("expires_in")))


def _lifetime(expires_in: object) -> float:
    try:
        seconds = float(expires_in)  # type: ignore[arg-type]  # junk of any type is caught
    except (TypeError, ValueError, OverflowError):
        return _DEFAULT_SECONDS
    if not 0 < seconds < float("inf"):
        return _DEFAULT_SECONDS
    return min(max(seconds, _MIN_SECONDS), _MAX_SECONDS)
