"""Who may use the admin API (DESIGN, section 3).

With the admin token, anybody from anywhere. Without it, whoever asks by a loopback address at
a listener that is bound to one: the ``Host`` header is checked because a web page can make a
browser ask 127.0.0.1 under a name of its own (DNS rebinding), and writes must carry a header
that a foreign page cannot send unasked (CSRF).
"""

import hashlib
import hmac
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from mirror.observe.logs import get_logger
from mirror.runtime.pools import Pool
from mirror.settings import ListenAddress

CSRF_HEADER: Final = "X-Mirror-CSRF"
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_TOKEN_MAX_BYTES: Final = 4096
_REMEDY: Final = (
    "set server.admin.token_file (MIRROR_SERVER__ADMIN__TOKEN_FILE) and send its content as "
    "`Authorization: Bearer …`"
)
_log = get_logger("admin")


class Refusal(msgspec.Struct, frozen=True):
    """Why somebody may not, and what would help."""

    status: int
    code: str
    message: str
    hint: str


class Access:
    """The rules for one listener."""

    def __init__(self, listen: ListenAddress, token_file: Path | None, pool: Pool) -> None:
        self._is_loopback = listen.is_loopback
        self._token_file = token_file
        self._pool = pool

    async def refusal(self, request: web.Request) -> Refusal | None:
        """Return why a request is refused; ``None`` where it is not."""
        given = request.headers.get("Authorization")
        if given is not None and self._token_file is not None:
            return await self._of_token(given, self._token_file)
        if not self._is_loopback:
            return self._without_token("the admin API is open to other machines")
        if not _names_loopback(request.headers.get("Host", "")):
            return self._without_token("the Host header does not name a loopback address")
        if request.method not in _READS and CSRF_HEADER not in request.headers:
            message = f"a change without the token needs the header {CSRF_HEADER}"
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
        if kind.lower() != "bearer" or not _same(offered.strip().encode(), token):
            return Refusal(401, "token_wrong", "that is not the admin token", _REMEDY)
        return None


def _read_token(path: Path) -> bytes:
    # Read at every request: they are rare, and a rotated secret counts at once.
    with path.open("rb") as file:
        return file.read(_TOKEN_MAX_BYTES).strip()


def _same(given: bytes, expected: bytes) -> bool:
    """Compare without telling by the time how much is right, or how long it is."""
    return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(expected).digest())


def _names_loopback(host: str) -> bool:
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdecimal() or host.endswith("]"):
        name = host
    return ListenAddress(name.strip("[]").lower(), 0).is_loopback
