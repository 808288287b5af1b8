"""What TLS and the authentication of clients cost: the mirror beside itself."""

from __future__ import annotations

import base64
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import bcrypt

from tests.bench import servers
from tests.bench.report import Outcome, Sample
from tests.bench.requests import CONNECTIONS, requests, tool
from tests.bench.servers import MIRROR, Server
from tests.bench.stage import GB, Stage
from tests.e2e import oci

_SECONDS: Final = 5
_CLIENTS: Final = 6
_USER, _PASSWORD, _TOKEN = "bench", "bench-password", "bench-token-0123456789"


def secured(stage: Stage) -> Outcome:
    """Return what each way of asking costs, in one run."""
    basic = "Basic " + base64.b64encode(f"{_USER}:{_PASSWORD}".encode()).decode()
    ways: dict[str, tuple[bool, str | None]] = {
        "plain": (False, None),
        "TLS": (True, None),
        "TLS and a password": (True, basic),
        "TLS and a token": (True, f"Bearer {_TOKEN}"),
    }
    with ExitStack() as stack:
        plain = stack.enter_context(_mirror(stage, is_secure=False))
        sealed = stack.enter_context(_mirror(stage, is_secure=True))
        guarded = stack.enter_context(_mirror(stage, is_secure=True, auth=_auth(stage.work)))
        found = {"plain": plain, "TLS": sealed}
        for server in (plain, sealed):
            stage.check(server, stage.blob)
        measure = partial(_measured, stage, ways, found, guarded)
        what = f"the mirror alone; manifest by digest, {CONNECTIONS} connections, {tool()}"
        return stage.take_turns("secured", what, {MIRROR: measure})


def _measured(
    stage: Stage,
    ways: dict[str, tuple[bool, str | None]],
    found: dict[str, Server],
    guarded: Server,
) -> Sample:
    sample: dict[str, float] = {}
    for name, (_, authorization) in ways.items():
        server = found.get(name, guarded)
        before = server.cpu_seconds()
        url = stage.manifest_url(server)
        rate, asked = requests(url, oci.MANIFEST, _SECONDS, authorization)
        cpu_seconds = server.cpu_seconds() - before
        sample[f"{name}: requests/s"] = rate
        sample[f"{name}: server CPU, ms/request"] = 1000 * cpu_seconds / asked
    for name, server in found.items():
        before, size = server.cpu_seconds(), _CLIENTS * stage.blob.size_bytes / GB
        done = stage.download(stage.blob.url(server), _CLIENTS)
        sample[f"{name}: blob, GB/s"] = size / done.wall_seconds
        sample[f"{name}: blob, server CPU, s/GB"] = (server.cpu_seconds() - before) / size
    return sample


def _mirror(stage: Stage, *, is_secure: bool, auth: dict[str, Any] | None = None) -> Server:
    return servers.mirror(
        stage.directory(),
        upstream=stage.origin.url,
        certificate=stage.certificate if is_secure else None,
        more=None if auth is None else {"auth": auth},
    )


def _auth(work: Path) -> dict[str, Any]:
    users, tokens = work / "htpasswd", work / "tokens"
    sealed = bcrypt.hashpw(_PASSWORD.encode(), bcrypt.gensalt(rounds=5)).decode()
    users.write_text(f"{_USER}:{sealed}\n", encoding="utf-8")
    tokens.write_text(f"{_USER}:{_TOKEN}\n", encoding="utf-8")
    return {
        "htpasswd": {"file": str(users)},
        "tokens": {"file": str(tokens)},
        "rules": [{"who": f"user:{_USER}", "pull": ["**"]}],
    }
