"""Bodies over TLS, encrypted and sent by a thread: the event loop alone would be the limit.

asyncio encrypts in the event loop, so that one core is all there is for a process, and others
wait for it. Here a connection lends its TLS state to a thread for as long as a file is sent:

- No TLS record is read meanwhile, and what would touch the state (closing, above all) waits until
  it is given back: OpenSSL allows one thread at a time. What the client sends stays in the kernel.
- The thread reads a piece of the file, encrypts it and sends it, until the socket takes no more.
  The rest of that piece is the socket transport's, which tells when it has gone.

Of asyncio, two private names are needed to reach the buffer that OpenSSL writes to (the same in
Python 3.11 to 3.14). Where they are not there, or are something else, ``lendable`` returns the
transport as it is, and all is sent the usual way.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, Final

from mirror.runtime.pools import Pool
from mirror.web.loans import PIECE_BYTES, Loan

_SMALL_PIECE_BYTES: Final = 64 * 1024
_MANY_LOANS: Final = 64
_RECEIVE_BYTES: Final = 32 * 1024


def lendable(secure: asyncio.Transport, raw: asyncio.Transport) -> asyncio.Transport:
    """Return the transport *secure*, which is over *raw*, as one that can lend its TLS state."""
    protocol = getattr(secure, "_ssl_protocol", None)
    _receive_less(protocol)
    outgoing = getattr(protocol, "_outgoing", None)
    tls = secure.get_extra_info("ssl_object")
    if isinstance(outgoing, ssl.MemoryBIO) and isinstance(tls, ssl.SSLObject):
        return LendableTransport(secure, raw, tls, outgoing)
    return secure


def _receive_less(protocol: Any) -> None:  # noqa: ANN401 -- of a private class
    """Take 256 KiB from what an open connection costs: asyncio's buffer for what clients send."""
    if isinstance(getattr(protocol, "_ssl_buffer", None), bytearray):
        protocol.max_size = _RECEIVE_BYTES
        protocol._ssl_buffer = bytearray(_RECEIVE_BYTES)  # noqa: SLF001 -- see above
        protocol._ssl_buffer_view = memoryview(protocol._ssl_buffer)  # noqa: SLF001 -- see above


class LendableTransport(asyncio.Transport):
    """A TLS transport of asyncio, none of whose calls touches TLS state that is lent."""

    def __init__(
        self,
        secure: asyncio.Transport,
        raw: asyncio.Transport,
        tls: ssl.SSLObject,
        outgoing: ssl.MemoryBIO,
    ) -> None:
        super().__init__()
        self._secure = secure
        self._raw = raw
        self._tls = tls
        self._outgoing = outgoing
        self._loan: Loan | None = None
        self._is_closing = False
        self._later: list[Callable[[], None]] = []

    def lend(self) -> Loan | None:
        """Lend the TLS state, if it can be done now; ``give_back`` ends that."""
        low_bytes, _ = self._raw.get_write_buffer_limits()
        # With more than that, the socket's transport may have said so to asyncio's TLS already.
        is_full = self._raw.get_write_buffer_size() > low_bytes
        is_busy = self._loan is not None or is_full or self._secure.get_write_buffer_size()
        if is_busy or self.is_closing() or self._raw.is_closing():
            return None
        self._loan = Loan(self._raw, self._tls, self._outgoing, self._given_back)
        return self._loan

    def _given_back(self) -> None:
        self._loan = None
        later, self._later = self._later, []
        for each in later:
            each()

    def _when_given_back(self, call: Callable[[], None]) -> None:
        if self._loan is None:
            call()
        else:
            self._later.append(call)

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 -- asyncio's
        """Return what asyncio knows of the connection."""
        return self._secure.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """Tell whether the connection is closed or about to be."""
        return self._is_closing or self._secure.is_closing()

    def close(self) -> None:
        """Close as TLS does; a body that is being sent ends early."""
        self._end(self._secure.close)

    def abort(self) -> None:
        """Close at once."""
        self._end(self._abort)

    def _abort(self) -> None:
        self._secure.abort()
        self._raw.abort()  # one that was closed twice has let go of this

    def _end(self, call: Callable[[], None]) -> None:
        self._is_closing = True
        self._when_given_back(call)
        if self._loan is not None:
            self._loan.interrupt()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        self.writelines([data])

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Encrypt and send several."""
        if self._loan is not None:
            raise RuntimeError("a file is being sent")
        self._secure.writelines(list_of_data)

    def can_write_eof(self) -> bool:
        """Tell that TLS has no half-closed connections here."""
        return False

    def is_reading(self) -> bool:
        """Tell whether what comes is handed on."""
        return self._secure.is_reading()

    def pause_reading(self) -> None:
        """Hand on nothing for now."""
        self._when_given_back(self._secure.pause_reading)

    def resume_reading(self) -> None:
        """Hand on what comes."""
        self._when_given_back(self._secure.resume_reading)

    def get_write_buffer_size(self) -> int:
        """Return how much waits for the client."""
        return (self._raw if self._loan else self._secure).get_write_buffer_size()

    def untaken_bytes(self) -> int:
        """Return how much waits for the client, encrypted or not.

        While this is lent it is nothing: whoever sends has a limit for clients that take nothing.
        """
        if self._loan is not None:
            return 0
        # asyncio has a limit for TLS that is closing, but not for what it gave to the socket.
        secure_bytes = 0 if self._secure.is_closing() else self._secure.get_write_buffer_size()
        return self._raw.get_write_buffer_size() + secure_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set how much may wait for the client."""
        self._when_given_back(lambda: self._secure.set_write_buffer_limits(high, low))

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return how much may wait for the client."""
        return self._secure.get_write_buffer_limits()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Set who gets what comes."""
        self._secure.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return who gets what comes."""
        return self._secure.get_protocol()


class EncryptingSender:
    """Sends files over TLS from threads."""

    def __init__(self, pool: Pool, stall_seconds: float) -> None:
        self._pool = pool
        self._stall_seconds = stall_seconds
        self._loans = 0

    async def send(
        self,
        transport: LendableTransport,
        file: BinaryIO,
        offset: int,
        count: int,
        took: Callable[[int], None],
    ) -> int:
        """Send as much of a file as can be sent this way, and tell *took* of each step.

        Returns how many bytes those were; the others are for the caller to send the usual way.
        """
        loan = transport.lend()
        if loan is None:
            return 0
        self._loans += 1
        done_bytes = 0
        try:
            await loan.drain(self._stall_seconds)
            while done_bytes < count:
                taken_bytes = await self._step(loan, file, offset + done_bytes, count - done_bytes)
                if not taken_bytes:
                    break
                took(taken_bytes)
                done_bytes += taken_bytes
        finally:
            self._loans -= 1
            loan.give_back()
        return done_bytes

    async def _step(self, loan: Loan, file: BinaryIO, offset: int, count: int) -> int:
        # A thousand slow clients must not hold a thousand large pieces.
        piece_bytes = PIECE_BYTES if self._loans <= _MANY_LOANS else _SMALL_PIECE_BYTES
        async with asyncio.timeout(self._stall_seconds):
            taken_bytes = await loan.send(self._pool, file.fileno(), offset, count, piece_bytes)
        await loan.drain(self._stall_seconds)
        return taken_bytes
