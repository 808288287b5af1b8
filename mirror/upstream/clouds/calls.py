"""What the clouds have in common: small calls of an API, files, and the environment."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import aiohttp
from yarl import URL

from mirror.domain.challenge import Origin
from mirror.domain.errors import CredentialUnavailableError
from mirror.runtime.clock import Clock
from mirror.runtime.pools import Pool
from mirror.settings import UpstreamTls
from mirror.upstream.dns import PooledResolver
from mirror.upstream.transport import USER_AGENT, proxy_of_environment, tls_context

_LIMITS: Final = aiohttp.ClientTimeout(total=8, sock_connect=2)
_ANSWER_MAX_BYTES: Final = 256 * 1024
_FILE_MAX_CHARS: Final = 256 * 1024
_SYSTEM_TLS: Final = UpstreamTls()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, read to its end."""

    status: int
    body: bytes
    what: str
    """Who answered, for errors."""

    def fields(self) -> Mapping[str, Any]:
        """Return the JSON object that it is.

        Raises:
            CredentialUnavailableError: it is something else, or no success.
        """
        if self.status != 200:
            self.refuse(f"status {self.status}")
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            self.refuse("its answer is not a JSON object")
        return value

    def refuse(self, why: str) -> NoReturn:
        """Raise CredentialUnavailableError; nothing of the body is repeated."""
        raise CredentialUnavailableError(f"{self.what}: {why}")


class Calls:
    """Requests to the APIs of clouds: short, bounded, without redirects."""

    def __init__(self, dns: Pool) -> None:
        self._dns = dns
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self,
        what: str,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        local: bool = False,
        proxy: str | None = None,
        tls: UpstreamTls = _SYSTEM_TLS,
    ) -> Reply:
        """Send a request and return the whole answer, whatever its status.

        Args:
            what: Who is asked, for errors.
            method: Of the request.
            url: Whole and encoded.
            headers: Of the request.
            body: Of the request.
            local: It is the machine's own metadata service: no proxy.
            proxy: Instead of that of the environment.
            tls: Other than the rules of the system.

        Raises:
            CredentialUnavailableError: there was no answer.
        """
        try:
            async with self._open().request(
                method,
                URL(url, encoded=True),
                headers={"User-Agent": USER_AGENT, **headers},
                data=body,
                allow_redirects=False,
                proxy=None if local else proxy or proxy_of_environment(url),
                ssl=tls_context(tls, at_home=True),
            ) as response:
                content = await _bounded(response, what)
                return Reply(response.status, content, what)
        except TimeoutError:
            raise CredentialUnavailableError(f"{what} did not answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Only the class: the words of some hold what was sent.
            raise CredentialUnavailableError(f"{what}: {type(error).__name__}") from None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=PooledResolver(self._dns), force_close=True
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=_LIMITS,
            )
        return self._session


async def _bounded(response: aiohttp.ClientResponse, what: str) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > _ANSWER_MAX_BYTES:
            raise CredentialUnavailableError(f"{what}: its answer is too large")
    return bytes(content)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where this process runs: what a cloud's identity is found by."""

    calls: Calls
    files: Pool
    clock: Clock
    environ: Mapping[str, str]

    async def file(self, variable: str) -> str:
        """Return the content of the file that a variable names; read each time, so it may rotate.

        Raises:
            CredentialUnavailableError: it is empty or cannot be read.
        """
        try:
            text = await self.files.run(_read, Path(self.environ[variable]))
        except (OSError, ValueError):
            text = ""
        if not text:
            raise CredentialUnavailableError(f"the file that {variable} names cannot be read")
        return text

    def seconds_until(self, at: float) -> float:
        """Return how long it is until a time in seconds since the epoch; never negative."""
        return max(0.0, at - self.clock.wall())


def _read(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(_FILE_MAX_CHARS).strip()


def text_of(fields: Mapping[str, Any], name: str, reply: Reply) -> str:
    """Return a field that must be a text which can be sent.

    Raises:
        CredentialUnavailableError: it is not.
    """
    value = fields.get(name)
    if not isinstance(value, str) or not value or not value.isprintable():
        reply.refuse(f"its answer has no usable {name}")
    return value


def number_of(fields: Mapping[str, Any], name: str, default: float) -> float:
    """Return a number of an answer; *default* if it has none, or an absurd one."""
    try:
        value = float(fields[name])
    except (KeyError, TypeError, ValueError, OverflowError):
        return default
    return value if 0 < value < float("inf") else default


def base_url(environ: Mapping[str, str], *variables: str, default: str) -> str:
    """Return the first of some variables that holds a URL, without a slash at its end.

    Raises:
        CredentialUnavailableError: it is no http(s) URL.
    """
    name = next((each for each in variables if environ.get(each)), None)
    if name is None:
        return default
    url = environ[name].rstrip("/")
    if Origin.of(url) is None:
        raise CredentialUnavailableError(f"{name} is not a plain http:// or https:// URL")
    return url
