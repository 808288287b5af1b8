"""Name resolution in threads of its own: a hanging look-up holds up nobody else."""

import socket
from collections.abc import Callable, Sequence
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

from mirror.domain.networks import Reach
from mirror.runtime.pools import Pool

_FLAGS: Final = socket.AI_ADDRCONFIG
_NUMERIC: Final = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class PrivateAddressError(Exception):
    """A host that nobody has named has an address that is not public."""


class PooledResolver(AbstractResolver):
    """``getaddrinfo`` in a pool that is for nothing else."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of *host*; raises OSError where there are none."""
        found = await self._pool.run(
            socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, 0, _FLAGS
        )
        return [_result(host, entry) for entry in found]

    async def close(self) -> None:
        """Leave the pool to its owner."""


class GuardedResolver(PooledResolver):
    """Finds no host that we may not be sent to.

    The connection goes to the very addresses that were judged here, so a name that has another
    address a moment later (DNS rebinding) gains nothing.
    """

    def __init__(self, pool: Pool, reach: Reach, named: Callable[[str, int], bool]) -> None:
        """Set up.

        Args:
            pool: Threads for look-ups.
            reach: Which addresses hosts may have.
            named: Tells whether somebody has named a host and port in a configuration.
        """
        super().__init__(pool)
        self._reach = reach
        self._named = named

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of *host*; raises PrivateAddressError if one is private."""
        found = await super().resolve(host, port, family)
        if not self._named(host, port):
            for each in found:
                if not self._reach.allows(each["host"]):
                    raise PrivateAddressError
        return found


AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, Sequence[str | int | bytes]]


def _result(host: str, entry: AddressInfo) -> ResolveResult:
    family, _, protocol, _, address = entry
    return ResolveResult(
        hostname=host,
        host=str(address[0]),
        port=int(address[1]),
        family=family,
        proto=protocol,
        flags=_NUMERIC,
    )
