"""The token endpoint: a password, or whatever else proves who one is, for a token.

Source: the distribution token specification (GET with Basic) and its OAuth2 form (POST with
``grant_type=password``), which containerd tries first.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl

import msgspec
from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError

from mirror.domain.access import Identity, Verdict, judge, pull_scopes
from mirror.domain.credentials import Basic, MalformedError, parse_authorization
from mirror.domain.errors import (
    BodyInvalidError,
    BodyLateError,
    MirrorError,
    UnauthenticatedError,
)
from mirror.domain.names import Repository
from mirror.domain.routing import Table
from mirror.service.passes import Passes
from mirror.web.certificates import certified
from mirror.web.guard import BASIC_CHALLENGE, GuardTerms

_FORM_MAX_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a client wants a token for; in a form, also who it is."""

    scopes: list[str]
    credential: Basic | None = None


async def issue(
    request: web.BaseRequest, terms: GuardTerms, passes: Passes, table: Table, body_seconds: float
) -> tuple[bytes, Identity | None]:
    """Return the body of the answer, and who got the token.

    Raises:
        BodyInvalidError: the form cannot be read, or did not come within *body_seconds*.
        UnauthenticatedError: the credential is wrong, or there is none and nothing to give.
        TroubleError: it cannot be told now who it is.
    """
    asked = await _asked(request, body_seconds)
    identity = await _identity(request, terms, asked.credential)
    wanted = _repositories(asked.scopes, table, request.headers.get(hdrs.HOST, ""))
    granted = {each for each in wanted if judge(terms.rules, identity, each) is Verdict.ALLOW}
    if identity is None and not granted:
        raise UnauthenticatedError("a user and a password are needed", BASIC_CHALLENGE)
    token, lifetime = passes.issue(identity, granted), passes.lifetime_seconds
    answer = {
        "token": token,
        "access_token": token,
        "expires_in": int(lifetime),
        "issued_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return msgspec.json.encode(answer), identity


async def _identity(
    request: web.BaseRequest, terms: GuardTerms, shown: Basic | None
) -> Identity | None:
    """Return who asks; a token of ours does not count: nobody prolongs it by itself."""
    try:
        credential = shown or parse_authorization(request.headers.getall(hdrs.AUTHORIZATION, []))
    except MalformedError:
        raise UnauthenticatedError("wrong user or password", BASIC_CHALLENGE) from None
    if credential is None:
        return certified(request)
    identity = await terms.authenticator.identify(credential)
    if identity is None:
        raise UnauthenticatedError("wrong user or password", BASIC_CHALLENGE)
    return identity


async def _asked(request: web.BaseRequest, body_seconds: float) -> _Asked:
    query = parse_qsl(request.raw_path.partition("?")[2], keep_blank_values=True)
    if request.method != "POST":
        return _Asked([value for name, value in query if name == "scope"])
    if (request.content_length or 0) > _FORM_MAX_BYTES:
        raise UnauthenticatedError("the form is too large", BASIC_CHALLENGE)
    body = await _body(request, body_seconds)
    form = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    scopes = [value for name, value in form if name == "scope"]
    fields = dict(form)
    if fields.get("grant_type") != "password":
        raise UnauthenticatedError("only grant_type=password is known", BASIC_CHALLENGE)
    return _Asked(scopes, Basic(fields.get("username", ""), fields.get("password", "")))


async def _body(request: web.BaseRequest, limit_seconds: float) -> bytes:
    """Read a form; nobody has shown a credential yet, so it has no longer than a head."""
    try:
        async with asyncio.timeout(limit_seconds):
            return await request.read()
    except TimeoutError:
        raise BodyLateError("it did not come in time") from None
    except web.HTTPRequestEntityTooLarge:  # one that did not tell its length
        raise UnauthenticatedError("the form is too large", BASIC_CHALLENGE) from None
    except (web.RequestPayloadError, HttpProcessingError) as error:
        raise BodyInvalidError(type(error).__name__) from None  # its bytes may be secret


def _repositories(scopes: list[str], table: Table, host: str) -> Iterator[Repository]:
    """Yield what scopes name; one that names nothing here is left out, as registries do."""
    for name in pull_scopes(scopes):
        try:
            yield table.repository(name, host)
        except MirrorError:
            continue
