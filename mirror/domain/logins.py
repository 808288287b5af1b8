"""What is shown to a registry, and which of it Docker's ``config.json`` has for a repository.

Source: docker/cli ``cli/config/configfile`` and containers-auth.json(5) for the file;
docker/docker-credential-helpers for what helpers answer.
"""

import base64
import binascii
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

HUB_SERVER: Final = "https://index.docker.io/v1/"
"""What Docker calls Docker Hub in its configuration and to helpers."""

HUB: Final = "docker.io"
_IDENTITY_USER: Final = "<token>"
_HELPER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_VERSION: Final = re.compile(r"/v[12]/?$")


class UnreadableError(Exception):
    """What was read has not the form that it must have; says which, never what it holds."""


@dataclass(frozen=True, slots=True)
class Login:
    """One way to prove who we are; nothing of it is in a ``repr``.

    A user with a password, or a bearer token that is sent as it is, or an identity token,
    which a token endpoint takes for an access token.
    """

    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    identity_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class HelperCall:
    """A credential helper that has the login, and what it knows the registry as."""

    program: str
    server: str


def server_name(upstream: str) -> str:
    """Return what helpers know an upstream as."""
    return HUB_SERVER if upstream == HUB else upstream


def find_login(text: str, hosts: Collection[str], repository: str) -> Login | HelperCall | None:
    """Return what a ``config.json`` has for a repository of a registry.

    ``credHelpers`` come first; then ``auths``, where the longest key that fits wins, as for
    Podman, and an entry without a secret does not count; ``credsStore`` has what is left.

    Args:
        text: The content of the file.
        hosts: All names of the registry; the first is asked of helpers.
        repository: Without the name of the registry.

    Raises:
        UnreadableError: it is not such a file.
    """
    document = _mapping(_parsed(text), "the file")
    helpers = _mapping(document.get("credHelpers") or {}, "credHelpers")
    for key, suffix in helpers.items():
        if _place(key)[0] in hosts:
            return HelperCall(_program(suffix), key)
    fitting = [
        (len(path), login)
        for path, entry in _entries(document, hosts)
        if not path or repository == path or repository.startswith(f"{path}/")
        if (login := _login(entry)) is not None
    ]
    if fitting:
        return max(fitting, key=lambda pair: pair[0])[1]
    store = document.get("credsStore")
    return HelperCall(_program(store), server_name(next(iter(hosts)))) if store else None


def read_helper_answer(text: str) -> Login:
    """Return the login that a helper wrote.

    Raises:
        UnreadableError: it has no secret in it.
    """
    answer = _mapping(_parsed(text), "the answer")
    user, secret = answer.get("Username"), answer.get("Secret")
    if not _is_secret(secret) or not isinstance(user, str):
        raise UnreadableError("the answer has no Username and Secret")
    if user == _IDENTITY_USER:
        return Login(identity_token=secret)
    return Login(username=user, password=secret)


def _parsed(text: str) -> object:
    try:
        return json.loads(text, parse_int=float)
    except (ValueError, RecursionError):
        raise UnreadableError("it is not JSON") from None


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UnreadableError(f"{what} is not a JSON object")
    return value


def _program(suffix: object) -> str:
    if not isinstance(suffix, str) or not _HELPER.fullmatch(suffix):
        raise UnreadableError("the name of a credential helper is not one")
    return f"docker-credential-{suffix}"


def _place(key: str) -> tuple[str, str]:
    """Return host and path of a key: ``https://index.docker.io/v1/``, ``quay.io/team``."""
    scheme, separator, rest = key.rpartition("://")
    host, _, path = _VERSION.sub("", rest).partition("/")
    return host.lower(), "" if separator and scheme else path.strip("/")


def _entries(
    document: Mapping[str, Any], hosts: Collection[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, entry in _mapping(document.get("auths") or {}, "auths").items():
        host, path = _place(key)
        if host in hosts and isinstance(entry, dict):
            yield path, entry


def _login(entry: Mapping[str, Any]) -> Login | None:
    for name in ("identitytoken", "registrytoken"):
        if _is_secret(entry.get(name)):
            value = entry[name]
            is_identity = name == "identitytoken"
            return Login(identity_token=value) if is_identity else Login(token=value)
    user, password = _decoded(entry.get("auth")) or (entry.get("username"), entry.get("password"))
    if not _is_secret(password) or not isinstance(user, str):
        return None
    return Login(username=user, password=password)


def _decoded(auth: object) -> tuple[str, str] | None:
    if not isinstance(auth, str) or not auth:
        return None
    try:
        text = base64.b64decode(auth, validate=True).decode()
    except (binascii.Error, ValueError):
        raise UnreadableError("an auth of the file is not base64") from None
    user, separator, password = text.rstrip("\0").partition(":")
    if not separator:
        raise UnreadableError("an auth of the file is not user:password")
    return user, password


def _is_secret(value: object) -> bool:
    """Tell whether it can be sent in a header."""
    return isinstance(value, str) and bool(value) and value.isprintable()
