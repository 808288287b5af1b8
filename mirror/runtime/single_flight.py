"""Many ask the same at once: one works, all get the answer."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Joins callers that ask for one key while the first one's work goes on.

    The work is a task of its own: a caller that is cancelled or runs out of time leaves
    alone, and the others still get the answer.
    """

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[V]] = {}

    async def do(self, key: K, work: Callable[[], Awaitable[V]]) -> V:
        """Return what *work* returns, or what it returns for the caller who came first.

        There is no ``await`` between looking and starting, so two callers cannot both
        start.
        """
        return await asyncio.shield(self.start(key, work))

    def start(self, key: K, work: Callable[[], Awaitable[V]]) -> "asyncio.Task[V]":
        """Return the task for *key*, started now unless it is running."""
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.create_task(_run(work), name=f"single flight {key}")
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._finish(key, done))
        return task

    def is_running(self, key: K) -> bool:
        """Return whether somebody's question for *key* is under way."""
        return key in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    def _finish(self, key: K, task: "asyncio.Task[V]") -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # all who waited may have left: nobody else retrieves it

    async def close(self) -> None:
        """Cancel what is running and wait for its end."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run(work: Callable[[], Awaitable[V]]) -> V:
    return await work()
