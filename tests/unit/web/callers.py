"""Who asks, in the tests of access: headers, files of users, and a mirror that wants to know."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bcrypt

from mirror.settings import Auth, AuthFile, AuthRule, Server
from tests.harness import ANY_PORT, Mirror


def basic(user: str, password: str) -> dict[str, str]:
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def htpasswd(path: Path, **users: str) -> AuthFile:
    """Write a file of users; bcrypt at its lowest cost, so that tests are quick."""
    lines = [
        f"{u}:{bcrypt.hashpw(p.encode(), bcrypt.gensalt(4)).decode()}" for u, p in users.items()
    ]
    path.write_text("\n".join(lines))
    return AuthFile(file=path)


def tokens(path: Path, *lines: str) -> AuthFile:
    path.write_text("\n".join(lines))
    return AuthFile(file=path)


def rule(who: str, *pull: str, admin: Any = None) -> AuthRule:  # noqa: ANN401 -- a literal
    return AuthRule(who=who, pull=pull, admin=admin)


def server(auth: Auth | None, **more: Any) -> Server:  # noqa: ANN401 -- fields of Server
    fields = {"listen": ANY_PORT, "admin_listen": ANY_PORT, "shutdown_grace_seconds": 1}
    return Server(**{**fields, **more}, auth=auth)


def challenge(headers: Mapping[str, str]) -> str:
    return headers["WWW-Authenticate"]


async def token_of(mirror: Mirror, query: str, headers: Mapping[str, str] | None = None) -> str:
    got = await mirror.get(f"/token?{query}", headers)
    assert got.status == 200, got.body
    answer = json.loads(got.body)
    assert answer["token"] == answer["access_token"]
    assert got.headers["Cache-Control"] == "no-store"
    return str(answer["token"])
