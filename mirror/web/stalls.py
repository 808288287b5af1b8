"""Clients that take nothing of what waits for them, and hold a connection by that."""

import asyncio

from mirror.web.encrypting import LendableTransport


class Taking:
    """What one client takes, looked at from time to time."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: tuple[int, float] | None = None

    def goes_on(self) -> None:
        """Note that the client has taken something; what waits next may be just as large."""
        self._seen = None

    def is_stalled(self, transport: asyncio.Transport, now: float, limit_seconds: float) -> bool:
        """Tell whether something waits and is as it was so long ago.

        What has grown counts as changed: it does so until there is no room, and then it stays.
        """
        size_bytes = _untaken_bytes(transport)
        if not size_bytes:
            self._seen = None
            return False
        if self._seen is None or self._seen[0] != size_bytes:
            self._seen = size_bytes, now
        return now - self._seen[1] >= limit_seconds


def _untaken_bytes(transport: asyncio.Transport) -> int:
    if isinstance(transport, LendableTransport):
        return transport.untaken_bytes()
    if transport.is_closing() and transport.get_extra_info("sslcontext") is not None:
        return 0  # asyncio's TLS has a limit for that, and may know no size any more
    return transport.get_write_buffer_size()
