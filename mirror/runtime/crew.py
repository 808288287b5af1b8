"""Threads that work for an event loop.

Not ``ThreadPoolExecutor``: its futures are made for threads that wait for each other, with a lock
and a condition each, and every result wakes the loop by itself. Here a result goes straight to
whoever awaits it, and all that end at about the same time wake the loop once. For small work this
is most of the cost. Nor are these threads waited for when the process ends: one ``getaddrinfo``
that hangs would hold that up for as long as it hangs.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any


@dataclass(slots=True, eq=False)
class _Order:
    """Something to do, and who waits for it."""

    work: Callable[[], Any]
    future: "asyncio.Future[Any]"
    result: Any = None
    error: BaseException | None = None

    def carry_out(self) -> None:
        """Do it, unless nobody waits any more; in a thread."""
        if self.future.cancelled():
            return
        try:
            self.result = self.work()
        except BaseException as error:  # noqa: BLE001 -- it belongs to whoever waits
            self.error = error

    def deliver(self) -> None:
        """Tell who waits; in the loop."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        elif isinstance(self.error, StopIteration):
            self.future.set_exception(RuntimeError("work ended by StopIteration"))
        else:
            self.future.set_exception(self.error)


class Crew:
    """A few threads, begun when they are needed; used from one event loop at a time."""

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._limit = threads
        self._threads: list[threading.Thread] = []
        self._orders: SimpleQueue[_Order | None] = SimpleQueue()
        self._done: deque[_Order] = deque()
        self._told: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._busy = 0

    def start(self, work: Callable[[], Any]) -> "asyncio.Future[Any]":
        """Begin *work* as soon as a thread is free, and return what to wait for."""
        if self._is_closed:
            raise RuntimeError(f"the threads {self._name!r} have ended")
        order = _Order(work, asyncio.get_running_loop().create_future())
        self._busy += 1
        self._orders.put(order)
        if len(self._threads) < min(self._busy, self._limit):
            self._begin()
        return order.future

    def close(self, *, wait: bool) -> None:
        """Drop what has not begun and, with *wait*, wait for what has."""
        self._is_closed = True
        with suppress(Empty):
            while order := self._orders.get_nowait():
                _in_loop(order.future.get_loop(), order.future.cancel)
        for _ in self._threads:
            self._orders.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _begin(self) -> None:
        name = f"{self._name}_{len(self._threads)}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        while order := self._orders.get():
            order.carry_out()
            loop = order.future.get_loop()
            self._done.append(order)
            del order  # what it holds must not live until the next one comes
            # Whoever was told and has not looked yet will find this one, too.
            if self._told is not loop:
                self._told = loop
                _in_loop(loop, self._deliver)

    def _deliver(self) -> None:
        self._told = None
        while self._done:
            self._busy -= 1
            self._done.popleft().deliver()


def _in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # it is closed: nobody waits there any more
        loop.call_soon_threadsafe(call)
