"""The kinds of value that occur in the configuration, each read from its friendly form."""

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
)

from mirror.domain.events import EventKind
from mirror.domain.networks import network_of
from mirror.domain.walking import is_platform
from mirror.settings.units import (
    ListenAddress,
    SizeOrShare,
    format_duration,
    format_share,
    format_size,
    parse_duration,
    parse_share,
    parse_size,
)

HIDDEN: Final = "********"

# Under this key of the context the loader passes `(path) -> what is wrong with it, or None`:
# settings are values and do not look at the disk themselves.
FILE_PROBLEM: Final = "file_problem"

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?")
_HOST_MAX_CHARS: Final = 255
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_URL_CHARS: Final = re.compile(r"[!-~]+")
_URL_PATH: Final = re.compile(r"(?:/[A-Za-z0-9_.~-]+)*")
_HELPER: Final = re.compile(r"(?:/(?:[A-Za-z0-9._+-]+/)*)?docker-credential-[A-Za-z0-9._-]{1,100}")
_GLOB: Final = re.compile(r"[!-~]{1,512}")

Number = TypeVar("Number", float, int, SizeOrShare)
Several = TypeVar("Several", bound=tuple[object, ...])


def _more_than_zero(value: Number) -> Number:
    if not value:
        raise ValueError("must be more than 0")
    return value


def _not_empty(values: Several) -> Several:
    if not values:
        raise ValueError("must not be empty")
    return values


def _host(text: str) -> str:
    if text != text.lower():
        raise ValueError("must be in lower case")
    if len(text) > _HOST_MAX_CHARS or not _HOST.fullmatch(text):
        raise ValueError("not a host or host:port")
    return text


def _host_or_network(text: str) -> str:
    if "/" not in text:
        return text if network_of(text) is not None else _host(text)
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise ValueError(f"not a network such as 10.0.0.0/8: {error}") from None


def _upstream_name(text: str) -> str:
    if "/" in text:
        raise ValueError("the name of an upstream is a host or host:port, without a path")
    if text.startswith("["):
        raise ValueError("the name of an upstream is a host name; give the address as endpoint")
    return _host(text)


def _split_url(text: str) -> SplitResult:
    try:
        url = urlsplit(text if _URL_CHARS.fullmatch(text) else "")
        well_formed = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:
        well_formed = False
    if not well_formed:
        raise ValueError("not an http:// or https:// URL")
    if "@" in url.netloc:
        raise ValueError("a URL here carries no user and password")
    if "?" in text or "#" in text:
        raise ValueError("a URL here has neither a query nor a fragment")
    return url


def _endpoint(text: str) -> str:
    url = _split_url(text)
    path = url.path.rstrip("/")
    if path == "/v2" or path.endswith("/v2"):
        raise ValueError("write the endpoint without /v2, which is added to every request")
    if not _URL_PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError("the path of an endpoint is a plain prefix such as /hub")
    return f"{url.scheme}://{url.netloc.lower()}{path}"


def _proxy(text: str) -> str:
    url = _split_url(text)
    if url.path not in {"", "/"}:
        raise ValueError("a proxy has no path")
    return f"{url.scheme}://{url.netloc.lower()}"


def _web_url(text: str) -> str:
    return _split_url(text).geturl()


def _glob(text: str) -> str:
    if not _GLOB.fullmatch(text):
        raise ValueError("a pattern is not empty and has no spaces")
    return text


def _platform(text: str) -> str:
    if not is_platform(text):
        raise ValueError("a platform is os/architecture or os/architecture/variant")
    return text


def _account(text: str) -> str:
    if not _ACCOUNT.fullmatch(text):
        raise ValueError("a name has up to 64 letters, digits, dots, dashes and underscores")
    return text


def _helper(text: str) -> str:
    if not _HELPER.fullmatch(text):
        raise ValueError("a helper is called docker-credential-…, alone or with its whole path")
    return text


def _path_text(given: object) -> object:
    if isinstance(given, str) and (not given or "\0" in given):
        raise ValueError("not a path")
    return given


def _readable(path: Path, info: ValidationInfo) -> Path:
    check = (info.context or {}).get(FILE_PROBLEM)
    problem = check(path) if check else None
    if problem:
        raise ValueError(f"{path}: {problem}")
    return path


def _secret(secret: SecretStr) -> SecretStr:
    if secret.get_secret_value() in {"", HIDDEN}:
        raise ValueError("this is not the secret itself, but what is shown in its place")
    return secret


def _schema(kind: str | list[str], unit: str, *examples: object) -> WithJsonSchema:
    schema: dict[str, Any] = {"type": kind, "x-unit": unit}
    return WithJsonSchema(schema | {"examples": list(examples)} if examples else schema)


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    _schema(["string", "number"], "duration", "500ms", "90s", "10m", "6h", "7d", 90),
]
PositiveDuration = Annotated[Duration, AfterValidator(_more_than_zero)]

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str, when_used="json"),
    _schema(["string", "integer"], "size", "64MiB", "50GiB", "10GB", 1048576),
]
Share = Annotated[
    float,
    BeforeValidator(parse_share),
    PlainSerializer(format_share, return_type=str, when_used="json"),
    _schema("string", "share", "20%"),
]
Space = Annotated[
    SizeOrShare,
    BeforeValidator(SizeOrShare.parse),
    PlainSerializer(str, return_type=str, when_used="json"),
    _schema(["string", "integer"], "size or share", "50GiB", "80%"),
]
PositiveSpace = Annotated[Space, AfterValidator(_more_than_zero)]
Listen = Annotated[
    ListenAddress,
    BeforeValidator(ListenAddress.parse),
    PlainSerializer(str, return_type=str, when_used="json"),
    _schema("string", "address", "0.0.0.0:5000", "[::1]:5000", ":5000"),
]

Host = Annotated[str, AfterValidator(_host), _schema("string", "host", "registry.local:5000")]
HostOrNetwork = Annotated[
    str,
    AfterValidator(_host_or_network),
    _schema("string", "host or network", "minio.corp.example", "10.0.0.0/8"),
]
UpstreamName = Annotated[str, AfterValidator(_upstream_name), _schema("string", "host")]
Endpoint = Annotated[str, AfterValidator(_endpoint), _schema("string", "URL", "https://quay.io")]
ProxyUrl = Annotated[str, AfterValidator(_proxy), _schema("string", "URL", "http://proxy:3128")]
WebUrl = Annotated[str, AfterValidator(_web_url), _schema("string", "URL")]
Glob = Annotated[str, AfterValidator(_glob), _schema("string", "pattern", "library/**")]
Platform = Annotated[
    str, AfterValidator(_platform), _schema("string", "platform", "linux/amd64", "linux/arm/v7")
]
EventName = Annotated[
    EventKind, WithJsonSchema({"type": "string", "enum": [str(kind) for kind in EventKind]})
]
AccountName = Annotated[str, AfterValidator(_account), _schema("string", "name", "ci")]
Helper = Annotated[
    str, AfterValidator(_helper), _schema("string", "program", "docker-credential-gcloud")
]
AnyPath = Annotated[Path, BeforeValidator(_path_text), _schema("string", "path")]
ReadableFile = Annotated[AnyPath, AfterValidator(_readable)]
Secret = Annotated[
    SecretStr,
    AfterValidator(_secret),
    PlainSerializer(lambda _: HIDDEN, return_type=str, when_used="json"),
    _schema("string", "secret"),
]
# Not a minimal length: pydantic would also count a list short when one of its values is wrong.
NotEmpty = AfterValidator(_not_empty)
