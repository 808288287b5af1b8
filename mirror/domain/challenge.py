"""``WWW-Authenticate`` challenges, and to which token endpoints credentials may go.

Source: RFC 9110 section 11.6.1 for the grammar; the distribution token specification for
the Bearer parameters; CVE-2026-33540 for why the realm needs a rule.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import urlsplit

_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SPACES: Final = re.compile(r"[\s,]*")
_SCHEME: Final = re.compile(_WORD)
_PARAMETER: Final = re.compile(
    rf'[\s,]*({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))', re.DOTALL
)
_PLAIN_URL: Final = re.compile(r"[!-~]+")
_HOST: Final = re.compile(r"[a-z0-9_-][a-z0-9_.-]*")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_TOKEN68: Final = re.compile(r"\s+[A-Za-z0-9._~+/-]+=*(?=\s*(?:,|$))")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: the scheme in lower case and its parameters, names in lower case."""

    scheme: str
    parameters: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str | None:
        """Return the first value of a parameter, or ``None``."""
        return next((value for key, value in self.parameters if key == name), None)


def parse_challenges(lines: Iterable[str]) -> list[Challenge]:
    """Read all challenges of all ``WWW-Authenticate`` lines; what is malformed is left out."""
    return [challenge for line in lines for challenge in _parse_line(line)]


def usable(challenges: Iterable[Challenge]) -> Challenge | None:
    """Return the challenge that we can meet, Bearer before Basic."""
    found = list(challenges)
    for scheme in ("bearer", "basic"):
        for challenge in found:
            if challenge.scheme == scheme:
                return challenge
    return None


def _parse_line(line: str) -> Iterator[Challenge]:
    position = _skip(line, 0)
    while scheme := _SCHEME.match(line, position):
        position = scheme.end()
        token68 = _TOKEN68.match(line, position)
        if token68 is not None:
            position = token68.end()
        parameters: list[tuple[str, str]] = []
        while parameter := _PARAMETER.match(line, position):
            name, quoted, bare = parameter.groups()
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else bare
            parameters.append((name.lower(), value))
            position = parameter.end()
        yield Challenge(scheme[0].lower(), tuple(parameters))
        position = _skip(line, position)


def _skip(line: str, position: int) -> int:
    match = _SPACES.match(line, position)
    return match.end() if match else position


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: what must be equal for credentials to be sent.

    Only URLs that every parser reads alike have one: what is compared here must be where the
    request goes.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "Origin | None":
        """Return the origin of an http(s) URL without user information, else ``None``."""
        try:
            parts = urlsplit(url if _PLAIN_URL.fullmatch(url) else "")
            port = parts.port
            host = _plain_host(parts.hostname or "")
        except ValueError:
            return None
        default_port = _DEFAULT_PORTS.get(parts.scheme)
        if default_port is None or not host or "@" in parts.netloc or port == 0:
            return None
        return cls(parts.scheme, host, port or default_port)

    @property
    def names(self) -> frozenset[str]:
        """How a configuration may call it: ``host`` and ``host:port``, IPv6 in brackets."""
        return frozenset({self.written_host, f"{self.written_host}:{self.port}"})

    @property
    def written_host(self) -> str:
        """The host as it stands in a URL: IPv6 in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        is_default = self.port == _DEFAULT_PORTS[self.scheme]
        return f"{self.scheme}://{self.written_host}" + ("" if is_default else f":{self.port}")


def _plain_host(host: str) -> str:
    """Return a host in its one form, empty if it is none; raises ValueError likewise."""
    if ":" in host:
        return str(IPv6Address(host))
    return host.removesuffix(".") if _HOST.fullmatch(host) else ""


def realm_allowed(
    realm: str,
    upstream_url: str,
    *,
    extra_hosts: Collection[str],
    same_site: Callable[[str, str], bool],
) -> bool:
    """Return whether a token may be asked for at *realm* on behalf of *upstream_url*.

    Args:
        realm: The URL that the challenge names.
        upstream_url: The endpoint that sent the challenge.
        extra_hosts: Hosts that the operator allows besides (``upstreams.*.realms``),
            as ``host`` or ``host:port``.
        same_site: Tells whether two host names have one registrable domain (eTLD+1).
    """
    target, home = Origin.of(realm), Origin.of(upstream_url)
    if target is None or home is None:
        return False
    if target.scheme != "https" and home.scheme == "https":
        return False
    if (target.host, target.port) == (home.host, home.port):
        return True
    if not target.names.isdisjoint(extra_hosts):
        return True
    named = not _is_address_or_local(target.host) and not _is_address_or_local(home.host)
    return named and same_site(target.host, home.host)


def _is_address_or_local(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost") or is_address(host)


def is_address(host: str) -> bool:
    """Tell whether a host is given by its address and not by a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
