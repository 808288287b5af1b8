"""One question to one endpoint: proves who we are, and follows redirects.

Credentials go to the endpoint's own origin and to the token endpoints that its realm rule
allows, nowhere else (DESIGN, invariant 12). A redirect target that asks for a token of its
own gets an anonymous one (registry.k8s.io leads to registries that do).
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

import aiohttp

from mirror.domain.challenge import Challenge, Origin, parse_challenges
from mirror.domain.endpoints import Endpoint
from mirror.domain.errors import CredentialRefusedError, UpstreamTroubleError
from mirror.domain.names import Repository
from mirror.domain.redirects import MAX_HOPS, REDIRECT_STATUSES, next_hop, same_origin
from mirror.domain.routing import Kind
from mirror.runtime.recent import MemoryTier, Recent
from mirror.upstream.accounts import ANONYMOUS, Account
from mirror.upstream.tokens import TokenKey, Tokens
from mirror.upstream.transport import Transport

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

    def headers(self) -> dict[str, str]:
        """Return the headers that depend on the question."""
        headers = {"Accept": self.accept or "*/*"}
        if self.range_header is not None:
            headers["Range"] = self.range_header
        return headers


@dataclass(frozen=True, slots=True)
class Reply:
    """The final answer, and whether another origin than the endpoint's gave it."""

    response: aiohttp.ClientResponse
    foreign: bool


@dataclass(frozen=True, slots=True)
class _Proof:
    """What is sent to prove who we are."""

    authorization: str | None = None
    token: str | None = None
    final: bool = False
    """There is no better one: it is a new token or a configured secret."""

    @property
    def configured(self) -> bool:
        """Whether it is a configured secret itself and not a token got for one."""
        return self.authorization is not None and self.token is None

    def may_be_outdated(self, status: int) -> bool:
        """Tell whether a new proof may help: ECR says 403 for a token that expired."""
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
        realms: tuple[str, ...],
    ) -> None:
        self._transport = transport
        self._tokens = tokens
        self._realms = realms
        self._challenges: Recent[Challenge] = Recent(tier, "challenge", lambda _: 500)

    async def ask(self, endpoint: Endpoint, question: Question, account: Account) -> Reply:
        """Return the head of the final answer; the caller closes the response.

        Raises:
            AccessRefusedError: a token endpoint refuses the anonymous.
            UpstreamTroubleError: no connection, a loop of redirects, a forbidden realm.
        """
        url = question.url(endpoint)
        for _ in range(MAX_HOPS + 1):
            foreign = not same_origin(url, endpoint.url)
            response = await self._hop(url, question, ANONYMOUS if foreign else account)
            if response.status not in REDIRECT_STATUSES:
                return Reply(response, foreign)
            location = response.headers.get("Location")
            response.release()
            url = next_hop(url, location)
        raise UpstreamTroubleError(f"more than {MAX_HOPS} redirects")

    async def _hop(self, url: str, question: Question, account: Account) -> aiohttp.ClientResponse:
        """Ask one URL, at most three times: as known, with a kept token, with a new one."""
        proof = await self._known_proof(url, question, account)
        while True:
            response = await self._send(url, question, proof)
            if proof.configured and response.status == 401:
                response.close()
                raise CredentialRefusedError(f"{question.repository}: status 401")
            if not proof.may_be_outdated(response.status):
                return response
            challenge = await self._challenge(response, url)
            if challenge is None:
                return response
            better = await self._prove(challenge, url, question, account, not_this=proof.token)
            if better.authorization is None:
                return response
            response.close()
            await self._challenges.put(self._key(url, question, account), challenge)
            proof = better

    async def _send(self, url: str, question: Question, proof: _Proof) -> aiohttp.ClientResponse:
        headers = question.headers()
        if proof.authorization is not None:
            headers["Authorization"] = proof.authorization
        return await self._transport.send(
            question.method, url, headers, question.kind, question.read_ahead_bytes
        )

    async def _known_proof(self, url: str, question: Question, account: Account) -> _Proof:
        """Return what this origin wanted for this repository the last time."""
        if account.token is not None:
            return _Proof(f"Bearer {account.token}", final=True)
        challenge = await self._challenges.get(self._key(url, question, account))
        if challenge is None:
            return _Proof()
        return await self._prove(challenge, url, question, account, not_this=None)

    @staticmethod
    def _key(url: str, question: Question, account: Account) -> tuple[object, ...]:
        return Origin.of(url), question.repository, account.name

    async def _challenge(self, response: aiohttp.ClientResponse, url: str) -> Challenge | None:
        """Return the challenge to meet: of the answer or, if it has none, of ``/v2/``."""
        lines = response.headers.getall("WWW-Authenticate", [])
        found = _usable(parse_challenges(lines))
        if found is not None or response.status != 401:
            return found
        base = url.partition("/v2/")[0]  # gcr.io answers 401 without a challenge
        ping = await self._transport.send("GET", f"{base}/v2/", {}, Kind.PING)
        lines = ping.headers.getall("WWW-Authenticate", [])
        ping.close()
        return _usable(parse_challenges(lines))

    async def _prove(
        self,
        challenge: Challenge,
        url: str,
        question: Question,
        account: Account,
        *,
        not_this: str | None,
    ) -> _Proof:
        if challenge.scheme == "basic":
            return _Proof(account.basic(), final=True)
        realms = () if account is ANONYMOUS else self._realms
        key = TokenKey(
            self._tokens.check_realm(challenge, url, realms),
            challenge.get("service"),
            challenge.get("scope") or _scope(url, question.repository),
            account,
        )
        token = await self._tokens.get(key, not_this=not_this)
        return _Proof(f"Bearer {token.value}", token.value, final=token.is_new)


def _usable(challenges: list[Challenge]) -> Challenge | None:
    """Return the challenge that we can meet, Bearer before Basic."""
    for scheme in ("bearer", "basic"):
        for challenge in challenges:
            if challenge.scheme == scheme:
                return challenge
    return None


def _scope(url: str, repository: Repository) -> str:
    """Return the scope to ask for when the challenge names none."""
    path = _API_PATH.search(url)
    return f"repository:{path[1] if path else repository.name}:pull"
