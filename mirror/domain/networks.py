"""Where the answers of an upstream may send us: not into networks that only we can reach.

A redirect and a realm are text that somebody else wrote. Without a rule, whoever runs a registry
could make the mirror ask the metadata service of a cloud, or a host behind the firewall.

Source: RFC 6052 for NAT64, RFC 3056 for 6to4.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

from mirror.domain.challenge import Origin

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_BLOCKED: Final[tuple[Network, ...]] = tuple(
    map(
        ip_network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
            *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
            *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
            *(
                "::/96",
                "::ffff:0:0:0/96",
                "64:ff9b:1::/48",
                "100::/64",
                "2001::/23",
                "2001:db8::/32",
                "3fff::/20",
            ),
            *("5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
        ),
    )
)
_NAT64: Final = IPv6Network("64:ff9b::/96")
_LOCAL_NAMES: Final = frozenset({"localhost", "kubernetes", "metadata"})
_NUMBER: Final = re.compile(r"0x|[0-9]+\Z")
_LOCAL_DOMAINS: Final = (".cluster.local", ".internal", ".local", ".localhost", ".svc")


def judged(address: str) -> Address | None:
    """Return what an address really leads to: of IPv6 that carries IPv4, the latter."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return found.ipv4_mapped
        if found.sixtofour is not None:
            return found.sixtofour
        if found in _NAT64:
            return IPv4Address(int(found) & 0xFFFFFFFF)
    return found


def is_public(address: str) -> bool:
    """Tell whether everybody can reach an address, so that we may be sent there, too."""
    found = judged(address)
    if found is None or not found.is_global:
        return False
    return not any(found in network for network in _BLOCKED if network.version == found.version)


def sounds_private(host: str) -> bool:
    """Tell by its name whether a host is one of ours: for when a proxy looks up its address."""
    if judged(host) is not None:
        return not is_public(host)
    if _NUMBER.match(host.rpartition(".")[2]):
        return True  # 127.1 and 0x7f.1: some proxies read these as addresses, and no name ends so
    first, dot, _ = host.partition(".")
    return not dot or first in _LOCAL_NAMES or host.endswith(_LOCAL_DOMAINS)


@dataclass(frozen=True, slots=True)
class Reach:
    """Where one upstream may send us: what is public, and what its operator has named."""

    named: frozenset[str]
    """As ``host`` or ``host:port``, IPv6 in brackets."""
    networks: tuple[Network, ...] = ()

    @classmethod
    def of(
        cls, endpoints: Iterable[str], realms: Iterable[str] = (), redirects: Iterable[str] = ()
    ) -> "Reach":
        """Read the settings of an upstream.

        Args:
            endpoints: Its URLs: each names its host, and its port alone.
            realms: Hosts that may give tokens.
            redirects: Hosts and networks that redirects may lead to.
        """
        named, networks = set(realms), []
        for entry in redirects:
            network = network_of(entry)
            if network is None:
                named.add(entry)
            else:
                networks.append(network)
        origins = filter(None, map(Origin.of, endpoints))
        named |= {f"{origin.written_host}:{origin.port}" for origin in origins}
        return cls(frozenset(named), tuple(networks))

    def names(self, host: str, port: int) -> bool:
        """Tell whether the operator has named a host: then its address is his affair."""
        written = f"[{host}]" if ":" in host else host
        return not self.named.isdisjoint({written, f"{written}:{port}"})

    def allows(self, address: str) -> bool:
        """Tell whether we may connect to an address that a host has."""
        found = judged(address)
        if found is None:
            return False
        return is_public(address) or any(
            found in network for network in self.networks if network.version == found.version
        )

    def allows_unseen(self, host: str) -> bool:
        """Tell whether a proxy may be asked for a host that is not named."""
        return self.allows(host) if judged(host) is not None else not sounds_private(host)


def network_of(text: str) -> Network | None:
    """Return the network or address that is written so; ``None`` if it is a host's name."""
    try:
        return ip_network(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
