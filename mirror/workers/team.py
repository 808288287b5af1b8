"""The workers of a mirror, seen from the main process: started, told, replaced, and stopped.

Each has a listening socket of its own on the shared port (SO_REUSEPORT), between which the
kernel spreads connections. The main process keeps these sockets and, while a worker is not
there, answers in its place: no connection waits for one that is being started, and none is
lost but those that a dead worker had.
"""

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from aiohttp import web

from mirror.domain.backoff import delay_seconds
from mirror.domain.names import Repository, Tag
from mirror.observe.logs import get_logger
from mirror.workers import messages
from mirror.workers.desk import Desk, Floor
from mirror.workers.spawning import Spawn, Spawned
from mirror.workers.waiting import first

_START_MAX_SECONDS: Final = 60.0
_END_MAX_SECONDS: Final = 5.0
_FORGET_MAX_SECONDS: Final = 1.0
_STEADY_SECONDS: Final = 60.0
"""A worker that has lived so long does not count as one that cannot live."""
_PAUSE_SECONDS: Final = 1.0
_PAUSE_MAX_SECONDS: Final = 30.0
_LOOK_EVERY_SECONDS: Final = 5.0
_SILENT_LOOKS: Final = 6
"""A worker tells something several times a second: one that is silent for so long hangs."""
_log = get_logger("workers")


class _Seat:
    """The place of one worker: what stays when it is replaced."""

    def __init__(self, number: int, listening: socket.socket) -> None:
        self.number = number
        self.listening = listening
        self.ready = asyncio.Event()
        self.desk: Desk | None = None
        self.spawned: Spawned | None = None
        self.stand_in: web.BaseSite | None = None
        self.task: asyncio.Task[None] | None = None


