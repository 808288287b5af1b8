"""Name resolution in threads of its own: a hanging look-up holds up nobody else."""

import socket
from collections.abc import Sequence
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

from mirror.runtime.pools import Pool

_FLAGS: Final = socket.AI_ADDRCONFIG
_NUMERIC: Final = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


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
