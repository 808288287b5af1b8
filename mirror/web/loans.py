"""The TLS state of one connection while threads send by it (``encrypting.py``)."""

import asyncio
import os
import ssl
import threading
from collections.abc import Callable
from typing import Final

from mirror.runtime.pools import Pool

PIECE_BYTES: Final = 256 * 1024
"""What is encrypted at once. Measured: 64 KiB costs a tenth more CPU."""
_TURN_BYTES: Final = 4 * 1024 * 1024
"""After so much a thread is there for the next connection."""


class Loan(asyncio.Protocol):
    """The TLS state of a connection, in the hands of one sender; also the socket's protocol."""

    def __init__(
        self,
        raw: asyncio.Transport,
        tls: ssl.SSLObject,
        outgoing: ssl.MemoryBIO,
        given_back: Callable[[], None],
    ) -> None:
        self._raw = raw
        self._tls = tls
        self._outgoing = outgoing
        self._given_back = given_back
        self._rest = memoryview(b"")  # encrypted, not sent
        self._running: asyncio.Future[int] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._is_full = self._is_lost = self._is_over = self._is_broken = False
        self._protocol = raw.get_protocol()
        self._limits = raw.get_write_buffer_limits()
        self._was_reading = raw.is_reading()
        raw.pause_reading()
        raw.set_protocol(self)
        raw.set_write_buffer_limits(high=0)  # calls pause_writing if something waits

    # --- what the socket transport says -----------------------------------------------------------

    def pause_writing(self) -> None:
        """Note that something waits for the client."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Note that nothing does any longer."""
        self._is_full = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; asyncio's TLS is told when the thread has ended."""
        self._is_lost = True
        self.interrupt()
        self._when_idle(lambda: self._protocol.connection_lost(exc))

    def interrupt(self) -> None:
        """End early whatever is under way."""
        self._is_over = True
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # --- what the sender wants --------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether something waits for the client."""
        return self._is_full

    async def send(self, pool: Pool, file: int, offset: int, count: int, piece_bytes: int) -> int:
        """Send what the client takes at once; returns how many bytes of the file that are.

        What is encrypted and not sent is the socket transport's then.

        Raises:
            ConnectionError: the connection is closed.
        """
        self._running = pool.start(self._turn, file, offset, count, piece_bytes)
        try:
            taken_bytes = await asyncio.shield(self._running)
        except asyncio.CancelledError:
            self._is_over = self._is_broken = True
            self._running.add_done_callback(_retrieve)
            raise
        self._check()
        rest, self._rest = self._rest, memoryview(b"")
        self._raw.write(rest)
        return taken_bytes

    async def drain(self, stall_seconds: float) -> None:
        """Wait until nothing waits for the client any longer.

        Raises:
            ConnectionError: the connection is closed.
            TimeoutError: the client took nothing for so long.
        """
        while self._is_full and not self._is_over:
            before_bytes = self._raw.get_write_buffer_size()
            self._drained = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(stall_seconds):
                    await self._drained
            except TimeoutError:
                if self._raw.get_write_buffer_size() == before_bytes:
                    raise
        self._check()

    def _check(self) -> None:
        if self._is_over:
            raise ConnectionResetError("the connection is closed")

    def give_back(self) -> None:
        """End the loan as soon as the thread has ended."""
        self._is_over = True
        self._when_idle(self._restore)

    def _when_idle(self, call: Callable[[], None]) -> None:
        if self._running is None or self._running.done():
            call()
        else:
            self._running.add_done_callback(lambda _: call())

    def _restore(self) -> None:
        is_cut = bool(self._is_broken or self._rest or self._is_full)
        if not self._is_lost:
            self._raw.set_protocol(self._protocol)
            if is_cut:
                self._raw.abort()  # whatever follows a record that is not whole means nothing
            else:
                low_bytes, high_bytes = self._limits
                self._raw.set_write_buffer_limits(high_bytes, low_bytes)
                if self._was_reading:
                    self._raw.resume_reading()
        self._given_back()

    # --- in the thread ----------------------------------------------------------------------------

    def _turn(self, file: int, offset: int, count: int, piece_bytes: int) -> int:
        """Read, encrypt and send until the socket is full; returns how much was encrypted."""
        socket = self._raw.get_extra_info("socket").fileno()
        buffer = _buffer()
        taken_bytes = 0
        while taken_bytes < min(count, _TURN_BYTES) and not self._rest:
            wanted_bytes = min(piece_bytes, count - taken_bytes)
            try:
                got_bytes = os.preadv(file, [buffer[:wanted_bytes]], offset + taken_bytes)
            except OSError:
                if taken_bytes:
                    break  # it will be said again, when these bytes have gone
                raise
            # After that, the file may be closed and its number that of another one.
            if not got_bytes or self._is_over:
                break
            encrypted_bytes = self._encrypt(buffer[:got_bytes])
            taken_bytes += encrypted_bytes
            self._flush(socket)
            if encrypted_bytes < got_bytes:
                break
        return taken_bytes

    def _encrypt(self, data: memoryview) -> int:
        """Encrypt as much as can be; less than all, if the client has to say something first."""
        done_bytes = 0
        try:
            while done_bytes < len(data):
                done_bytes += self._tls.write(data[done_bytes:])
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise ConnectionResetError(f"TLS: {error.reason}") from error
        return done_bytes

    def _flush(self, socket: int) -> None:
        """Send what is encrypted; what the socket does not take remains."""
        self._rest = memoryview(self._outgoing.read())
        if not self._rest:
            return
        try:
            self._rest = self._rest[os.write(socket, self._rest) :]
        except BlockingIOError:
            return
        except OSError as error:
            raise ConnectionResetError(error.errno, error.strerror) from error


_local: Final = threading.local()


def _buffer() -> memoryview:
    """Return the buffer of this thread, which it uses again and again."""
    try:
        found: memoryview = _local.buffer
    except AttributeError:
        found = _local.buffer = memoryview(bytearray(PIECE_BYTES))
    return found


def _retrieve(running: "asyncio.Future[int]") -> None:
    if not running.cancelled():
        running.exception()
