"""The two listeners: their certificates, and what runs beside them."""

import asyncio
import resource
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final

from aiohttp import web

from mirror.app.certificates import Certificates
from mirror.observe import logs
from mirror.observe.metrics import Metrics
from mirror.runtime.pools import Pool
from mirror.settings import Limits, ServerTls
from mirror.web.connections import Gate

FLUSH_SECONDS: Final = 3.0
"""How long closed connections have, at the end, to send what they still hold."""
_MORE_FILES: Final = 2048
_log = logs.get_logger("app")


class Listener:
    """One listening socket, and how it is served."""

    def __init__(self, name: str, limits: Limits, metrics: Metrics) -> None:
        self.name = name
        self._limits = limits
        self._metrics = metrics
        self._certificates: Certificates | None = None
        self._open: Callable[[socket.socket], Awaitable[web.BaseSite]] | None = None

    def secure(self, tls: ServerTls | None, key: str, pool: Pool) -> None:
        """Speak TLS, if there is *tls*; raises CertificateError."""
        if tls is not None:
            self._certificates = Certificates(tls, key, pool, self._metrics)

    async def serve(
        self,
        stack: AsyncExitStack,
        runner: web.ServerRunner | web.AppRunner,
        listening: socket.socket,
        **options: Any,  # noqa: ANN401 -- of aiohttp's RequestHandler
    ) -> None:
        """Accept connections until *stack* is left."""
        await self.prepare(stack, runner, **options)
        await self.open(listening)

    async def open(self, listening: socket.socket) -> web.BaseSite:
        """Accept connections until the site is stopped; ``prepare`` came before."""
        assert self._open is not None  # noqa: S101 -- it is prepared
        return await self._open(listening)

    async def prepare(
        self,
        stack: AsyncExitStack,
        runner: web.ServerRunner | web.AppRunner,
        **options: Any,  # noqa: ANN401 -- of aiohttp's RequestHandler
    ) -> None:
        """Be able to accept connections until *stack* is left."""
        certificates = self._certificates
        tls = None if certificates is None else lambda: certificates.context
        gate = Gate(self.name, self._limits, self._metrics, tls)
        await runner.setup()
        stack.push_async_callback(gate.emptied, FLUSH_SECONDS)  # after the clean-up, below
        stack.push_async_callback(runner.cleanup)
        stack.callback(gate.close)
        stack.push_async_callback(cancel, started(gate.watch()))
        if certificates is not None:
            stack.push_async_callback(cancel, started(certificates.watch()))
        self._open = lambda listening: gate.open(runner, listening, **options)


def allow_open_files(connections: int) -> None:
    """Raise the soft limit on open files, which is often 1024, to what clients may make us need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + _MORE_FILES  # the connection of each, and what it reads
    highest = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < highest:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))


def started(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Begin work that goes on for ever; that it ended all the same is worth a line."""
    task = asyncio.create_task(work)
    task.add_done_callback(_report)
    return task


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled():
        _log.error("background work ended", work=str(task.get_coro()), exc_info=task.exception())


async def cancel(task: "asyncio.Task[None]") -> None:
    """End work that was started."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
