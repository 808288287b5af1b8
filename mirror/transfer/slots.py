"""How many downloads may run at once."""

import asyncio


class Slots:
    """A bound on downloads; who takes a slot frees it, in every case."""

    def __init__(self, count: int) -> None:
        self._semaphore = asyncio.Semaphore(count)
        self._waiting = 0

    @property
    def contended(self) -> bool:
        """Whether somebody waits for a slot."""
        return self._waiting > 0

    async def take(self) -> None:
        """Wait for a slot."""
        self._waiting += 1
        try:
            await self._semaphore.acquire()
        finally:
            self._waiting -= 1

    def free(self) -> None:
        """Give a slot back."""
        self._semaphore.release()
