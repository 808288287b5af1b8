"""Small work of many callers that one step in a thread does together."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from mirror.runtime.pools import Pool

A = TypeVar("A")
R = TypeVar("R")


class Together(Generic[A, R]):
    """Does what has come while the last step ran in one step: one commit, one sync for all.

    Who is alone waits for nobody; the busier it is, the more of them share a step.
    """

    def __init__(self, pool: Pool, work: Callable[[list[A]], list[R]], at_most: int) -> None:
        """Set up.

        Args:
            pool: Where it is done.
            work: Does all or nothing; returns the results in order.
            at_most: How many are done in one step.
        """
        self._pool = pool
        self._work = work
        self._at_most = at_most
        self._waiting: list[tuple[A, asyncio.Future[R]]] = []
        self._is_running = False

    def start(self, item: A) -> "asyncio.Future[R]":
        """Have *item* done, and return what to wait for."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._next()
        return future

    def _next(self) -> None:
        if self._is_running or not self._waiting:
            return
        batch, self._waiting = self._waiting[: self._at_most], self._waiting[self._at_most :]
        self._is_running = True
        step = self._pool.start(self._done, [item for item, _ in batch])
        step.add_done_callback(lambda done: self._ended(batch, done))

    def _done(self, items: list[A]) -> list[R | BaseException]:
        """Do all of them or, should that fail, each by itself; in a thread."""
        if len(items) > 1:
            try:
                return [*self._work(items)]
            except Exception:  # noqa: BLE001, S110 -- whose fault it is, each one learns below
                pass
        return [self._alone(item) for item in items]

    def _alone(self, item: A) -> R | BaseException:
        try:
            return self._work([item])[0]
        except Exception as error:  # noqa: BLE001 -- it belongs to whoever waits
            return error

    def _ended(
        self,
        batch: list[tuple[A, "asyncio.Future[R]"]],
        step: "asyncio.Future[list[R | BaseException]]",
    ) -> None:
        self._is_running = False
        for number, (_, future) in enumerate(batch):
            if future.done():
                continue
            if step.cancelled():
                future.cancel()
                continue
            result = step.result()[number]
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
        self._next()
