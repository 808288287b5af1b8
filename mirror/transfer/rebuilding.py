"""The hash of what an earlier download has left, while upstream is asked for the rest."""

import asyncio

from mirror.runtime.pools import Pool
from mirror.store.partial import Partial


class Rebuilding:
    """Hashes what is there, in turns: other downloads need the threads, too."""

    def __init__(self, pool: Pool, partial: Partial) -> None:
        self._task = asyncio.create_task(_rebuilt(pool, partial))

    async def end(self) -> None:
        """Wait until all of it is hashed.

        Raises:
            OSError: it cannot be read.
        """
        await self._task

    def stop(self) -> None:
        """Leave it at that; of an error nobody has to hear any more."""
        self._task.cancel()
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())


async def _rebuilt(pool: Pool, partial: Partial) -> None:
    while not await pool.run(partial.rebuild):
        pass
