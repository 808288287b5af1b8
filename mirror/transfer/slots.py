"""How many downloads may run at once, and which of them, when there are more."""

import asyncio
from typing import Protocol


class Holder(Protocol):
    """A download that needs a slot; one that nobody reads gives way to one that is read."""

    readers: int
    has_slot: bool


class Slots:
    """A bound on downloads; who takes a slot frees it, in every case.

    All decisions are made in ``assign``, without awaiting. A holder that has to give way
    sees ``has_slot`` fall and takes another slot before it goes on.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._holders: dict[Holder, None] = {}
        self._waiting: dict[Holder, asyncio.Future[None]] = {}

    @property
    def is_full(self) -> bool:
        """Whether the next download has to wait."""
        return len(self._holders) >= self._count

    async def take(self, holder: Holder) -> None:
        """Wait for a slot, unless *holder* has one."""
        if holder.has_slot:
            return
        given = self._waiting[holder] = asyncio.get_running_loop().create_future()
        try:
            self.assign()
            await given
        finally:
            self._waiting.pop(holder, None)

    def free(self, holder: Holder) -> None:
        """Give a slot back, if *holder* has one."""
        if holder.has_slot:
            holder.has_slot = False
            del self._holders[holder]
            self.assign()

    def assign(self) -> None:
        """Give slots to those who wait: first to those with readers, then in order of coming.

        To be called whenever the number of a download's readers has changed.
        """
        for holder in sorted(self._waiting, key=lambda waiting: not waiting.readers):
            if self.is_full and not (holder.readers and self._make_way()):
                return
            self._holders[holder] = None
            holder.has_slot = True
            self._waiting.pop(holder).set_result(None)

    def _make_way(self) -> bool:
        for holder in self._holders:
            if not holder.readers:
                holder.has_slot = False
                del self._holders[holder]
                return True
        return False
