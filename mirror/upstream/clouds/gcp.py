"""Google Container Registry and Artifact Registry: an access token for an hour.

From the metadata server of the machine (GCE, GKE with or without Workload Identity, Cloud Run),
or for the key of a service account that ``GOOGLE_APPLICATION_CREDENTIALS`` names.
Source: Google Cloud, "Set up authentication for Docker" for the user of the login, "Using OAuth
2.0 for server to server applications" (RFC 7523) for the key.
"""

import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

from mirror.domain.challenge import Origin
from mirror.domain.errors import CredentialUnavailableError
from mirror.domain.logins import Login
from mirror.settings import Upstream
from mirror.upstream.clouds.calls import Reply, Surroundings, number_of, text_of
from mirror.upstream.kept import Issued

_USER: Final = "oauth2accesstoken"
_KEY_FILE: Final = "GOOGLE_APPLICATION_CREDENTIALS"
_METADATA_HOST: Final = "metadata.google.internal"
_METADATA_PATH: Final = "/computeMetadata/v1/instance/service-accounts/default/token"
_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_LIFETIME_SECONDS: Final = 600.0
"""Assumed of a token that does not say."""


async def login(around: Surroundings, _upstream: Upstream) -> Issued:
    """Return the login that the machine or the key of a service account gives.

    Raises:
        CredentialUnavailableError: there is none.
    """
    has_key = bool(around.environ.get(_KEY_FILE))
    reply = await (_for_key(around) if has_key else _of_machine(around))
    fields = reply.fields()
    token = text_of(fields, "access_token", reply)
    lifetime_seconds = number_of(fields, "expires_in", _LIFETIME_SECONDS)
    return Issued(Login(username=_USER, password=token), lifetime_seconds)


async def _of_machine(around: Surroundings) -> Reply:
    host = around.environ.get("GCE_METADATA_HOST") or _METADATA_HOST
    url = f"http://{host}{_METADATA_PATH}"
    if Origin.of(url) is None:
        raise CredentialUnavailableError("GCE_METADATA_HOST is not a host or host:port")
    headers = {"Metadata-Flavor": "Google"}
    return await around.calls.send("Google's metadata server", "GET", url, headers, local=True)


async def _for_key(around: Surroundings) -> Reply:
    key = _key(await around.file(_KEY_FILE))
    assertion = await around.files.run(_assertion, key, around.clock.wall())
    form = urlencode({"grant_type": _GRANT, "assertion": assertion}).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    what = "Google's token endpoint"
    return await around.calls.send(what, "POST", key["token_uri"], headers, form)


def _key(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    needed = ("client_email", "private_key", "token_uri")
    if not isinstance(found, dict) or not all(isinstance(found.get(each), str) for each in needed):
        raise CredentialUnavailableError(
            f"{_KEY_FILE} is not the key of a service account; "
            "for other kinds use helper: docker-credential-gcloud"
        )
    if Origin.of(found["token_uri"]) is None:
        raise CredentialUnavailableError(f"{_KEY_FILE} has a token_uri that is no URL")
    return {each: str(found[each]) for each in (*needed, "private_key_id") if each in found}


def _assertion(key: Mapping[str, str], now: float) -> str:
    from mirror.upstream.clouds.assertion import assertion  # noqa: PLC0415 -- slow

    try:
        return assertion(key, now)
    except ValueError:
        raise CredentialUnavailableError(f"the private_key of {_KEY_FILE} cannot be read") from None
