"""Who may pass at the registry listener, and how one proves to be somebody.

A challenge on ``/v2/`` makes Docker send the Docker Hub account of its user to a mirror; so
without ``challenge: ping`` only objects are challenged, where Docker reads none. What is
shown goes no further than here.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from aiohttp import hdrs, web

from mirror.domain.access import Identity, Rule, Verdict, Viewer, judge
from mirror.domain.credentials import (
    Basic,
    Bearer,
    Credential,
    MalformedError,
    parse_authorization,
)
from mirror.domain.errors import (
    CredentialNeededError,
    DeniedError,
    MirrorError,
    UnauthenticatedError,
)
from mirror.domain.names import Repository
from mirror.domain.routing import Kind, Route
from mirror.runtime.acting import act_as
from mirror.service.authentication import Authenticator
from mirror.service.passes import Passes
from mirror.service.ports import Verifier
from mirror.web.certificates import certified
from mirror.web.exchange import Facts

TOKEN_PATH: Final = "/token"  # noqa: S105 -- a path
SERVICE: Final = "mirror"
BASIC_CHALLENGE: Final = 'Basic realm="mirror"'
_HOST: Final = re.compile(
    r"[A-Za-z0-9._-]{1,253}(?::[0-9]{1,5})?|\[[0-9a-fA-F:.]+\](?::[0-9]{1,5})?"
)


@dataclass(frozen=True, slots=True)
class GuardTerms:
    """What the configuration says of access; replaced as a whole at a reload."""

    challenge: Literal["never", "objects", "ping"] = "objects"
    realm: str | None = None
    rules: tuple[Rule, ...] = ()
    authenticator: Authenticator = field(default_factory=lambda: Authenticator(()))
    is_open: bool = True
    """Nobody has to prove who he is, except where a registry wants to know."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks; with a token of ours, only for some repositories."""

    identity: Identity | None
    covers: Callable[[Repository], bool] = lambda _repository: True


class Guard:
    """Lets requests pass, or raises."""

    def __init__(
        self,
        terms: GuardTerms,
        passes: Passes,
        verifier: Verifier,
    ) -> None:
        self.terms = terms
        self.passes = passes
        self._verifier = verifier

    async def admit(self, request: web.BaseRequest, route: Route, facts: Facts) -> None:
        """Return if a request may pass; what it asks from here on goes with its credential.

        Raises:
            UnauthenticatedError: a credential might help.
            DeniedError: nothing would.
            TroubleError: it cannot be told now who it is.
        """
        terms, repository = self.terms, route.repository
        act_as(None)  # a connection brings one request after the other
        if repository is not None and repository.upstream in self._verifier.upstreams:
            await self._verified(request, facts, route, repository)
        elif route.kind is Kind.PING:
            if terms.challenge == "ping":
                await self._ping(request, facts, terms)
        elif terms.is_open:
            return
        elif repository is None:
            await self._somebody(request, facts, terms)
        else:
            await self._puller(request, facts, terms, repository)

    def is_for_all(self, repository: Repository) -> bool:
        """Return whether ``admit`` lets everybody pull from a repository, whatever is shown."""
        return self.terms.is_open and repository.upstream not in self._verifier.upstreams

    def viewer(self, identity: Identity | None) -> Viewer:
        """Return whose eyes a caller who has been let in sees the catalogue with."""
        rules = None if self.terms.is_open else self.terms.rules
        return Viewer(rules, identity, self._verifier.upstreams)

    async def _ping(self, request: web.BaseRequest, facts: Facts, terms: GuardTerms) -> None:
        if self._verifier.upstreams and isinstance(_shown(request), Basic):
            return  # whose it is can be told only where it is for something
        if self._verifier.upstreams or not terms.is_open:
            await self._somebody(request, facts, terms)

    async def _somebody(self, request: web.BaseRequest, facts: Facts, terms: GuardTerms) -> None:
        visitor = await self._visitor(request, terms)
        facts.identity = visitor.identity if visitor else None
        if visitor is None:
            raise self._unauthenticated(request, _what_is_missing(request))

    async def _puller(
        self, request: web.BaseRequest, facts: Facts, terms: GuardTerms, repository: Repository
    ) -> None:
        if judge(terms.rules, None, repository) is Verdict.ALLOW:
            return
        visitor = await self._visitor(request, terms)
        if visitor is None or not visitor.covers(repository):
            said = _what_is_missing(request) if visitor is None else "this token is not for it"
            raise self._unauthenticated(request, said, repository)
        facts.identity = visitor.identity
        if judge(terms.rules, visitor.identity, repository) is Verdict.ALLOW:
            return
        if visitor.identity is None:
            raise self._unauthenticated(request, str(repository), repository)
        raise DeniedError(f"{repository}: no rule lets you pull it (server.auth.rules)")

    async def _verified(
        self, request: web.BaseRequest, facts: Facts, route: Route, repository: Repository
    ) -> None:
        """Let the registry itself say whether the caller's credential is good."""
        shown = _shown(request)
        basic = shown if isinstance(shown, Basic) else None
        try:
            caller = await self._verifier.admit(repository, route.kind, route.reference, basic)
        except CredentialNeededError as error:
            raise self._unauthenticated(request, str(error), repository) from None
        if caller is not None and caller.username is not None:
            facts.identity = Identity(caller.username)
        act_as(caller)

    async def _visitor(self, request: web.BaseRequest, terms: GuardTerms) -> Visitor | None:
        """Return who asks; ``None``: nobody who counts here."""
        credential = _shown(request)
        if credential is None and hdrs.AUTHORIZATION not in request.headers:
            identity = certified(request)
            return None if identity is None else Visitor(identity)
        if credential is None:
            return None
        if isinstance(credential, Bearer):
            issued = self.passes.read(credential.token)
            if issued is not None:
                return Visitor(issued.identity, issued.covers)
        identity = await terms.authenticator.identify(credential)
        return None if identity is None else Visitor(identity)

    def _unauthenticated(
        self, request: web.BaseRequest, what: str, repository: Repository | None = None
    ) -> MirrorError:
        if self.terms.challenge == "never":
            return DeniedError(f"{what} (server.auth.challenge: never)")
        verifying = self._verifier.upstreams
        if verifying if repository is None else repository.upstream in verifying:
            # Not by a token of ours: the credential is for somebody else, and is not kept.
            return UnauthenticatedError(what, BASIC_CHALLENGE)
        fields = [f'realm="{self.terms.realm or own_realm(request)}"', f'service="{SERVICE}"']
        if repository is not None:
            fields.append(f'scope="repository:{repository}:pull"')
        return UnauthenticatedError(what, "Bearer " + ",".join(fields))


def _what_is_missing(request: web.BaseRequest) -> str:
    if hdrs.AUTHORIZATION in request.headers:
        return "nobody here has this credential, or its time is over"
    return "no credential was shown"


def _shown(request: web.BaseRequest) -> Credential | None:
    """Return what a request shows; what cannot be read counts as wrong, by its header."""
    try:
        return parse_authorization(request.headers.getall(hdrs.AUTHORIZATION, []))
    except MalformedError:
        return None


def own_realm(request: web.BaseRequest) -> str:
    """Return where this client reaches the token endpoint: where it has just asked."""
    host = request.headers.get(hdrs.HOST, "")
    if not _HOST.fullmatch(host):
        address = request.get_extra_info("sockname") or ("127.0.0.1", 0)
        name = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
        host = f"{name}:{address[1]}"
    return f"{request.scheme}://{host}{TOKEN_PATH}"
