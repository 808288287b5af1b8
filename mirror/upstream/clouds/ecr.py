"""Amazon ECR: a password for twelve hours, for whoever can sign a request.

Source: the ECR and ECR Public API references (GetAuthorizationToken), the STS API reference
(AssumeRoleWithWebIdentity), and the AWS SDK reference for the order in which credentials are
looked for and for the names of the variables. Profiles of ``~/.aws`` are not read: for them
there is ``docker-credential-ecr-login``.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from mirror.domain.logins import Login
from mirror.domain.sigv4 import AwsKey, SigningScope, Unsigned, signed_headers
from mirror.settings import Upstream
from mirror.upstream.clouds.aws_key import find_key, region_of_environment
from mirror.upstream.clouds.calls import Reply, Surroundings, base_url, number_of
from mirror.upstream.kept import Issued

_REGISTRY: Final = re.compile(
    r"\d{12}\.dkr[.-]ecr(?P<fips>-fips)?\.(?P<region>[a-z0-9-]+)\.(?P<domain>[a-z0-9.-]+)"
)
_DUAL_STACK: Final = {
    "on.aws": "api.aws",
    "on.amazonwebservices.com.cn": "api.amazonwebservices.com.cn",
}
_PUBLIC: Final = "public.ecr.aws"
_PUBLIC_REGION: Final = "us-east-1"
_CODE: Final = re.compile(r"[A-Za-z]{1,60}Exception")
_LIFETIME_SECONDS: Final = 12 * 3600.0


@dataclass(frozen=True, slots=True)
class _Api:
    url: str
    scope: SigningScope
    target: str


async def login(around: Surroundings, upstream: Upstream) -> Issued:
    """Return the login that GetAuthorizationToken gives.

    Raises:
        CredentialUnavailableError: there is no key, or it may not.
    """
    api = _api(around.environ, upstream)
    key = await find_key(around, api.scope.region)
    reply = await _ask(around, api, key)
    entry = _authorization(reply)
    user, password = _decoded(entry.get("authorizationToken"), reply)
    ends_at = number_of(entry, "expiresAt", around.clock.wall() + _LIFETIME_SECONDS)
    return Issued(Login(username=user, password=password), around.seconds_until(ends_at))


async def _ask(around: Surroundings, api: _Api, key: AwsKey) -> Reply:
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": api.target}
    request = Unsigned("POST", f"{api.url}/", headers, b"{}")
    at = datetime.fromtimestamp(around.clock.wall(), UTC)
    signed = signed_headers(request, key, api.scope, at)
    del signed["host"]  # aiohttp writes it, from the same URL
    return await around.calls.send("the ECR API", "POST", request.url, signed, request.body)


def _api(environ: Mapping[str, str], upstream: Upstream) -> _Api:
    hosts = [upstream.name, *(urlsplit(url).hostname or "" for url in upstream.endpoints)]
    if _PUBLIC in hosts:
        url = base_url(
            environ,
            "AWS_ENDPOINT_URL_ECR_PUBLIC",
            "AWS_ENDPOINT_URL",
            default=f"https://api.ecr-public.{_PUBLIC_REGION}.amazonaws.com",
        )
        scope = SigningScope(_PUBLIC_REGION, "ecr-public")
        return _Api(url, scope, "SpencerFrontendService.GetAuthorizationToken")
    found = next(filter(None, map(_REGISTRY.fullmatch, hosts)), None)
    region = found["region"] if found else region_of_environment(environ)
    url = base_url(
        environ,
        "AWS_ENDPOINT_URL_ECR",
        "AWS_ENDPOINT_URL",
        default=_api_url(found) if found else f"https://api.ecr.{region}.amazonaws.com",
    )
    target = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
    return _Api(url, SigningScope(region, "ecr"), target)


def _api_url(registry: re.Match[str]) -> str:
    region, domain = registry["region"], registry["domain"]
    if domain in _DUAL_STACK:
        return f"https://ecr.{region}.{_DUAL_STACK[domain]}"
    host = f"ecr-fips.{region}" if registry["fips"] else f"api.ecr.{region}"
    return f"https://{host}.{domain}"


def _authorization(reply: Reply) -> Mapping[str, Any]:
    if reply.status != 200:
        reply.refuse(_reason(reply))
    data = reply.fields().get("authorizationData")
    entry = data[0] if isinstance(data, list) and data else data
    if not isinstance(entry, dict):
        reply.refuse("its answer has no authorizationData")
    return entry


def _reason(reply: Reply) -> str:
    """Return the status and, if AWS tells it, the name of the mistake."""
    try:
        kind = str(json.loads(reply.body)["__type"]).rpartition("#")[2]
    except (ValueError, TypeError, KeyError, RecursionError):
        kind = ""
    return f"status {reply.status}" + (f", {kind}" if _CODE.fullmatch(kind) else "")


def _decoded(token: object, reply: Reply) -> tuple[str, str]:
    try:
        text = base64.b64decode(token if isinstance(token, str) else "", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    user, separator, password = text.partition(":")
    if not separator or not password:
        reply.refuse("its answer has no usable authorizationToken")
    return user, password
