"""Identity providers: the keys of an OpenID issuer, and Kubernetes' word on a token."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mirror.domain.challenge import Origin
from mirror.domain.errors import MirrorError, UpstreamTroubleError
from mirror.runtime.pools import Pool
from mirror.settings import UpstreamTls
from mirror.upstream.clouds.calls import Calls

_DISCOVERY: Final = "/.well-known/openid-configuration"
_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_TOKEN_MAX_CHARS: Final = 64 * 1024


async def signing_keys(calls: Calls, issuer: str, tls: UpstreamTls) -> list[Mapping[str, Any]]:
    """Return the public keys that an issuer signs with, as JSON Web Keys.

    Source: OpenID Connect Discovery 1.0, section 4.

    Raises:
        UpstreamTroubleError: they cannot be had.
    """
    found = await _get(calls, issuer, issuer.rstrip("/") + _DISCOVERY, tls)
    if found.get("issuer") != issuer:
        raise UpstreamTroubleError(f"identity provider {issuer} calls itself something else")
    place = found.get("jwks_uri")
    target, home = Origin.of(str(place)), Origin.of(issuer)
    if target is None or home is None or (home.scheme == "https" and target.scheme != "https"):
        raise UpstreamTroubleError(f"identity provider {issuer} has no usable jwks_uri")
    keys = (await _get(calls, issuer, str(place), tls)).get("keys")
    if not isinstance(keys, list):
        raise UpstreamTroubleError(f"identity provider {issuer} has no keys")
    return [key for key in keys if isinstance(key, dict)]


async def _get(calls: Calls, issuer: str, url: str, tls: UpstreamTls) -> Mapping[str, Any]:
    try:
        reply = await calls.send(issuer, "GET", url, {"Accept": "application/json"}, tls=tls)
        return reply.fields()
    except MirrorError as error:
        raise UpstreamTroubleError(f"identity provider {issuer}: {_why(error)}") from None


def _why(error: MirrorError) -> str:
    return str(error).rpartition(": ")[2]


@dataclass(frozen=True, slots=True)
class Reviewed:
    """Whom Kubernetes takes the holder of a token for."""

    username: str
    groups: frozenset[str]


@dataclass(frozen=True, slots=True)
class KubernetesApi:
    """The API server, and with which token it is asked."""

    url: str
    token_file: Path
    tls: UpstreamTls
    pool: Pool = field(repr=False)


async def review(calls: Calls, api: KubernetesApi, token: str, audience: str) -> Reviewed | None:
    """Ask Kubernetes whose token it is; ``None``: nobody's, or for another audience.

    Source: TokenReview of authentication.k8s.io/v1.

    Raises:
        UpstreamTroubleError: it cannot be told now.
    """
    asked = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    }
    own = await _own_token(api)
    headers = {"Authorization": f"Bearer {own}", "Content-Type": "application/json"}
    body = json.dumps(asked).encode()
    try:
        reply = await calls.send(
            "Kubernetes", "POST", api.url + _REVIEWS, headers, body, local=True, tls=api.tls
        )
        answer = json.loads(reply.body)
    except MirrorError as error:
        raise UpstreamTroubleError(f"Kubernetes does not review tokens: {_why(error)}") from None
    except (ValueError, RecursionError):
        answer = None
    if reply.status not in {200, 201} or not isinstance(answer, dict):
        raise UpstreamTroubleError(
            f"Kubernetes does not review tokens: status {reply.status} (the mirror's service "
            "account needs the role system:auth-delegator)"
        )
    return _reviewed(answer.get("status"), audience)


def _reviewed(status: object, audience: str) -> Reviewed | None:
    if not isinstance(status, dict) or status.get("authenticated") is not True:
        return None
    user, audiences = status.get("user"), status.get("audiences")
    if not isinstance(audiences, list) or audience not in audiences or not isinstance(user, dict):
        return None
    name, groups = user.get("username"), user.get("groups") or []
    if not isinstance(name, str) or not name or not isinstance(groups, list):
        return None
    return Reviewed(name, frozenset(group for group in groups if isinstance(group, str)))


async def _own_token(api: KubernetesApi) -> str:
    try:
        text = await api.pool.run(_read, api.token_file)
    except (OSError, ValueError):
        text = ""
    if not text:
        raise UpstreamTroubleError("the mirror's own token for Kubernetes cannot be read")
    return text


def _read(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(_TOKEN_MAX_CHARS).strip()
