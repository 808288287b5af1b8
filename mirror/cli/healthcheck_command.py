"""``mirror healthcheck``: whether the running mirror takes requests, as an exit code."""

import http.client
import json
import ssl
from contextlib import closing
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from mirror.cli.admin_connection import admin_connection, admin_url
from mirror.cli.options import (
    FAILED,
    ConfigOption,
    JsonOption,
    Output,
    OutputOption,
    complain,
    load_settings,
    write,
)

_SECONDS: Final = 4.0
"""Less than the five seconds that container engines and systemd usually allow."""
_BODY_MAX_BYTES: Final = 4096
_PATH: Final = "/readyz"


def healthcheck(
    *,
    config: ConfigOption = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="Ask this http:// or https:// address instead; 200 is healthy.",
            show_default=False,
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Accept any certificate of the address of --url."),
    ] = False,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Ask the mirror of this configuration whether it takes requests: exit code 0, or 1 if not."""
    if url is None:
        settings = load_settings(config).settings
        asked, server = admin_url(settings) + _PATH, settings.server
        connection = admin_connection(server.admin_listen.local(), server.admin.tls, _SECONDS)
        reasons = _reasons_not_ready(asked, connection)
    else:
        asked, reasons = url, _reasons_not_ready(url, _connection(url, insecure=insecure))
    if output is Output.JSON:
        write(json.dumps({"ready": not reasons, "url": asked, "reasons": reasons}, indent=2))
    elif reasons:
        complain(*(f"not ready: {reason}" for reason in reasons))
    else:
        write("ready")
    if reasons:
        raise typer.Exit(FAILED)


def _connection(url: str, *, insecure: bool) -> http.client.HTTPConnection:
    try:
        return _connection_to(url, insecure=insecure)
    except (ValueError, http.client.InvalidURL):
        reason = "not an http:// or https:// address"
        raise typer.BadParameter(reason, param_hint="--url") from None


def _connection_to(url: str, *, insecure: bool) -> http.client.HTTPConnection:
    split = urlsplit(url)
    host, port = split.hostname or "", split.port
    # What the resolver and the line of a request would stumble over.
    host.encode("idna")
    split.path.encode("ascii")
    if split.scheme not in {"http", "https"} or not host:
        raise ValueError(url)
    if split.scheme == "https":
        context = ssl.create_default_context()
        if insecure:  # no secret is sent, and what comes back is yes or no
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=context)
    return http.client.HTTPConnection(host, port, timeout=_SECONDS)


def _reasons_not_ready(url: str, connection: http.client.HTTPConnection) -> list[str]:
    """Return why a URL does not answer 200; empty if it does."""
    try:
        # Not urllib, which would ask the proxy of the environment.
        with closing(connection):
            connection.request("GET", urlsplit(url).path or "/")
            answer = connection.getresponse()
            body = answer.read(_BODY_MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return [f"{url} does not answer: {reason}"]
    if answer.status == http.client.OK:
        return []
    return _told(body) or [f"{url} answers {answer.status} {answer.reason}"]


def _told(body: bytes) -> list[str]:
    """Return the reasons in the body of ``/readyz``, if it is one."""
    try:
        told = json.loads(body)
    except ValueError:
        return []
    reasons = told.get("reasons") if isinstance(told, dict) else None
    return [str(each) for each in reasons] if isinstance(reasons, list) else []
