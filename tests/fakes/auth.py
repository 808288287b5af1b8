"""Credentials: a token server, the challenges that lead to it, and Basic."""

import base64
import binascii
import hashlib
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Final
from urllib.parse import parse_qsl

from tests.fakes import answers
from tests.fakes.answers import Answer
from tests.fakes.origin import Origin
from tests.fakes.wire import Kind, Recorded

_SCOPE: Final = re.compile(r"(repository|registry):([^:]+):([a-z*,]+)")


class Missing(Enum):
    """Marks a field that the token server leaves out."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING


class Verdict(StrEnum):
    """What a token server says to someone who wants a repository."""

    FULL = "full"
    NOTHING = "nothing"  # a token that is good for nothing, given in silence
    UNAUTHORIZED = "unauthorized"
    DENIED = "denied"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A token that was issued, and what it is good for."""

    token: str
    user: str | None
    service: str | None
    scope: str | None
    repositories: frozenset[str]
    everything: bool
    expires_at: float


def basic_credentials(request: Recorded) -> tuple[str, str] | None:
    """Return user and password of a Basic header, or None if there is none."""
    scheme, _, encoded = (request.authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return ("", "")
    return user, password


@dataclass(slots=True, kw_only=True)
class TokenService:
    """Issues tokens that are bound to repositories.  All fields may be changed at any time.

    A request with a wrong service or a malformed scope is answered with 400, and is
    noted in ``problems``, so that a test can say ``assert not tokens.problems``.
    """

    service: str | None = "fake.registry"
    fields: tuple[str, ...] = ("token", "access_token")
    expires_in: object = 300
    """Any JSON value; MISSING leaves the field out."""
    issued_at: object = None
    """None is now; any other JSON value is sent; MISSING leaves the field out."""
    lifetime_seconds: float = 300.0
    """How long the registry takes the token, by ``clock``, whatever was announced."""
    token_bytes: int = 0
    """At least so long a token; more than 8 KiB does not fit into usual header limits."""
    padding_bytes: int = 0
    """Makes the JSON longer than it need be."""
    users: dict[str, str] = field(default_factory=dict)
    private: dict[str, set[str]] = field(default_factory=dict)
    """Repository → users who may pull it; others are silently given less."""
    anonymous: bool = True
    needs_scope: bool = False
    accepts_post: bool = False
    post_status: int = 404
    open_scopes: frozenset[str] = frozenset()
    """Scopes that are good for every repository, such as ``aws`` at ECR Public."""
    policy: Callable[[str, str | None], Verdict] | None = None
    """Decides by repository and user instead of ``private``."""
    clock: Callable[[], float] = lambda: 0.0
    grants: list[Grant] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _live: dict[str, Grant] = field(default_factory=dict)

    def expire_tokens(self) -> None:
        """Let the registry refuse every token that has been issued so far."""
        self._live.clear()

    def grant_of(self, token: str) -> Grant | None:
        grant = self._live.get(token)
        return grant if grant is not None and self.clock() < grant.expires_at else None

    def answer(self, request: Recorded) -> Answer:
        if request.method == "POST" and not self.accepts_post:
            return answers.error(self.post_status, "UNSUPPORTED")
        parameters = self._parameters(request)
        services = [value for key, value in parameters if key == "service"]
        scopes = [each for key, value in parameters if key == "scope" for each in value.split()]
        user, refusal = self._user(request, dict(parameters))
        refusal = refusal or self._mistake(services, scopes)
        if refusal is not None:
            return refusal
        return self._issue(user, services, scopes)

    @staticmethod
    def _parameters(request: Recorded) -> list[tuple[str, str]]:
        body = parse_qsl(request.body.decode("latin-1")) if request.method == "POST" else []
        return request.parameters + body

    def _user(self, request: Recorded, form: Mapping[str, str]) -> tuple[str | None, Answer | None]:
        credentials = basic_credentials(request)
        if credentials is None and "password" in form:
            credentials = form.get("username", ""), form["password"]
        if credentials is None:
            refusal = None if self.anonymous else answers.error(401, "UNAUTHORIZED")
            return None, refusal
        user, password = credentials
        if self.users.get(user) != password:
            return None, answers.error(401, "UNAUTHORIZED", "incorrect username or password")
        return user, None

    def _mistake(self, services: Sequence[str], scopes: Sequence[str]) -> Answer | None:
        expected = [] if self.service is None else [self.service]
        problem = ""
        if list(services) != expected:
            problem = f"service is {services}, not {expected}"
        for scope in scopes:
            if scope not in self.open_scopes and not _SCOPE.fullmatch(scope):
                problem = f"malformed scope {scope!r}"
        if problem:
            self.problems.append(problem)
            return answers.error(400, "UNSUPPORTED", problem)
        if self.needs_scope and not scopes:
            return answers.error(401, "UNAUTHORIZED", "insufficient_scope")
        return None

    def _issue(self, user: str | None, services: Sequence[str], scopes: Sequence[str]) -> Answer:
        names = {found[2] for scope in scopes if (found := _SCOPE.fullmatch(scope))}
        verdicts = {name: self._verdict(name, user) for name in names}
        if Verdict.UNAUTHORIZED in verdicts.values():
            return answers.error(401, "UNAUTHORIZED", "authentication required")
        if Verdict.DENIED in verdicts.values():
            return answers.error(403, "DENIED", "requested access to the resource is denied")
        grant = Grant(
            token=self._token(),
            user=user,
            service=next(iter(services), None),
            scope=" ".join(scopes) or None,
            repositories=frozenset(n for n in names if verdicts[n] is Verdict.FULL),
            everything=bool(self.open_scopes.intersection(scopes)),
            expires_at=self.clock() + self.lifetime_seconds,
        )
        self.grants.append(grant)
        self._live[grant.token] = grant
        return answers.json_answer(self._document(grant.token))

    def _verdict(self, repository: str, user: str | None) -> Verdict:
        if self.policy is not None:
            return self.policy(repository, user)
        allowed = self.private.get(repository)
        return Verdict.FULL if allowed is None or user in allowed else Verdict.NOTHING

    def _token(self) -> str:
        unique = hashlib.sha256(f"token {len(self.grants)} {id(self)}".encode()).hexdigest()
        return unique.ljust(self.token_bytes, "x")

    def _document(self, token: str) -> dict[str, object]:
        document: dict[str, object] = dict.fromkeys(self.fields, token)
        if self.expires_in is not MISSING:
            document["expires_in"] = self.expires_in
        if self.issued_at is None:
            document["issued_at"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        elif self.issued_at is not MISSING:
            document["issued_at"] = self.issued_at
        if self.padding_bytes:
            document["padding"] = "x" * self.padding_bytes
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """How WWW-Authenticate is written.

    ``before`` and ``after`` are challenges of other schemes; they share a line with
    ours unless ``separate_lines``.  With ``only_on_ping`` other requests get a bare 401.
    """

    scheme: str = "Bearer"
    realm: str | None = None
    """Instead of the address of the token service."""
    has_realm: bool = True
    has_service: bool = True
    has_scope: bool = True
    service: str | None = None
    """Instead of the service that the token service expects."""
    scope: str | None = None
    """Instead of ``repository:<repository>:<actions>``."""
    actions: str = "pull"
    more: tuple[tuple[str, str], ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    separate_lines: bool = False
    only_on_ping: bool = False
    spaced: bool = False
    """Write ``, `` between parameters, where registries write ``,``."""

    def lines(
        self, realm: str, service: str | None, repository: str | None, problem: str | None
    ) -> list[str]:
        """Return the values of the WWW-Authenticate lines."""
        parameters: list[tuple[str, str]] = []
        if self.has_realm:
            parameters.append(("realm", self.realm or realm))
        if self.has_service and (self.service or service):
            parameters.append(("service", self.service or service or ""))
        scope = self.scope or (f"repository:{repository}:{self.actions}" if repository else "")
        if self.has_scope and scope:
            parameters.append(("scope", scope))
        if problem:
            parameters.append(("error", problem))
        written = [f'{key}="{value}"' for key, value in (*parameters, *self.more)]
        ours = f"{self.scheme} " + (", " if self.spaced else ",").join(written)
        challenges = [*self.before, ours, *self.after]
        return challenges if self.separate_lines else [", ".join(challenges)]


@dataclass(slots=True, kw_only=True)
class TokenGuard:
    """Lets requests pass whose token is good for their repository.

    Args:
        tokens: where the tokens come from.
        realm: the address of the token service.
        challenge: how it is announced.
        expired_status: the answer to a token that is unknown or too old.
        denied_status: the answer to a token that is good for something else.
        open_kinds: what everybody may see.
    """

    tokens: TokenService
    realm: str
    challenge: Challenge = field(default_factory=Challenge)
    expired_status: int = 401
    denied_status: int = 401
    open_kinds: frozenset[Kind] = frozenset()

    def refusal(self, request: Recorded) -> Answer | None:
        if request.kind in self.open_kinds:
            return None
        scheme, _, token = (request.authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return self._unauthorized(request, 401, None)
        grant = self.tokens.grant_of(token.strip())
        if grant is None:
            return self._unauthorized(request, self.expired_status, "invalid_token")
        repository = request.repository
        if repository is None or grant.everything or repository in grant.repositories:
            return None
        return self._unauthorized(request, self.denied_status, "insufficient_scope")

    def _unauthorized(self, request: Recorded, status: int, problem: str | None) -> Answer:
        if status == 403:
            return answers.error(403, "DENIED", problem or "")
        answer = answers.error(status, "UNAUTHORIZED", "authentication required")
        if self.challenge.only_on_ping and request.kind is not Kind.PING:
            return answer
        lines = self.challenge.lines(self.realm, self.tokens.service, request.repository, problem)
        answer.headers += [("WWW-Authenticate", line) for line in lines]
        return answer


@dataclass(slots=True, kw_only=True)
class BasicGuard:
    """Asks for a user and a password; ``expire`` makes them stale, as ECR does."""

    users: dict[str, str]
    realm: str = "fake registry"
    expired_status: int = 403
    _expired: set[str] = field(default_factory=set)

    def expire(self) -> None:
        """Refuse the present passwords; new ones go into ``users``."""
        self._expired.update(self.users.values())

    def refusal(self, request: Recorded) -> Answer | None:
        credentials = basic_credentials(request)
        if credentials is not None and credentials[1] in self._expired:
            message = "Your authorization token has expired. Reauthenticate and try again."
            return answers.error(self.expired_status, "DENIED", message)
        if credentials is None or self.users.get(credentials[0]) != credentials[1]:
            answer = answers.error(401, "UNAUTHORIZED", "authentication required")
            line = f'Basic realm="{self.realm}",service="ecr.amazonaws.com"'
            answer.headers.append(("WWW-Authenticate", line))
            return answer
        return None


class FakeTokenServer(Origin):
    """A token service on an origin of its own; faults apply with kind ``token``.

    The reference of a request is its scope, its repository the one in that scope.
    """

    def __init__(
        self,
        tokens: TokenService | None = None,
        *,
        path: str = "/token",
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(host=host, tls=tls)
        self.tokens = tokens or TokenService()
        self.path = path

    @property
    def realm(self) -> str:
        return self.url + self.path

    def guard(
        self,
        challenge: Challenge | None = None,
        *,
        expired_status: int = 401,
        denied_status: int = 401,
        open_kinds: frozenset[Kind] = frozenset(),
    ) -> TokenGuard:
        """Return a guard for a registry, which sends clients here."""
        return TokenGuard(
            tokens=self.tokens,
            realm=self.realm,
            challenge=challenge or Challenge(),
            expired_status=expired_status,
            denied_status=denied_status,
            open_kinds=open_kinds,
        )

    def expire_tokens(self) -> None:
        self.tokens.expire_tokens()

    def classify(self, request: Recorded) -> None:
        classify_token(request)

    def answer(self, request: Recorded) -> Answer:
        if request.path != self.path:
            return answers.text(404, "not found")
        return self.tokens.answer(request)


def classify_token(request: Recorded) -> None:
    request.kind = Kind.TOKEN
    request.reference = request.parameter("scope")
    found = _SCOPE.fullmatch(request.reference or "")
    request.repository = found[2] if found and found[1] == "repository" else None
