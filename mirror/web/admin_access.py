"""Who may use the admin API.

With the admin token, anybody from anywhere, and by a role of ``server.auth.rules`` whoever
proves who he is. Without it, whoever asks by a loopback address at
a listener that is bound to one: the ``Host`` header is checked because a web page can make a
browser ask 127.0.0.1 under a name of its own (DNS rebinding), and writes must carry a header
that a foreign page cannot send unasked (CSRF).
"""

import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from mirror.domain.access import Role, admin_role
from mirror.domain.credentials import Bearer, MalformedError, parse_authorization
from mirror.domain.errors import TroubleError
from mirror.observe.logs import get_logger
from mirror.runtime.pools import Pool
from mirror.settings import ListenAddress
from mirror.web.certificates import certified
from mirror.web.guard import GuardTerms

CSRF_HEADER: Final = "X-Mirror-CSRF"
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_TOKEN_MAX_BYTES: Final = 4096
_REMEDY: Final = (
    "set server.admin.token_file (MIRROR_SERVER__ADMIN__TOKEN_FILE) and send its content as "
    "`Authorization: Bearer …`"
)
_ROLES: Final = 'server.auth.rules give roles: `{who: "user:ops", admin: write}`'
_CREDENTIAL_WRONG: Final = "credential_wrong"
_log = get_logger("admin")


class Refusal(msgspec.Struct, frozen=True):
    """Why somebody may not, and what would help."""

    status: int
    code: str
    message: str
    hint: str


class Access:
    """The rules for one listener."""

    def __init__(
        self,
        listen: ListenAddress,
        token_file: Path | None,
        pool: Pool,
        terms: Callable[[], GuardTerms] = GuardTerms,
    ) -> None:
        self._is_loopback = listen.is_loopback
        self._token_file = token_file
        self._pool = pool
        self._terms = terms

    async def refusal(self, request: web.Request) -> Refusal | None:
        """Return why a request is refused; ``None`` where it is not."""
        given = request.headers.get("Authorization")
        terms = self._terms()
        has_roles = any(rule.admin for rule in terms.rules)
        shows = given is not None or certified(request) is not None
        if not has_roles or not shows:
            return await self._without_role(request, given, has_roles=has_roles)
        by_role = await self._of_role(request, terms)
        if by_role is None or self._token_file is None:
            return by_role
        refusal = await self._without_role(request, given, has_roles=has_roles)
        # Who is known, or may be, hears what is missing, and not that this is no admin token.
        is_stranger = by_role.code == _CREDENTIAL_WRONG
        return refusal if refusal is None or is_stranger else by_role

    async def _without_role(
        self, request: web.Request, given: str | None, *, has_roles: bool
    ) -> Refusal | None:
        if given is not None and self._token_file is not None:
            return await self._of_token(given, self._token_file)
        if has_roles and self._token_file is None and not self._is_loopback:
            return Refusal(401, "credential_missing", "the admin API wants to know you", _ROLES)
        return self._of_stranger(request)

    def _of_stranger(self, request: web.Request) -> Refusal | None:
        if not self._is_loopback:
            return self._without_token("the admin API is open to other machines")
        if not _names_loopback(request.headers.get("Host", "")):
            return self._without_token("the Host header does not name a loopback address")
        if request.method not in _READS and CSRF_HEADER not in request.headers:
            message = f"a change without the token needs the header {CSRF_HEADER}"
            return Refusal(403, "csrf_header_missing", message, f"send `{CSRF_HEADER}: 1`")
        return None

    async def _of_role(self, request: web.Request, terms: GuardTerms) -> Refusal | None:
        """Return why a caller of ``server.auth`` may not; by its role it may."""
        try:
            credential = parse_authorization(request.headers.getall("Authorization", []))
            if credential is None:
                identity = certified(request)
            else:
                identity = await terms.authenticator.identify(credential)
        except MalformedError:
            credential = identity = None
        except TroubleError as error:
            return Refusal(503, "cannot_tell", str(error), "try again soon")
        if identity is None:
            return Refusal(401, _CREDENTIAL_WRONG, "nobody here has this credential", _ROLES)
        needed = Role.READ if request.method in _READS else Role.WRITE
        if admin_role(terms.rules, identity) < needed:
            message = f"{identity.user} has not the role {needed.name.lower()!r}"
            return Refusal(403, "role_missing", message, _ROLES)
        is_sent_unasked = not isinstance(credential, Bearer)  # by browsers, which keep passwords
        if needed is Role.WRITE and is_sent_unasked and CSRF_HEADER not in request.headers:
            message = f"a change by a password or certificate needs the header {CSRF_HEADER}"
            return Refusal(403, "csrf_header_missing", message, f"send `{CSRF_HEADER}: 1`")
        return None

    def _without_token(self, why: str) -> Refusal:
        if self._token_file is None:
            message = f"{why}, and no admin token is configured"
            return Refusal(403, "token_not_configured", message, _REMEDY)
        return Refusal(401, "token_missing", f"{why}: the admin token is needed", _REMEDY)

    async def _of_token(self, given: str, path: Path) -> Refusal | None:
        try:
            token = await self._pool.run(_read_token, path)
        except OSError as error:
            _log.error("the admin token cannot be read", file=str(path), reason=error.strerror)
            token = b""
        if not token:
            message = "the file of the admin token is empty or cannot be read"
            return Refusal(403, "token_unreadable", message, "look at server.admin.token_file")
        kind, _, offered = given.partition(" ")
        if kind.lower() != "bearer" or not _same(_bytes_of(offered.strip()), token):
            return Refusal(401, "token_wrong", "that is not the admin token", _REMEDY)
        return None


def _read_token(path: Path) -> bytes:
    # Read at every request: they are rare, and a rotated secret counts at once.
    with path.open("rb") as file:
        return file.read(_TOKEN_MAX_BYTES).strip()


def _bytes_of(header: str) -> bytes:
    return header.encode("utf-8", "surrogateescape")  # aiohttp reads what is no UTF-8 so


def _same(given: bytes, expected: bytes) -> bool:
    """Compare without telling by the time how much is right, or how long it is."""
    return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(expected).digest())


def _names_loopback(host: str) -> bool:
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdecimal() or host.endswith("]"):
        name = host
    return ListenAddress(name.strip("[]").lower(), 0).is_loopback