class Team:
    """Keeps as many workers alive as there are sockets."""

    def __init__(
        self,
        *,
        sockets: Sequence[socket.socket],
        spawn: Spawn,
        floor: Floor,
        stand_in: Callable[[socket.socket], Awaitable[web.BaseSite]],
        configure: messages.Configure,
        grace_seconds: float,
    ) -> None:
        """Set up; nothing runs yet.

        Args:
            sockets: The listening ones, ours from now on.
            spawn: How a worker is started.
            floor: What answers their questions.
            stand_in: Answers clients at a socket while a worker is not there.
            configure: What they have to know.
            grace_seconds: How long they may go on with running answers at the end.
        """
        self._spawn = spawn
        self._floor = floor
        self._open = stand_in
        self._configure = configure
        self._grace_seconds = grace_seconds
        self._stopping = asyncio.Event()
        self._generation = 0
        self._must_forget = False
        self._forgets = 0
        self._seats = [_Seat(number, each) for number, each in enumerate(sockets)]

    async def start(self) -> None:
        """Serve: by ourselves first, by the workers as soon as they are there."""
        for seat in self._seats:
            await self._stand_in(seat)
            seat.task = asyncio.create_task(self._keep(seat), name=f"worker {seat.number}")

    async def all_ready(self) -> None:
        """Wait until all workers serve."""
        for seat in self._seats:
            await seat.ready.wait()

    # --- what workers must know --------------------------------------------------------------

    def configure(self, configure: messages.Configure) -> None:
        """Have all workers go over to another configuration."""
        self._generation += 1
        self._configure = configure
        self._tell(configure)

    def changed(self, repository: Repository | None = None, tag: Tag | None = None) -> None:
        """Have a tag's manifest forgotten, or everything that workers keep in memory."""
        self._generation += 1
        if repository is not None and tag is not None:
            self._tell(messages.Forget(0, repository, tag.name))
        elif not self._must_forget:  # a thousand evictions are told once
            self._must_forget = True
            asyncio.get_running_loop().call_soon(self._forget)

    async def settled(self) -> None:
        """Wait until no worker hands out what has been removed before this call."""
        self._generation += 1
        self._forgets += 1
        desks = [seat.desk for seat in self._seats if seat.desk is not None and seat.ready.is_set()]
        forgetting = [asyncio.create_task(desk.forget(self._forgets)) for desk in desks]
        if forgetting:
            _, late = await asyncio.wait(forgetting, timeout=_FORGET_MAX_SECONDS)
            for task in late:
                task.cancel()
            if late:
                _log.warning("workers do not answer; they forget within seconds", count=len(late))

    def _forget(self) -> None:
        self._must_forget = False
        self._tell(messages.Forget())

    def _tell(self, message: messages.ToWorker) -> None:
        for seat in self._seats:
            if seat.desk is not None:
                seat.desk.tell(message)

    # --- one worker after the other in its place ---------------------------------------------

    async def _keep(self, seat: _Seat) -> None:
        loop, attempt = asyncio.get_running_loop(), 0
        while not self._stopping.is_set():
            started, code = loop.time(), None
            try:
                code = await self._life(seat)
            except OSError as error:
                _log.error("a worker cannot be started", worker=seat.number, reason=str(error))
            if self._stopping.is_set():
                return
            attempt = 1 if loop.time() - started > _STEADY_SECONDS else attempt + 1
            pause_seconds = 0.0
            if attempt > 1:
                pause_seconds = delay_seconds(
                    attempt - 1, base=_PAUSE_SECONDS, cap=_PAUSE_MAX_SECONDS, jitter=random.random
                )
            self._floor.metrics.worker_restarts.inc()
            _log.error(
                "a worker ended; its connections are lost, and it is started again",
                worker=seat.number,
                exit_code=code,
                pause_seconds=round(pause_seconds, 1),
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_seconds):
                    await self._stopping.wait()

    async def _life(self, seat: _Seat) -> int | None:
        """Start a worker and wait for its end; returns its exit code if it began at all.

        Raises:
            OSError: it cannot be started, or we cannot answer in its place.
        """
        await self._stand_in(seat)  # where that failed at the end of the last one
        ours, theirs = socket.socketpair()
        seat.desk = Desk(ours, self._floor, lambda: self._generation)
        seat.desk.tell(self._configure)
        try:
            with theirs:
                seat.spawned = await self._spawn(theirs, seat.listening)
            await self._serving(seat, seat.desk)
        finally:
            code = await self._after(seat, seat.desk)
        return code

    async def _after(self, seat: _Seat, desk: Desk) -> int | None:
        if seat.ready.is_set():
            seat.ready.clear()
            self._floor.metrics.workers.dec()
        try:
            if not self._stopping.is_set():
                await self._stand_in(seat)
        finally:
            await desk.close()
            code = await self._ended(seat)
        return code

    async def _serving(self, seat: _Seat, desk: Desk) -> None:
        """Wait until the worker hangs up, or has to be given up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_START_MAX_SECONDS):
                await first(desk.ready, desk.ended, self._stopping)
        if not desk.ready.is_set():
            if seat.spawned is not None:
                seat.spawned.kill()  # it has no clients yet
            return
        await self._stand_down(seat)
        seat.ready.set()
        self._floor.metrics.workers.inc()
        silent_looks, heard = 0, desk.heard
        while silent_looks < _SILENT_LOOKS:
            try:
                async with asyncio.timeout(_LOOK_EVERY_SECONDS):
                    await desk.ended.wait()
                    return
            except TimeoutError:
                silent_looks = silent_looks + 1 if heard == desk.heard else 0
                heard = desk.heard
        _log.error("a worker hangs; it is killed", worker=seat.number)

    async def _ended(self, seat: _Seat) -> int | None:
        spawned, seat.spawned = seat.spawned, None
        if spawned is None:
            return None
        try:
            async with asyncio.timeout(_END_MAX_SECONDS):
                return await spawned.wait()
        except TimeoutError:
            spawned.kill()
            return await spawned.wait()

    async def _stand_in(self, seat: _Seat) -> None:
        """Answer clients ourselves, by a copy of the socket: it is closed at the end."""
        if seat.stand_in is None:
            seat.stand_in = await self._open(seat.listening.dup())

    async def _stand_down(self, seat: _Seat) -> None:
        site, seat.stand_in = seat.stand_in, None
        if site is not None:
            await site.stop()

    # --- the end ------------------------------------------------------------------------------

    async def close(self) -> None:
        """Take no more clients, let running answers end, and stop all workers."""
        self._stopping.set()
        for seat in self._seats:
            await self._stand_down(seat)
            seat.listening.close()
        self._tell(messages.Drain())
        tasks = [seat.task for seat in self._seats if seat.task is not None]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=self._grace_seconds + _END_MAX_SECONDS)
        for seat in self._seats:
            if seat.task in late and seat.spawned is not None:
                _log.warning("a worker does not end; it is killed", worker=seat.number)
                seat.spawned.kill()
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
