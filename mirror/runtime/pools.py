"""Thread pools, one for each kind of waiting, so that none waits for another.

asyncio's default executor is never used (invariant 14): there, fifty hanging DNS
look-ups keep a cached blob from being read.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from mirror.runtime.daemons import DaemonExecutor

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """A few threads with a name."""

    def __init__(self, name: str, threads: int, *, may_hang: bool = False) -> None:
        """Set up a pool.

        Args:
            name: What the threads are called.
            threads: How many there may be.
            may_hang: The end of the process does not wait for their work.
        """
        self._executor: Executor = (
            DaemonExecutor(threads, f"mirror-{name}")
            if may_hang
            else ThreadPoolExecutor(threads, thread_name_prefix=f"mirror-{name}")
        )

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run *work* in one of the threads and wait for it without blocking the loop.

        A cancelled caller stops waiting; work that has begun runs to its end all the same.
        """
        return await self.start(work, *args, **kwargs)

    def start(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "asyncio.Future[T]":
        """Begin *work* at once and return what to wait for."""
        return asyncio.wrap_future(self._executor.submit(work, *args, **kwargs))

    def submit(self, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Begin *work*, from any thread; nobody waits for it, so it must not raise."""
        self._executor.submit(work, *args, **kwargs)

    def close(self, *, wait: bool = True) -> None:
        """Drop what has not begun and, with *wait*, wait for what has."""
        self._executor.shutdown(wait=wait, cancel_futures=True)


_FILL_THREADS: Final = 4
_READ_THREADS: Final = 8
_SEND_THREADS: Final = min(8, 1 + (os.cpu_count() or 1))
_DNS_THREADS: Final = 32
_SECRET_THREADS: Final = 4
_HELPER_THREADS: Final = 4


class Pools:
    """All pools of a process."""

    def __init__(self) -> None:
        self.fill = Pool("fill", _FILL_THREADS)
        """Hash and write what upstream sends; both let go of the GIL."""
        self.read = Pool("read", _READ_THREADS)
        """Open and read what is stored."""
        self.send = Pool("send", _SEND_THREADS)
        """Read, encrypt and send what goes out over TLS: few steps in Python between long ones."""
        self.index_read = Pool("index-read", 1)
        self.index_write = Pool("index-write", 1)
        """One thread each: more of them wait for each other inside SQLite."""
        self.dns = Pool("dns", _DNS_THREADS, may_hang=True)
        self.admin = Pool("admin", 1)
        """Metrics pages, configuration checks: what no pull waits for."""
        self.passwords = Pool("passwords", 2)
        """Check passwords, which takes a tenth of a second each and lets go of the GIL."""
        self.users = Pool("users", 1, may_hang=True)
        """Look whether files of users have changed, which whoever shows a credential waits for."""
        self.secrets = Pool("secrets", _SECRET_THREADS, may_hang=True)
        """Read the files of secrets, which pulls wait for."""
        self.helpers = Pool("helpers", _HELPER_THREADS, may_hang=True)
        """Run the programs that have secrets, each of which may take its ten seconds."""
        self.inspect = Pool("inspect", 1)
        """Look through the cache: long work in short steps, which nothing else waits for."""

    def close(self) -> None:
        """End all threads; a hanging DNS look-up or helper is not waited for."""
        index = (self.index_read, self.index_write)
        for pool in (
            self.fill,
            self.read,
            self.send,
            *index,
            self.admin,
            self.passwords,
            self.inspect,
        ):
            pool.close()
        self.dns.close(wait=False)
        self.secrets.close(wait=False)
        self.helpers.close(wait=False)
        self.users.close(wait=False)
