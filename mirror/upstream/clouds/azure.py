"""Azure Container Registry: an Entra ID token, changed for a refresh token of the registry.

The refresh token is an identity token: the registry's token endpoint takes it for an access
token to a repository, as for every other registry that has them.
Source: Azure/acr docs, ``AAD-OAuth.md``, for the exchange; Microsoft identity platform, "client
credentials flow", and "managed identities ... on a VM" for the first token; the Azure SDK for the
names of the variables.
"""

import base64
import json
from typing import Final
from urllib.parse import urlencode, urlsplit

from mirror.domain.errors import CredentialUnavailableError
from mirror.domain.logins import Login
from mirror.settings import Upstream
from mirror.upstream.clouds.calls import Reply, Surroundings, base_url, number_of, text_of
from mirror.upstream.kept import Issued

_AUTHORITY: Final = "https://login.microsoftonline.com"
_METADATA: Final = "http://169.254.169.254"
_METADATA_PATH: Final = "/metadata/identity/oauth2/token"
_RESOURCE: Final = "https://containerregistry.azure.net"
_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}
_LIFETIME_SECONDS: Final = 3 * 3600.0
"""Of a refresh token of a registry that does not say."""


async def login(around: Surroundings, upstream: Upstream) -> Issued:
    """Return the identity token that the registry gives for the identity of this machine.

    Raises:
        CredentialUnavailableError: there is no identity, or the registry refuses it.
    """
    reply = await (_of_service(around) if _is_service(around) else _of_machine(around))
    token = text_of(reply.fields(), "access_token", reply)
    registry = upstream.endpoints[0]
    form = {
        "grant_type": "access_token",
        "service": urlsplit(registry).netloc,
        "access_token": token,
    }
    if tenant := around.environ.get("AZURE_TENANT_ID"):
        form["tenant"] = tenant
    exchanged = await around.calls.send(
        "the registry's token exchange",
        "POST",
        f"{registry}/oauth2/exchange",
        _FORM,
        urlencode(form).encode(),
        proxy=upstream.proxy,
        tls=upstream.tls,
    )
    refresh_token = text_of(exchanged.fields(), "refresh_token", exchanged)
    return Issued(Login(identity_token=refresh_token), _lifetime_seconds(around, refresh_token))


def _is_service(around: Surroundings) -> bool:
    proofs = ("AZURE_FEDERATED_TOKEN_FILE", "AZURE_CLIENT_SECRET")
    return any(around.environ.get(each) for each in proofs)


async def _of_service(around: Surroundings) -> Reply:
    """Ask as an application: by workload identity (AKS), else by a client secret."""
    environ = around.environ
    missing = [each for each in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID") if not environ.get(each)]
    if missing:
        raise CredentialUnavailableError(f"{' and '.join(missing)} is not set")
    form = {
        "grant_type": "client_credentials",
        "client_id": environ["AZURE_CLIENT_ID"],
        "scope": f"{_RESOURCE}/.default",
    }
    if environ.get("AZURE_FEDERATED_TOKEN_FILE"):
        form["client_assertion_type"] = _ASSERTION_TYPE
        form["client_assertion"] = await around.file("AZURE_FEDERATED_TOKEN_FILE")
    else:
        form["client_secret"] = environ["AZURE_CLIENT_SECRET"]
    authority = base_url(environ, "AZURE_AUTHORITY_HOST", default=_AUTHORITY)
    url = f"{authority}/{environ['AZURE_TENANT_ID']}/oauth2/v2.0/token"
    body = urlencode(form).encode()
    return await around.calls.send("Microsoft Entra ID", "POST", url, _FORM, body)


async def _of_machine(around: Surroundings) -> Reply:
    """Ask as the managed identity of the machine, or of an app service."""
    environ = around.environ
    query = {"resource": _RESOURCE}
    if environ.get("AZURE_CLIENT_ID"):
        query["client_id"] = environ["AZURE_CLIENT_ID"]
    if environ.get("IDENTITY_ENDPOINT") and environ.get("IDENTITY_HEADER"):
        url, version = base_url(environ, "IDENTITY_ENDPOINT", default=""), "2019-08-01"
        headers = {"X-IDENTITY-HEADER": environ["IDENTITY_HEADER"]}
    else:
        base = base_url(environ, "AZURE_POD_IDENTITY_AUTHORITY_HOST", default=_METADATA)
        url, version, headers = base + _METADATA_PATH, "2018-02-01", {"Metadata": "true"}
    asked = f"{url}?{urlencode({'api-version': version, **query})}"
    what = "Azure's managed identity service"
    return await around.calls.send(what, "GET", asked, headers, local=True)


def _lifetime_seconds(around: Surroundings, token: str) -> float:
    """Return for how long a token is good, by what it says of itself (a JWT)."""
    try:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        ends_at = number_of(claims, "exp", 0.0)
    except (IndexError, ValueError, TypeError, RecursionError):
        ends_at = 0.0
    return around.seconds_until(ends_at) if ends_at else _LIFETIME_SECONDS
