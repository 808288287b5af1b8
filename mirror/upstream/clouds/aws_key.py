"""The key that signs requests to AWS: from the environment, a role, or the machine.

In the order of the AWS SDKs: access key of the environment, web identity (IRSA), container
(ECS, EKS Pod Identity), instance metadata (IMDSv2 only).
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode

from mirror.domain.errors import CredentialUnavailableError
from mirror.domain.sigv4 import AwsKey
from mirror.upstream.clouds.calls import Reply, Surroundings, base_url, text_of

_CONTAINER: Final = "http://169.254.170.2"
_INSTANCE: Final = "http://169.254.169.254"
_METADATA: Final = "/latest/meta-data/iam/security-credentials/"
_ROLE: Final = re.compile(r"[\w+=,.@-]{1,128}", re.ASCII)
_REGION: Final = re.compile(r"[a-z0-9-]{1,40}")


def region_of_environment(environ: Mapping[str, str]) -> str:
    """Return the region that the environment names.

    Raises:
        CredentialUnavailableError: it names none.
    """
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or ""
    if not _REGION.fullmatch(region):
        raise CredentialUnavailableError(
            "the region is not known: the upstream's name is not that of an ECR registry, "
            "and AWS_REGION is not set"
        )
    return region


async def find_key(around: Surroundings, region: str) -> AwsKey:
    """Return the first key that there is.

    Raises:
        CredentialUnavailableError: there is none, or what should give it does not.
    """
    environ = around.environ
    if environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY"):
        return AwsKey(
            environ["AWS_ACCESS_KEY_ID"].strip(),
            environ["AWS_SECRET_ACCESS_KEY"].strip(),
            environ.get("AWS_SESSION_TOKEN", "").strip() or None,
        )
    if environ.get("AWS_WEB_IDENTITY_TOKEN_FILE") and environ.get("AWS_ROLE_ARN"):
        return await _of_web_identity(around, region)
    if environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") or environ.get(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI"
    ):
        return await _of_container(around)
    if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise CredentialUnavailableError("there is no key of AWS in the environment")
    return await _of_instance(around)


async def _of_web_identity(around: Surroundings, region: str) -> AwsKey:
    """Change a token of the cluster for a key (STS); this request is not signed."""
    environ = around.environ
    token = await around.file("AWS_WEB_IDENTITY_TOKEN_FILE")
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    default = f"https://sts.{region}.{domain}"
    url = base_url(environ, "AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL", default=default)
    form = {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": environ["AWS_ROLE_ARN"],
        "RoleSessionName": environ.get("AWS_ROLE_SESSION_NAME") or "mirror",
        "WebIdentityToken": token,
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    body = urlencode(form).encode()
    reply = await around.calls.send("AWS STS", "POST", f"{url}/", headers, body)
    if reply.status != 200:
        reply.refuse(f"status {reply.status}")
    return AwsKey(
        _element(reply, "AccessKeyId"),
        _element(reply, "SecretAccessKey"),
        _element(reply, "SessionToken"),
    )


def _element(reply: Reply, name: str) -> str:
    """Return the text of an element; the three that are needed have no characters to escape."""
    found = re.search(
        rf"<{name}>\s*([!-%'-;=?-~]+)\s*</{name}>", reply.body.decode("utf-8", "replace")
    )
    if found is None:
        reply.refuse(f"its answer has no {name}")
    return found[1]


async def _of_container(around: Surroundings) -> AwsKey:
    environ = around.environ
    relative = environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    url = f"{_CONTAINER}{relative}" if relative else environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
    headers = {"Accept": "application/json"}
    if environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
        headers["Authorization"] = await around.file("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
    elif environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN"):
        headers["Authorization"] = environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"]
    what = "the container's credential service"
    return _key_of(await around.calls.send(what, "GET", url, headers, local=True))


async def _of_instance(around: Surroundings) -> AwsKey:
    url = base_url(around.environ, "AWS_EC2_METADATA_SERVICE_ENDPOINT", default=_INSTANCE)
    what = "the instance metadata service"
    seconds = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    session = await around.calls.send(what, "PUT", f"{url}/latest/api/token", seconds, local=True)
    token = session.body.decode("latin-1").strip()
    if session.status != 200 or not token.isprintable() or not token:
        session.refuse(f"status {session.status}, and no session")
    headers = {"X-aws-ec2-metadata-token": token}
    roles = await around.calls.send(what, "GET", url + _METADATA, headers, local=True)
    role = roles.body.decode("latin-1").partition("\n")[0].strip()
    if roles.status != 200 or not _ROLE.fullmatch(role):
        roles.refuse("this machine has no role")
    place = url + _METADATA + quote(role)
    return _key_of(await around.calls.send(what, "GET", place, headers, local=True))


def _key_of(reply: Reply) -> AwsKey:
    fields = reply.fields()
    return AwsKey(
        text_of(fields, "AccessKeyId", reply),
        text_of(fields, "SecretAccessKey", reply),
        text_of(fields, "Token", reply) if fields.get("Token") else None,
    )
