"""Listening sockets, and what is said when one cannot be had."""

import errno
import socket
from contextlib import ExitStack
from typing import Final

from mirror.settings import ListenAddress

_BACKLOG: Final = 1024


class ListenError(Exception):
    """An address cannot be listened on; the message says what to do."""


def listen(address: ListenAddress, key: str, *, shared: bool = False) -> socket.socket:
    """Return a listening socket.

    Args:
        address: Where; no host and ``::`` mean all addresses, IPv6 as well where there is
            IPv6, and IPv4 as well.
        key: The configuration key to name when it fails, such as ``server.listen``.
        shared: Others of ours may listen there, too (SO_REUSEPORT).

    Raises:
        ListenError: the port is in use, or the address is not ours.
    """
    try:
        if address.host not in {"", "::"}:
            return _on_host(address, shared=shared)
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        return socket.create_server(
            ("", address.port),
            family=family,
            backlog=_BACKLOG,
            dualstack_ipv6=dual,
            reuse_port=shared,
        )
    except OSError as error:
        raise ListenError(_explained(address, key, error)) from None


def listen_shared(address: ListenAddress, key: str, count: int) -> list[socket.socket]:
    """Return *count* listening sockets on one port, between which the kernel spreads clients.

    Raises:
        ListenError: the port is in use, or the address is not ours.
    """
    with listen(address, key) as alone:  # what shares a port with us would not fail otherwise
        port = alone.getsockname()[1]
    place = ListenAddress(address.host, port)
    with ExitStack() as opened:
        sockets = [opened.enter_context(listen(place, key, shared=True)) for _ in range(count)]
        opened.pop_all()
    return sockets


def _on_host(address: ListenAddress, *, shared: bool) -> socket.socket:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    family, _, _, _, place = found[0]
    return socket.create_server(place[:2], family=family, backlog=_BACKLOG, reuse_port=shared)


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
