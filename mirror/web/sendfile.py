"""Files by ``sendfile``: the kernel hands pages of its cache to the socket, and none to us.

asyncio has the same, but asks the kernel for each slice anew when it may go on, which costs as
much again where a socket takes little at once. Here one callback stays registered for as long
as a body goes out. It belongs to a duplicate of the socket, since asyncio watches its own.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from typing import BinaryIO, Final

SLICE_BYTES: Final = 512 * 1024
"""What one turn of the event loop gives one client at most: 0.1 ms of the kernel's time. Larger
slices are no quicker, and hold up all others."""
_LOOK_SECONDS: Final = 1.0

_NEAR_MICROSECONDS: Final = 100
_NEAR_BYTES: Final = 256 * 1024
_MIN_RTT: Final = slice(148, 152)
"""Where ``tcpi_min_rtt`` is in ``struct tcp_info`` (Linux 4.3, include/uapi/linux/tcp.h)."""


async def sendfile(
    transport: asyncio.Transport,
    file: BinaryIO,
    offset: int,
    count: int,
    *,
    stall_seconds: float,
    took: Callable[[int], None],
) -> int:
    """Send up to *count* bytes of *file*, and tell *took* of each step.

    Returns how many bytes it were. If they are fewer, the kernel does not do it, the disk fails or
    the file has ended: reading will tell.

    Raises:
        ConnectionError: the client has left, or the connection is closed.
        TimeoutError: the client took nothing for so long.
    """
    sending = _Sending(transport, file.fileno(), offset, count, took)
    if sending.goes_on(transport.get_extra_info("socket").fileno()):
        await sending.rest(stall_seconds)
    return sending.sent_bytes


class _Sending:
    """One part of a file on its way."""

    def __init__(
        self,
        transport: asyncio.Transport,
        file: int,
        offset: int,
        count: int,
        took: Callable[[int], None],
    ) -> None:
        self._transport = transport
        self._file = file
        self._offset = offset
        self._count = count
        self._took = took
        self.sent_bytes = 0

    def goes_on(self, target: int) -> bool:
        """Send what the socket *target* takes now; tells whether there is more to send.

        Raises:
            ConnectionError: the client has left, or the connection is closed.
        """
        if self._transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        if self._transport.get_write_buffer_size():
            return True  # the head comes first, and is asyncio's
        left_bytes = self._count - self.sent_bytes
        try:
            taken_bytes = os.sendfile(
                target, self._file, self._offset + self.sent_bytes, min(left_bytes, SLICE_BYTES)
            )
        except BlockingIOError:
            return True
        except ConnectionError:
            raise
        except OSError:
            return False
        self.sent_bytes += taken_bytes
        self._took(taken_bytes)
        return 0 < taken_bytes < left_bytes

    async def rest(self, stall_seconds: float) -> None:
        """Send the rest as the client takes it."""
        loop = asyncio.get_running_loop()
        target = os.dup(self._transport.get_extra_info("socket").fileno())
        ended: asyncio.Future[None] = loop.create_future()
        loop.add_writer(target, self._step, target, ended)
        try:
            await self._watched(ended, stall_seconds)
        finally:
            loop.remove_writer(target)
            os.close(target)

    def _step(self, target: int, ended: "asyncio.Future[None]") -> None:
        if ended.done():
            return
        try:
            if not self.goes_on(target):
                ended.set_result(None)
        except ConnectionError as error:
            ended.set_exception(error)

    async def _watched(self, ended: "asyncio.Future[None]", stall_seconds: float) -> None:
        """Wait for the end; a connection that we close meanwhile is not heard of otherwise."""
        loop = asyncio.get_running_loop()
        before_bytes, since = self.sent_bytes, loop.time()
        while True:
            await asyncio.wait({ended}, timeout=min(_LOOK_SECONDS, stall_seconds / 4))
            if ended.done():
                return ended.result()
            if self._transport.is_closing():
                raise ConnectionResetError("the connection is closed")
            if self.sent_bytes != before_bytes:
                before_bytes, since = self.sent_bytes, loop.time()
            elif loop.time() - since >= stall_seconds:
                raise TimeoutError


def keep_in_step(transport: asyncio.Transport) -> None:
    """Let the kernel hold little for a client that is as near as the same machine.

    Such a client is quicker than we are. With all the room that the kernel gives a connection it
    sleeps each time it has everything, and is woken for each 64 KiB, which costs several times what
    it costs to send them. With 256 KiB we wait for the client instead. At that distance they are
    still more than a line takes: 256 KiB in 0.1 ms are 20 Gbit/s.
    """
    connection = transport.get_extra_info("socket")
    if not hasattr(socket, "TCP_INFO"):
        return
    told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _MIN_RTT.stop)
    if len(told) < _MIN_RTT.stop:
        return
    if int.from_bytes(told[_MIN_RTT], sys.byteorder) < _NEAR_MICROSECONDS:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _NEAR_BYTES)
