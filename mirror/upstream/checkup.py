"""An upstream looked at piece by piece, for whoever wants to know which one does not work.

The way of a pull, in steps that cost no pull: addresses, certificate, front door, login, and
a HEAD that tells how many pulls are left.
"""

import base64
import socket
import ssl
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPSConnection
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from prometheus_client import CollectorRegistry

from mirror.domain.budget import Reading
from mirror.domain.challenge import Challenge, Origin, parse_challenges, usable
from mirror.domain.errors import CredentialRefusedError, UpstreamTroubleError
from mirror.domain.names import Repository, Tag
from mirror.domain.routing import Kind
from mirror.observe.metrics import Metrics
from mirror.runtime.clock import Clock
from mirror.runtime.pools import Pool, Pools
from mirror.runtime.recent import MemoryTier
from mirror.settings import Upstream
from mirror.upstream.accounts import Account, Accounts
from mirror.upstream.dns import PooledResolver
from mirror.upstream.logins import Logins, LoginTools
from mirror.upstream.tokens import AccessRefusedError, TokenKey, Tokens
from mirror.upstream.transport import Transport, proxy_of_environment, tls_context, translated
from mirror.upstream.upstreams import Upstreams, same_site

_TIER_BYTES: Final = 1024 * 1024
_REFUSED: Final = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a registry showed; ``expires_at`` is ``None`` where nobody checked it."""

    expires_at: datetime | None
    issuer: str


@dataclass(frozen=True, slots=True)
class Greeting:
    """The answer of a registry's front door, ``/v2/``."""

    status: int
    seconds: float
    challenge: Challenge | None
    ahead_seconds: float | None
    """By how much the registry's clock is ahead of ours, if it tells the time."""

    @property
    def is_registry(self) -> bool:
        """Whether it is what a registry says to somebody who has shown nothing yet."""
        return self.status == 200 or (self.status == 401 and self.challenge is not None)


def proxy_of(upstream: Upstream, url: str) -> str | None:
    """Return the proxy on the way to an endpoint, with the password it may have."""
    return upstream.proxy or proxy_of_environment(url)


