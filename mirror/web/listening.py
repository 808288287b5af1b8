"""Listening sockets, and what is said when one cannot be had."""

import errno
import socket
from typing import Final

from mirror.settings import ListenAddress

_BACKLOG: Final = 1024


class ListenError(Exception):
    """An address cannot be listened on; the message says what to do."""


def listen(address: ListenAddress, key: str) -> socket.socket:
    """Return a listening socket.

    Args:
        address: Where; no host and ``::`` mean all addresses, IPv6 as well where there is
            IPv6, and IPv4 as well.
        key: The configuration key to name when it fails, such as ``server.listen``.

    Raises:
        ListenError: the port is in use, or the address is not ours.
    """
    try:
        if address.host not in {"", "::"}:
            return _on_host(address)
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        return socket.create_server(
            ("", address.port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual
        )
    except OSError as error:
        raise ListenError(_explained(address, key, error)) from None


def _on_host(address: ListenAddress) -> socket.socket:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    family, _, _, _, place = found[0]
    return socket.create_server(place[:2], family=family, backlog=_BACKLOG)


def _explained(address: ListenAddress, key: str, error: OSError) -> str:
    variable = "MIRROR_" + key.replace(".", "__").upper()
    remedy = f"set {key} ({variable}=HOST:PORT) to another"
    if error.errno == errno.EADDRINUSE:
        name = "PORT" if key == "server.listen" else "ADMIN_PORT"
        return (
            f"port {address.port} is in use by another program; stop that or {remedy} "
            f"(with make: make run {name}=…)"
        )
    return f"cannot listen on {address}: {error.strerror or error}; {remedy}"
