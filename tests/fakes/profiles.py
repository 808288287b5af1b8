"""Registries of the real world, as far as their habits matter to a client.

Each profile is an async context manager that gives a ``Site``.  Everything about a site
may be changed by the test.  What is known of the habits is in the protocol notes of the
project; a profile shows a habit, it does not prove that the registry still has it.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from tests.fakes import answers, faults
from tests.fakes.answers import Answer
from tests.fakes.auth import (
    MISSING,
    BasicGuard,
    Challenge,
    FakeTokenServer,
    TokenGuard,
    TokenService,
    Verdict,
)
from tests.fakes.cdn import FakeCdn
from tests.fakes.origin import Origin
from tests.fakes.registry import FakeRegistry, Redirect, RegistryOptions
from tests.fakes.wire import Kind, Recorded

_PULL_LIMIT_MESSAGE: Final = (
    "You have reached your pull rate limit. You may increase the limit by authenticating "
    "and upgrading: https://www.docker.com/increase-rate-limits"
)


@dataclass(slots=True, kw_only=True)
class PullBudget:
    """Counts manifest GETs as pulls, as Docker Hub does; HEAD is free."""

    limit: int = 100
    window_seconds: int = 21600
    used: int = 0
    retry_after: str | None = None
    sends_headers: bool = True

    def exhaust(self) -> None:
        self.used = self.limit

    def headers(self) -> list[tuple[str, str]]:
        if not self.sends_headers:
            return []
        left = max(0, self.limit - self.used)
        return [
            ("ratelimit-limit", f"{self.limit};w={self.window_seconds}"),
            ("ratelimit-remaining", f"{left};w={self.window_seconds}"),
            ("docker-ratelimit-source", "203.0.113.7"),
        ]

    def refusal(self, request: Recorded) -> Answer | None:
        """Count *request*, and answer it if the budget was used up before."""
        if request.kind is not Kind.MANIFEST or request.method != "GET":
            return None
        if self.used < self.limit:
            self.used += 1
            return None
        answer = answers.error(429, "TOOMANYREQUESTS", _PULL_LIMIT_MESSAGE)
        answer.headers += self.headers()
        if self.retry_after is not None:
            answer.headers.append(("Retry-After", self.retry_after))
        return answer


class HubRegistry(FakeRegistry):
    """A registry with a pull budget."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = PullBudget()
        self.before = self.budget.refusal

    def answer(self, request: Recorded) -> Answer:
        answer = super().answer(request)
        if request.kind is Kind.MANIFEST and answer.status == 200:
            answer.headers += self.budget.headers()
        return answer


@dataclass(slots=True, kw_only=True)
class Site:
    """A registry and the origins beside it."""

    registry: FakeRegistry
    tokens: TokenService | None = None
    token_origin: Origin | None = None
    """Where token requests are recorded, with kind ``token``; often the registry itself."""
    cdn: FakeCdn | None = None
    backend: FakeRegistry | None = None
    """The host that k8s redirects to; push content here."""
    basic: BasicGuard | None = None
    budget: PullBudget | None = None

    @property
    def url(self) -> str:
        return self.registry.url

    @property
    def origins(self) -> list[Origin]:
        """Every origin, each of them once."""
        found = (self.registry, self.token_origin, self.cdn, self.backend)
        return list({id(each): each for each in found if each is not None}.values())

    @property
    def home(self) -> FakeRegistry:
        """The registry that holds the content."""
        return self.backend or self.registry


Profile = Callable[[], AbstractAsyncContextManager[Site]]


def _tokens_on(
    registry: FakeRegistry, path: str, tokens: TokenService, challenge: Challenge | None = None
) -> TokenGuard:
    registry.mount(path, tokens.answer)
    guard = TokenGuard(tokens=tokens, realm=registry.url + path, challenge=challenge or Challenge())
    registry.guard = guard
    return guard


@asynccontextmanager
async def hub() -> AsyncIterator[Site]:
    """Docker Hub: tokens for all, 401 for what is missing, a budget, a CDN, bot rules."""
    async with HubRegistry() as registry, FakeTokenServer() as server, FakeCdn() as cdn:
        tokens = server.tokens
        tokens.service = "registry.docker.io"
        tokens.policy = _less_for_missing(registry, tokens)
        registry.guard = server.guard()
        for origin in (registry, cdn):
            origin.requires_user_agent = True
        cdn.refuses_authorization = True
        cdn.query = "verify=1795471200-a%2Bb%3D"
        cdn.serve_blobs_of(registry)
        yield Site(
            registry=registry,
            tokens=tokens,
            token_origin=server,
            cdn=cdn,
            budget=registry.budget,
        )


def _less_for_missing(
    registry: FakeRegistry, tokens: TokenService, otherwise: Verdict = Verdict.NOTHING
) -> Callable[[str, str | None], Verdict]:
    def policy(repository: str, user: str | None) -> Verdict:
        allowed = tokens.private.get(repository)
        if not registry.has(repository) or (allowed is not None and user not in allowed):
            return otherwise
        return Verdict.FULL

    return policy


@asynccontextmanager
async def ghcr() -> AsyncIterator[Site]:
    """ghcr.io: the token endpoint refuses what is missing; Accept is taken seriously."""
    options = RegistryOptions(checks_accept=True)
    async with FakeRegistry(options) as registry, FakeCdn() as cdn:
        tokens = TokenService(service="ghcr.io", fields=("token",), expires_in=MISSING)
        tokens.policy = _less_for_missing(registry, tokens, Verdict.DENIED)
        _tokens_on(registry, "/token", tokens)
        cdn.serve_blobs_of(registry)
        yield Site(registry=registry, tokens=tokens, token_origin=registry, cdn=cdn)