class Checkup:
    """One upstream; close it when done."""

    def __init__(self, upstream: Upstream, pools: Pools, pool: Pool) -> None:
        """Set up; nothing is asked yet.

        Args:
            upstream: The upstream, with its effective policy.
            pools: For look-ups and secrets.
            pool: Threads for what may hang, such as a handshake.
        """
        self._upstream = upstream
        self._pool = pool
        self._resolver = PooledResolver(pools.dns)
        self._metrics = Metrics(CollectorRegistry())
        self._tier = MemoryTier(_TIER_BYTES)
        self._transport = Transport(upstream, pools, self._metrics)
        self._login_tools = LoginTools.of(pools, Clock())
        self._accounts = Accounts(upstream, Logins(upstream, self._login_tools))
        patience = upstream.policy.timeouts.response_seconds
        self._tokens = Tokens(self._transport, self._tier, upstream.name, same_site, patience)
        self._upstreams = Upstreams(
            {upstream.name: upstream}, pools, self._tier, self._metrics, Clock()
        )

    async def addresses(self, origin: Origin) -> list[str]:
        """Return the addresses of a host; raises OSError where there are none."""
        found = await self._resolver.resolve(origin.host, origin.port, socket.AF_UNSPEC)
        return list(dict.fromkeys(each["host"] for each in found))

    async def certificate(self, endpoint: str, limit_seconds: float) -> Certificate:
        """Return what an https endpoint shows; raises UpstreamTroubleError."""
        return await self._pool.run(_shown, endpoint, self._upstream, limit_seconds)

    async def greet(self, endpoint: str) -> Greeting:
        """Knock at the front door; raises UpstreamTroubleError."""
        started, at = time.monotonic(), time.time()
        response = await self._transport.send("GET", f"{endpoint}/v2/", {}, Kind.PING)
        seconds = time.monotonic() - started
        response.release()
        challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
        ahead_seconds = _ahead_seconds(response.headers.get("Date"), at + seconds / 2)
        return Greeting(response.status, seconds, usable(challenges), ahead_seconds)

    async def everyone(self) -> list[Account | CredentialRefusedError]:
        """Return the accounts that there are."""
        return await self._accounts.everyone()

    async def sign_in(self, endpoint: str, greeting: Greeting, account: Account) -> str:
        """Prove who we are, and return how.

        Raises:
            AccessRefusedError: the anonymous gets nothing.
            CredentialRefusedError: the account is refused.
            TroubleError: the token endpoint does not answer as it should.
        """
        challenge = greeting.challenge
        if account.token is not None:
            await self._shows(endpoint, f"Bearer {account.token}", account)
            return "bearer token accepted"
        if challenge is None:
            return "nothing is asked for"
        basic = account.basic()
        if challenge.scheme == "basic":
            if basic is None:
                raise AccessRefusedError
            await self._shows(endpoint, basic, account)
            return "password accepted"
        url = f"{endpoint}/v2/"
        realm = self._tokens.check_realm(challenge, url, self._upstream.realms)
        scope = challenge.get("scope") or ""
        try:
            await self._tokens.get(TokenKey(realm, challenge.get("service"), scope, account))
        except AccessRefusedError:  # the account is good, if not for what the front door names
            if account.is_anonymous:
                raise
            return "login accepted"
        return "token given"

    async def reading(self, name: str, tag: str) -> tuple[Reading | None, str]:
        """Ask by HEAD, which costs no pull; returns what is left, and of which account.

        Raises MirrorError where no answer comes.
        """
        repository = Repository(self._upstream.name, name)
        registry = self._upstreams.of(repository)
        async with registry.deadline():
            await registry.head_manifest(repository, Tag(tag))
        rate = registry.rate(repository)
        return (None if rate.budget is None else rate.budget.last), rate.account

    async def close(self) -> None:
        """Close all connections."""
        await self._tokens.close()
        await self._transport.close()
        await self._upstreams.close()
        await self._accounts.close()
        await self._login_tools.calls.close()
        await self._tier.clear()

    async def _shows(self, endpoint: str, authorization: str, account: Account) -> None:
        headers = {"Authorization": authorization}
        response = await self._transport.send("GET", f"{endpoint}/v2/", headers, Kind.PING)
        response.release()
        if response.status in _REFUSED:
            raise CredentialRefusedError(f"account {account.name}: status {response.status}")


def _ahead_seconds(date: str | None, now: float) -> float | None:
    try:
        told = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    # The header has whole seconds: half a second is lost on average.
    return told.timestamp() + 0.5 - now


def _shown(endpoint: str, upstream: Upstream, limit_seconds: float) -> Certificate:
    """Shake hands with an endpoint, through its proxy if it has one."""
    context = tls_context(upstream.tls, at_home=True)
    target, proxy = urlsplit(endpoint), proxy_of(upstream, endpoint)
    try:
        with closing(_connection(target, proxy, context, limit_seconds)) as connection:
            connection.connect()
            shown = connection.sock.getpeercert() if connection.sock else None
    except OSError as error:
        raise translated(error, endpoint) from None
    if not shown:
        return Certificate(None, "")
    seconds = ssl.cert_time_to_seconds(str(shown["notAfter"]))
    return Certificate(datetime.fromtimestamp(seconds, UTC), _issuer(shown.get("issuer", ())))


def _connection(
    target: SplitResult, proxy: str | None, context: ssl.SSLContext, limit_seconds: float
) -> HTTPSConnection:
    host, port = target.hostname or "", target.port or 443
    if proxy is None:
        return HTTPSConnection(host, port, timeout=limit_seconds, context=context)
    via = urlsplit(proxy)
    if via.scheme != "http":
        raise UpstreamTroubleError("a certificate behind an https proxy is not looked at")
    connection = HTTPSConnection(
        via.hostname or "", via.port or 80, timeout=limit_seconds, context=context
    )
    headers = {}
    if via.username is not None:
        pair = f"{unquote(via.username)}:{unquote(via.password or '')}".encode()
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    connection.set_tunnel(host, port, headers)
    return connection


def _issuer(names: object) -> str:
    """Return the most telling name of an issuer, as ``getpeercert`` writes them."""
    pairs = (
        {key: value for part in names for key, value in part} if isinstance(names, tuple) else {}
    )
    return str(pairs.get("organizationName") or pairs.get("commonName") or "")
