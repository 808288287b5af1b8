"""Who may pass at the registry listener, and how one proves to be somebody.

A challenge on ``/v2/`` makes Docker send the Docker Hub account of its user to a mirror
(PROTOCOL C2); so without ``challenge: ping`` only objects are challenged, where Docker reads
none. What is shown goes no further than here.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from aiohttp import hdrs, web

from mirror.domain.access import Identity, Rule, Verdict, Viewer, judge
from mirror.domain.credentials import Bearer, MalformedError, parse_authorization
from mirror.domain.errors import DeniedError, MirrorError, UnauthenticatedError
from mirror.domain.names import Repository
from mirror.domain.routing import Kind, Route, Table
from mirror.service.authentication import Authenticator
from mirror.service.passes import Passes
from mirror.web.certificates import certified
from mirror.web.exchange import Facts

TOKEN_PATH: Final = "/token"  # noqa: S105 -- a path
SERVICE: Final = "mirror"
_HOST: Final = re.compile(
    r"[A-Za-z0-9._-]{1,253}(?::[0-9]{1,5})?|\[[0-9a-fA-F:.]+\](?::[0-9]{1,5})?"
)


@dataclass(frozen=True, slots=True)
class GuardTerms:
    """What the configuration says of access; replaced as a whole at a reload."""

    challenge: Literal["never", "objects", "ping"]
    realm: str | None
    rules: Sequence[Rule]
    authenticator: Authenticator


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks; with a token of ours, only for some repositories."""

    identity: Identity | None
    covers: Callable[[Repository], bool] = lambda _repository: True


class Guard:
    """Lets requests pass, or raises."""

    def __init__(
        self, terms: GuardTerms | None, passes: Passes, table: Callable[[], Table]
    ) -> None:
        self.terms = terms
        self.passes = passes
        self._table = table

    async def admit(self, request: web.BaseRequest, route: Route, facts: Facts) -> None:
        """Return if a request may pass.

        Raises:
            UnauthenticatedError: a credential might help.
            DeniedError: nothing would.
            TroubleError: it cannot be told now who it is.
        """
        if self.terms is None:
            return
        if route.kind is Kind.PING and self.terms.challenge != "ping":
            return
        if route.repository is None:
            await self._somebody(request, facts, self.terms)
        else:
            await self._puller(request, facts, self.terms, route.repository)

    def viewer(self, identity: Identity | None) -> Viewer:
        """Return whose eyes a caller who has been let in sees the catalogue with."""
        return Viewer(None if self.terms is None else tuple(self.terms.rules), identity)

    async def _somebody(self, request: web.BaseRequest, facts: Facts, terms: GuardTerms) -> None:
        caller = await self.caller(request, terms)
        facts.identity = caller.identity if caller else None
        if caller is None:
            raise self._unauthenticated(request, terms, "no credential that counts here")

    async def _puller(
        self, request: web.BaseRequest, facts: Facts, terms: GuardTerms, repository: Repository
    ) -> None:
        if judge(terms.rules, None, repository) is Verdict.ALLOW:
            return
        caller = await self.caller(request, terms)
        if caller is None or not caller.covers(repository):
            said = "no credential that counts here" if caller is None else "a token for others"
            raise self._unauthenticated(request, terms, said, repository)
        facts.identity = caller.identity
        if judge(terms.rules, caller.identity, repository) is Verdict.ALLOW:
            return
        if caller.identity is None:
            raise self._unauthenticated(request, terms, f"{repository}", repository)
        raise DeniedError(f"{repository}: no rule lets you pull it (server.auth.rules)")

    async def caller(self, request: web.BaseRequest, terms: GuardTerms) -> Caller | None:
        """Return who asks; ``None``: nobody who counts here."""
        try:
            credential = parse_authorization(request.headers.getall(hdrs.AUTHORIZATION, []))
        except MalformedError:
            return None
        if credential is None:
            identity = certified(request)
            return None if identity is None else Caller(identity)
        if isinstance(credential, Bearer):
            issued = self.passes.read(credential.token)
            if issued is not None:
                return Caller(issued.identity, issued.covers)
        identity = await terms.authenticator.identify(credential)
        return None if identity is None else Caller(identity)

    def _unauthenticated(
        self,
        request: web.BaseRequest,
        terms: GuardTerms,
        what: str,
        repository: Repository | None = None,
    ) -> MirrorError:
        if terms.challenge == "never":
            return DeniedError(f"{what} (server.auth; challenge: never)")
        fields = [f'realm="{terms.realm or own_realm(request)}"', f'service="{SERVICE}"']
        if repository is not None:
            fields.append(f'scope="repository:{repository}:pull"')
        return UnauthenticatedError(what, "Bearer " + ",".join(fields))


def own_realm(request: web.BaseRequest) -> str:
    """Return where this client reaches the token endpoint: where it has just asked."""
    host = request.headers.get(hdrs.HOST, "")
    if not _HOST.fullmatch(host):
        address = request.get_extra_info("sockname") or ("127.0.0.1", 0)
        name = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
        host = f"{name}:{address[1]}"
    return f"{request.scheme}://{host}{TOKEN_PATH}"
