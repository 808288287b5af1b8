"""Where a mirror is, in the ways in which clients want it written."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from mirror.domain.challenge import is_address

_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?")
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class MirrorAddress:
    """A URL without a path: what each client makes of a path differs."""

    scheme: str
    host: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``http://mirror.example:5000``; raise ValueError.

        An IPv4 address may stand in brackets: the downward API of Kubernetes gives the address
        of a node without them, and does not say of which family it is.
        """
        scheme, found, rest = text.strip().lower().partition("://")
        if not found or scheme not in _PORTS:
            raise ValueError(f"{text!r} is no http:// or https:// address")
        if rest.startswith("[") and "." in rest.partition("]")[0]:
            rest = rest[1:].replace("]", "", 1)
        split = urlsplit(f"//{rest}")
        host, port = split.hostname or "", split.port  # raises ValueError for a wrong port
        if split.username or split.path.strip("/") or split.query or split.fragment:
            raise ValueError(f"{text!r} has more than a host and a port")
        if not (is_address(host) or (_HOST.fullmatch(host) and ".." not in host)):
            raise ValueError(f"{text!r} has no host that can be read")
        return cls(scheme, host, port)

    @property
    def is_plain(self) -> bool:
        """Whether it speaks HTTP without TLS."""
        return self.scheme == "http"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        if not is_address(self.host):
            return self.host == "localhost"
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def connection_port(self) -> int:
        """The port, also if it is not written."""
        return self.port or _PORTS[self.scheme]

    @property
    def netloc(self) -> str:
        """The address without its scheme: ``mirror.example:5000``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"
