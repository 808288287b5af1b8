"""How a worker comes to life and to its end."""

import asyncio
import socket
import sys
from typing import Protocol


class Spawned(Protocol):
    """A worker that was started."""

    async def wait(self) -> int:
        """Wait for its end; returns the exit code, negative for a signal."""
        ...

    def kill(self) -> None:
        """End it without a warning."""
        ...


class Spawn(Protocol):
    """Starts a worker; both sockets stay the caller's."""

    async def __call__(self, end: socket.socket, listening: socket.socket) -> Spawned:
        """Start one that is told everything over *end*; raises OSError."""
        ...


async def process(end: socket.socket, listening: socket.socket) -> Spawned:
    """Start a worker as a process: a new one, since a fork would have our locks and threads."""
    descriptors = end.fileno(), listening.fileno()
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", "mirror.app.worker"),
        *(str(each) for each in descriptors),
        stdin=asyncio.subprocess.DEVNULL,
        pass_fds=descriptors,
    )
