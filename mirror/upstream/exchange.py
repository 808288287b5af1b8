"""One question to one endpoint: proves who we are, and follows redirects.

Credentials go to the endpoint's own origin and to the token endpoints that its realm rule
allows, nowhere else (invariant 11). A redirect target that asks for a token of its
own gets an anonymous one (registry.k8s.io leads to registries that do).
"""

import re
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

import aiohttp

from mirror.domain.challenge import Challenge, Origin, parse_challenges, usable
from mirror.domain.endpoints import Endpoint
from mirror.domain.errors import CredentialRefusedError, UpstreamTroubleError
from mirror.domain.names import Repository
from mirror.domain.redirects import MAX_HOPS, REDIRECT_STATUSES, next_hop, same_origin
from mirror.domain.routing import Kind
from mirror.runtime.recent import MemoryTier, Recent
from mirror.upstream.accounts import ANONYMOUS, Account, Accounts
from mirror.upstream.door import Door
from mirror.upstream.tokens import TokenKey, Tokens
from mirror.upstream.transport import Transport

_MORE_TRIES: Final = 2
_EXPIRED: Final = frozenset({400, 403})
"""What CDNs answer to a signed address that came too late: the registry gives a new one."""
_API_PATH: Final = re.compile(r"/v2/(.+)/(?:manifests|blobs|referrers|tags)/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of an endpoint: everything but where and as whom."""

    kind: Kind
    method: str
    repository: Repository
    path: str
    accept: str | None = None
    range_header: str | None = None
    query: tuple[tuple[str, str], ...] = ()
    read_ahead_bytes: int = 1024 * 1024
    """About half of what is received ahead of whoever takes the body."""

    def url(self, endpoint: Endpoint) -> str:
        """Return the URL at an endpoint; one that is not the registry is told ``ns``."""
        names = () if endpoint.is_registry else (("ns", self.repository.upstream),)
        query = urlencode([*self.query, *names])
        path = f"{endpoint.url}/v2/{self.repository.name}/{self.path}"
        return f"{path}?{query}" if query else path

    @property
    def counts_as_pull(self) -> bool:
        """Whether upstreams with a pull limit count this (Docker Hub: HEAD and blobs are free)."""
        return self.kind is Kind.MANIFEST and self.method == "GET"

    def headers(self) -> dict[str, str]:
        """Return the headers that depend on the question."""
        headers = {"Accept": self.accept or "*/*"}
        if self.range_header is not None:
            headers["Range"] = self.range_header
        return headers


@dataclass(frozen=True, slots=True)
class Reply:
    """The final answer, by which endpoint, and whether another origin than it gave it."""

    response: aiohttp.ClientResponse
    foreign: bool
    endpoint: str


@dataclass(frozen=True, slots=True)
class _Hop:
    """One URL on the way, and as whom it is asked."""

    url: str
    base: str | None
    """Where this registry's ``/v2/`` is; ``None`` if it is not known to be a registry."""
    question: Question
    account: Account
    realms: tuple[str, ...]
    """Hosts that the operator allows as token endpoints."""
    door: Door | None = None
    """The endpoint's own, which learns whether it answers; a CDN has none."""

    @property
    def key(self) -> tuple[object, ...]:
        """What a kept challenge belongs to."""
        return Origin.of(self.url), self.question.repository, self.account.name


@dataclass(frozen=True, slots=True)
class _Proof:
    """What is sent to prove who we are."""

    authorization: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    final: bool = False
    """There is no better one: it is a new token or a configured secret."""

    @property
    def configured(self) -> bool:
        """Whether it is a configured secret itself and not a token got for one."""
        return self.authorization is not None and self.token is None

    def may_be_outdated(self, status: int) -> bool:
        """Tell whether a new proof may help: some say 403 for a token that expired."""
        if self.final:
            return False
        return status == 401 or (status == 403 and self.token is not None)


class Exchange:
    """Asks the endpoints of one upstream."""

    def __init__(
        self,
        transport: Transport,
        tokens: Tokens,
        tier: MemoryTier,
        accounts: Accounts,
        realms: tuple[str, ...],
    ) -> None:
        self._transport = transport
        self._tokens = tokens
        self._accounts = accounts
        self._realms = realms
        self._challenges: Recent[Challenge] = Recent(tier, "challenge", lambda _: 500)

    async def ask(
        self, endpoint: Endpoint, question: Question, account: Account, door: Door
    ) -> Reply:
        """Return the head of the final answer; the caller closes the response.

        If the account is refused, its secret may have expired or been replaced meanwhile: it
        is asked once more with the present one, if that is another.

        Raises:
            AccessRefusedError: a token endpoint refuses the repository.
            TroubleError: no connection, a loop of redirects, a forbidden realm.
        """
        try:
            return await self._ask(endpoint, question, account, door)
        except CredentialRefusedError:
            renewed = await self._accounts.account(question.repository, not_this=account)
            if renewed == account:
                raise
        return await self._ask(endpoint, question, renewed, door)

    async def _ask(
        self, endpoint: Endpoint, question: Question, account: Account, door: Door
    ) -> Reply:
        reply = await self._follow(endpoint, question, account, door)
        if reply.foreign and reply.response.status in _EXPIRED:
            reply.response.release()
            reply = await self._follow(endpoint, question, account, door)
        return reply

    async def close(self) -> None:
        """Stop asking for tokens and secrets."""
        await self._tokens.close()
        await self._accounts.close()

    async def _follow(
        self, endpoint: Endpoint, question: Question, account: Account, door: Door
    ) -> Reply:
        url = question.url(endpoint)
        for _ in range(MAX_HOPS + 1):
            foreign = not same_origin(url, endpoint.url)
            if foreign:
                before, api, _path = url.partition("/v2/")
                hop = _Hop(url, before if api else None, question, ANONYMOUS, ())
            else:
                hop = _Hop(url, endpoint.url, question, account, self._realms, door)
            response = await self._hop(hop)
            if response.status not in REDIRECT_STATUSES:
                return Reply(response, foreign, endpoint.url)
            response.release()
            url = next_hop(url, response.headers.get("Location"))
        raise UpstreamTroubleError(f"more than {MAX_HOPS} redirects")

    async def _hop(self, hop: _Hop) -> aiohttp.ClientResponse:
        """Ask one URL, at most three times: as known, with a kept token, with a new one."""
        challenge = await self._challenges.get(hop.key)
        proof = await self._known_proof(hop, challenge)
        response = await self._send(hop, proof)
        for _ in range(_MORE_TRIES):
            if not proof.may_be_outdated(response.status):
                break
            response.release()
            challenge = await self._challenge(response, hop) or challenge
            if challenge is None:
                break
            better = await self._prove(hop, challenge, not_this=proof.token)
            if better.authorization is None:
                break
            await self._challenges.put(hop.key, challenge)
            proof = better
            response = await self._send(hop, proof)
        await self._check_credential(hop, proof, response)
        return response

    async def _send(self, hop: _Hop, proof: _Proof) -> aiohttp.ClientResponse:
        question = hop.question
        headers = question.headers()
        if proof.authorization is not None:
            headers["Authorization"] = proof.authorization
        sending = self._transport.send(
            question.method, hop.url, headers, question.kind, question.read_ahead_bytes
        )
        async with nullcontext() if hop.door is None else hop.door.asked():
            return await sending

    async def _known_proof(self, hop: _Hop, challenge: Challenge | None) -> _Proof:
        """Return what this origin wanted for this repository the last time."""
        if hop.account.token is not None:
            return _Proof(f"Bearer {hop.account.token}", final=True)
        if challenge is None:
            return _Proof()
        try:
            return await self._prove(hop, challenge, not_this=None)
        except BaseException:  # its time being up, too: next time the registry tells anew where
            await self._challenges.drop(hop.key)
            raise

    async def _challenge(self, response: aiohttp.ClientResponse, hop: _Hop) -> Challenge | None:
        """Return the challenge to meet: of the answer or, if it has none, of ``/v2/``."""
        lines = response.headers.getall("WWW-Authenticate", [])
        found = usable(parse_challenges(lines))
        if found is not None or response.status != 401 or hop.base is None:
            return found
        ping = await self._ping(hop.base, {})  # gcr.io answers 401 without a challenge
        return usable(parse_challenges(ping.headers.getall("WWW-Authenticate", [])))

    async def _check_credential(
        self, hop: _Hop, proof: _Proof, response: aiohttp.ClientResponse
    ) -> None:
        """Raise CredentialRefusedError if our secret itself is refused, not just this repository.

        The registry's front door tells: ECR says 403 for a password that has expired, others
        say 401 for a repository that the account may not see.
        """
        if not proof.configured or response.status not in {401, 403} or hop.base is None:
            return
        if hop.account.is_callers:
            return  # that one is refused is the caller's affair
        response.release()
        ping = await self._ping(hop.base, {"Authorization": proof.authorization or ""})
        if ping.status in {401, 403}:
            raise CredentialRefusedError(f"{hop.question.repository}: status {response.status}")

    async def _ping(self, base: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        ping = await self._transport.send("GET", f"{base}/v2/", headers, Kind.PING)
        ping.release()
        return ping

    async def _prove(self, hop: _Hop, challenge: Challenge, *, not_this: str | None) -> _Proof:
        if challenge.scheme == "basic":
            if hop.account.identity_token is not None:
                raise CredentialRefusedError("it wants a password, and the account has a token")
            return _Proof(hop.account.basic(), final=True)
        key = TokenKey(
            self._tokens.check_realm(challenge, hop.url, hop.realms),
            challenge.get("service"),
            challenge.get("scope") or _scope(hop.url, hop.question.repository),
            hop.account,
        )
        token = await self._tokens.get(key, not_this=not_this)
        return _Proof(f"Bearer {token.value}", token.value, final=token.is_new)


def _scope(url: str, repository: Repository) -> str:
    """Return the scope to ask for when the challenge names none."""
    path = _API_PATH.search(url)
    return f"repository:{path[1] if path else repository.name}:pull"
