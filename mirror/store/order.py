"""In which order objects go: entries of queues, one queue for each upstream and zone.

The key of an entry says when the object was used last, as of when it got its place. What has
been used since is given its true place when it comes up (lazily: a use costs no write here).
"""

import heapq
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

import msgspec

from mirror.store.database import Database
from mirror.store.rows import CountRow, ObjectRow

_UNLINKED, _LINKED = "0", "1"
_RANKS: Final = {"index": 0, "manifest": 1, "blob": 2, "document": 2}
"""In one second, manifests go before what they link."""
_PLACES_PER_SECOND: Final = 10_000
_SECONDS_REMEMBERED: Final = 10_000
_LAST_SECOND: Final = 9_999_999_999


@dataclass(frozen=True, slots=True, order=True)
class Head:
    """The first entry of a queue, in the order in which objects go."""

    zone: str
    digits: str
    prefix: str
    digest: str = field(compare=False)

    @property
    def is_unlinked(self) -> bool:
        """Whether it is of the zone of what nothing links."""
        return self.zone == _UNLINKED

    @property
    def key(self) -> str:
        """The key of the entry."""
        return f"{self.prefix}-{self.digits}"


class Order:
    """The places of objects; what nothing links has a zone of its own and goes first."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._numbers: dict[str, int] = {}

    def heads(self, upstreams: Collection[str]) -> list[Head]:
        """Return the first entries of all queues of some upstreams, as a heap."""
        found = [
            self.head(_queue_name(zone, name))
            for name in upstreams
            for zone in (_UNLINKED, _LINKED)
        ]
        heads = [head for head in found if head is not None]
        heapq.heapify(heads)
        return heads

    def head(self, prefix: str) -> Head | None:
        """Return the first entry of a queue."""
        entry = self._database.first(prefix)
        if entry is None:
            return None
        key, value = entry
        return Head(prefix[1], key[-15:], prefix, value.decode(errors="replace"))

    def rank(self, digest: str, row: ObjectRow) -> tuple[str, str]:
        """Return where an object belongs: its zone, and the digits of time and kind."""
        is_unlinked = row.kind == "blob" and not self.links_of(digest)
        return (
            _UNLINKED if is_unlinked else _LINKED,
            f"{_second(row.used_at):010d}{_RANKS[row.kind]}",
        )

    def links_of(self, digest: str) -> int:
        """Return how many stored manifests link an object."""
        counted = self._database.row(count_key(digest), CountRow)
        return counted.count if counted else 0

    def place(self, digest: str, row: ObjectRow, *, kept_at: float | None = None) -> ObjectRow:
        """Give an object the place where it belongs, and return its row as it is now.

        One that is kept goes behind all that has been used so far.
        """
        if row.place:
            self._database.delete([row.place])
        zone, digits = self.rank(digest, row)
        if kept_at is not None:
            digits = f"{_second(kept_at) + 1:010d}{_RANKS[row.kind]}"
        place = self._take_place(_queue_name(zone, row.upstream), digits, digest)
        placed = msgspec.structs.replace(row, place=place)
        self._database.put(object_key(digest), placed)
        return placed

    def _take_place(self, prefix: str, digits: str, digest: str) -> str:
        second, rank = int(digits[:10]), digits[10]
        if len(self._numbers) > _SECONDS_REMEMBERED:
            self._numbers.clear()
        while True:
            start = f"{prefix}-{second:010d}{rank}"
            for number in range(self._numbers.get(start, 0), _PLACES_PER_SECOND):
                place = f"{start}{number:04d}"
                if self._database.put_place(place, digest):
                    self._numbers[start] = number + 1
                    return place
            self._numbers[start] = _PLACES_PER_SECOND
            second += 1  # this one is crowded


def _queue_name(zone: str, upstream: str) -> str:
    # diskcache's queues are keys `<prefix>-<15 digits>` in order; no upstream has a bar in
    # its name, so none can be taken for the number of another.
    return f"q{zone}:{upstream}|"


def _second(used_at: float) -> int:
    return max(0, min(int(used_at), _LAST_SECOND))


def object_key(digest: str) -> str:
    """Return the key of an object's row."""
    return f"o:{digest}"


def count_key(digest: str) -> str:
    """Return the key of the row that counts who links an object."""
    return f"c:{digest}"