@asynccontextmanager
async def quay() -> AsyncIterator[Site]:
    """quay.io: ``/v2/auth``, only ``token``, 302 with a page and a digest for blobs."""
    async with FakeRegistry() as registry, FakeCdn() as cdn:
        tokens = TokenService(
            service="quay.io",
            fields=("token",),
            expires_in=MISSING,
            issued_at=MISSING,
            needs_scope=True,
        )
        _tokens_on(registry, "/v2/auth", tokens)
        cdn.serve_blobs_of(
            registry,
            status=302,
            body=b"<!doctype html><title>Redirecting...</title>",
            media_type="text/html; charset=utf-8",
            digest_header=True,
        )
        yield Site(registry=registry, tokens=tokens, token_origin=registry, cdn=cdn)


@asynccontextmanager
async def ecr() -> AsyncIterator[Site]:
    """ECR: Basic with a password of twelve hours, then 403; S3 refuses Authorization."""
    options = RegistryOptions(tag_n_limit=1000)
    async with FakeRegistry(options) as registry, FakeCdn() as cdn:
        basic = BasicGuard(users={"AWS": "password-of-today"})
        registry.guard = basic
        cdn.refuses_authorization = True
        cdn.serve_blobs_of(registry)
        yield Site(registry=registry, basic=basic, cdn=cdn)


@asynccontextmanager
async def ecr_public() -> AsyncIterator[Site]:
    """public.ecr.aws: scope ``aws``; HEAD of a blob is refused, GET is not."""
    async with FakeRegistry() as registry, FakeCdn() as cdn:
        tokens = TokenService(
            service="public.ecr.aws", fields=("token",), open_scopes=frozenset({"aws"})
        )
        _tokens_on(registry, "/token/", tokens, Challenge(scope="aws"))
        registry.fail(faults.status(401), kind=Kind.BLOB, method="HEAD")
        cdn.serve_blobs_of(registry)
        yield Site(registry=registry, tokens=tokens, token_origin=registry, cdn=cdn)


@asynccontextmanager
async def acr() -> AsyncIterator[Site]:
    """*.azurecr.io: only ``access_token``; POST and requests without scope are refused."""
    async with FakeRegistry() as registry, FakeCdn() as cdn:
        tokens = TokenService(
            service=registry.authority,
            fields=("access_token",),
            expires_in=MISSING,
            issued_at=MISSING,
            needs_scope=True,
            post_status=400,
        )
        _tokens_on(registry, "/oauth2/token", tokens)
        cdn.query = "se=2026-11-24T00%3A00%3A00Z&sp=r&sv=2018-03-28&sig=a%2Fb%3D"
        cdn.serve_blobs_of(registry)
        yield Site(registry=registry, tokens=tokens, token_origin=registry, cdn=cdn)


@asynccontextmanager
async def k8s() -> AsyncIterator[Site]:
    """registry.k8s.io: no credentials, 307 for all to a host with a token flow of its own.

    Push to ``site.backend``, or to ``site.home``.
    """
    async with FakeRegistry() as registry, FakeRegistry() as backend, FakeCdn() as cdn:
        tokens = TokenService(service=backend.authority)
        _tokens_on(backend, "/v2/token", tokens, Challenge(only_on_ping=True))
        cdn.serve_blobs_of(backend)
        for kind in (Kind.MANIFEST, Kind.BLOB, Kind.TAGS):
            registry.redirects[kind] = Redirect(locate=_same_path_on(backend))
        yield Site(registry=registry, tokens=tokens, token_origin=backend, cdn=cdn, backend=backend)


def _same_path_on(backend: FakeRegistry) -> Callable[[Recorded], str]:
    return lambda request: backend.url + request.path  # the query is dropped, as it is there


@asynccontextmanager
async def gcr() -> AsyncIterator[Site]:
    """gcr.io: the challenge is at ``/v2/`` only; blobs redirect by a relative Location."""
    async with FakeRegistry() as registry:
        tokens = TokenService(service="gcr.io", post_status=404)
        _tokens_on(registry, "/v2/token", tokens, Challenge(only_on_ping=True))

        def locate(request: Recorded) -> str | None:
            known = registry.blob(request.repository or "", request.reference or "")
            return None if known is None or request.query else f"{request.path}?download=1"

        registry.redirects[Kind.BLOB] = Redirect(locate=locate, status=302)
        yield Site(registry=registry, tokens=tokens, token_origin=registry)


@asynccontextmanager
async def distribution() -> AsyncIterator[Site]:
    """A self-hosted distribution 2.8: no credentials, no paging of tags, no referrers."""
    options = RegistryOptions(checks_accept=True, tag_paging=False, referrers_api=False)
    async with FakeRegistry(options) as registry:
        yield Site(registry=registry)


@asynccontextmanager
async def nvcr() -> AsyncIterator[Site]:
    """nvcr.io: a challenge without service, a realm of its own."""
    async with FakeRegistry() as registry:
        tokens = TokenService(service=None, fields=("token",), expires_in=600)
        _tokens_on(registry, "/proxy_auth", tokens)
        yield Site(registry=registry, tokens=tokens, token_origin=registry)


PROFILES: Final[dict[str, Profile]] = {
    "acr": acr,
    "distribution": distribution,
    "ecr": ecr,
    "ecr_public": ecr_public,
    "gcr": gcr,
    "ghcr": ghcr,
    "hub": hub,
    "k8s": k8s,
    "nvcr": nvcr,
    "quay": quay,
}


@asynccontextmanager
async def every_profile() -> AsyncIterator[dict[str, Site]]:
    """Run all of them at once, as the upstreams of one mirror."""
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(profile()) for name, profile in PROFILES.items()
        }
