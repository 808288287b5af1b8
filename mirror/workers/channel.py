"""Messages over a Unix socket, some with an open file.

A file is handed over with its lock: an object that a worker is sending is not evicted, and is
again as soon as the worker has closed it or has died.
"""

import array
import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

_HEAD: Final = struct.Struct("<IB")
_READ_BYTES: Final = 256 * 1024
_FILES_MAX: Final = 16
_ROOM_FOR_FILES: Final = socket.CMSG_SPACE(_FILES_MAX * array.array("i").itemsize)

LOST: Final = -1
"""Heard instead of the descriptor of a file that this process had no room for."""

Heard = Callable[[bytes, int | None], None]


class _Outgoing:
    """A message that is not sent yet, or not wholly."""

    def __init__(self, frame: memoryview, file: int | None) -> None:
        self.frame = frame
        self.file = file


class Channel:
    """One end of a connected pair of Unix stream sockets, on the event loop."""

    def __init__(self, end: socket.socket, heard: Heard, ended: Callable[[], None]) -> None:
        """Begin to listen.

        Args:
            end: The socket, which is ours from now on.
            heard: Called with each message, and with the descriptor of the file that came
                with it, which is the callee's from then on; with ``LOST`` if it got lost.
            ended: Called once, when the other side is gone or ``close`` was called.
        """
        self._loop = asyncio.get_running_loop()
        self._socket = end
        self._heard = heard
        self._ended = ended
        self._received = bytearray()
        self._files: deque[int] = deque()
        self._outgoing: deque[_Outgoing] = deque()
        self._is_closed = False
        end.settimeout(0)
        self._loop.add_reader(end, self._read)

    def send(self, message: bytes, file: int | None = None) -> None:
        """Send a message; *file* stays the caller's. To one who is gone, nothing is sent."""
        if self._is_closed:
            return
        frame = memoryview(_HEAD.pack(len(message), file is not None) + message)
        outgoing = _Outgoing(frame, file)
        if not self._outgoing and self._sent(outgoing):
            return
        if outgoing.file is not None:
            outgoing.file = os.dup(outgoing.file)
        if not self._outgoing:
            self._loop.add_writer(self._socket, self._write)
        self._outgoing.append(outgoing)

    def close(self) -> None:
        """Hang up; what was not sent is not sent any more."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        for outgoing in self._outgoing:
            if outgoing.file is not None:
                os.close(outgoing.file)
        for file in self._files:
            if file != LOST:
                os.close(file)
        self._outgoing.clear()
        self._files.clear()
        self._ended()

    # --- inside ----------------------------------------------------------------------------

    def _write(self) -> None:
        while self._outgoing:
            outgoing = self._outgoing[0]
            file = outgoing.file
            is_sent = self._sent(outgoing)
            if file is not None and outgoing.file is None:
                os.close(file)
            if not is_sent or not self._outgoing:
                return
            self._outgoing.popleft()
        self._loop.remove_writer(self._socket)

    def _sent(self, outgoing: _Outgoing) -> bool:
        """Send as much as goes at once; returns whether nothing is left to be sent."""
        while outgoing.frame:
            try:
                count = self._socket.sendmsg([outgoing.frame], _rights(outgoing.file))
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                self.close()
                return True
            outgoing.frame = outgoing.frame[count:]
            outgoing.file = None  # it goes with the first byte
        return True

    def _read(self) -> None:
        flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        try:
            data, rights, seen, _ = self._socket.recvmsg(_READ_BYTES, _ROOM_FOR_FILES, flags)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, rights, seen = b"", [], 0
        for level, kind, content in rights:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._files.extend(_descriptors(content))
        if not data:
            self.close()
            return
        if seen & socket.MSG_CTRUNC:
            # One read ends where a file comes in, and a message has one at most: it is this one.
            self._files.append(LOST)
        self._received += data
        self._take()

    def _take(self) -> None:
        while len(self._received) >= _HEAD.size and not self._is_closed:
            length_bytes, has_file = _HEAD.unpack_from(self._received)
            end = _HEAD.size + length_bytes
            if len(self._received) < end:
                return
            message = bytes(memoryview(self._received)[_HEAD.size : end])
            del self._received[:end]
            self._heard(message, self._files.popleft() if has_file else None)


def _rights(file: int | None) -> "list[tuple[int, int, array.array[int]]]":
    if file is None:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))]


def _descriptors(content: bytes) -> "array.array[int]":
    descriptors = array.array("i")
    descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return descriptors
