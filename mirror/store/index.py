"""The wall around diskcache: facts by key, totals, and the order of last use.

All calls are synchronous and belong in the index threads. The index is a cache of ``blobs/``
and ``refs/``: losing it costs time, never facts. diskcache's own eviction counts rows and
not bytes, so it is off; its pickling loads code (CVE-2025-69872), so it cannot happen.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, TypeVar

import diskcache
import msgspec
from diskcache.core import MODE_PICKLE

from mirror.store.rows import DocumentRow, LinkRow, ObjectRow, TagRow, Totals

Row = TypeVar("Row", ObjectRow, LinkRow, TagRow, DocumentRow, Totals)

_ROWS_PER_TRANSACTION: Final = 500
_QUEUE: Final = "lru"
_TOTALS: Final = "totals"
_WHOLE: Final = "whole"
_INLINE_MAX_BYTES: Final = 2**30
_PLACES_PER_SECOND: Final = 100_000
_PLACES_TRIED: Final = 8


class PickleForbiddenError(Exception):
    """A row of the index was not written by this program."""


class NoPickleDisk(diskcache.Disk):
    """Keys are strings and values are bytes; nothing else goes in or comes out."""

    def put(self, key: Any) -> Any:  # noqa: ANN401 -- diskcache's signature
        """Refuse keys that diskcache would pickle."""
        if not isinstance(key, str):
            raise PickleForbiddenError(f"not a string: {type(key)}")
        return super().put(key)

    def get(self, key: Any, raw: bool) -> Any:  # noqa: ANN401, FBT001 -- diskcache's signature
        """Refuse keys that were pickled."""
        if not raw:
            raise PickleForbiddenError("a key was pickled")
        return super().get(key, raw)

    def store(self, value: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 -- as above
        """Refuse values that diskcache would pickle."""
        if not isinstance(value, bytes):
            raise PickleForbiddenError(f"not bytes: {type(value)}")
        return super().store(value, *args, **kwargs)

    def fetch(self, mode: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 -- as above
        """Refuse values that were pickled."""
        if mode == MODE_PICKLE:
            raise PickleForbiddenError("a value was pickled")
        return super().fetch(mode, *args, **kwargs)


class Index:
    """Rows by key, and objects in the order of their last use."""

    def __init__(self, directory: Path) -> None:
        # Any: the stubs do not know the two-element default of peek and pull
        self._cache: Any = diskcache.Cache(
            str(directory),
            disk=NoPickleDisk,
            disk_min_file_size=_INLINE_MAX_BYTES,
            eviction_policy="none",
            cull_limit=0,
            size_limit=2**62,
        )
        directory.chmod(0o700)
        self._totals = self.get(_TOTALS, Totals) or Totals()

    def get(self, key: str, kind: type[Row]) -> Row | None:
        """Return a row; one that does not decode is as good as none."""
        data = self._cache.get(key, retry=True)
        try:
            return None if data is None else msgspec.msgpack.decode(data, type=kind)
        except msgspec.MsgspecError:
            return None

    def put(self, key: str, row: Row) -> None:
        """Write a row."""
        self._cache.set(key, msgspec.msgpack.encode(row), retry=True)

    def put_all(self, rows: Sequence[tuple[str, LinkRow]]) -> None:
        """Write many rows, a few hundred in a transaction."""
        for start in range(0, len(rows), _ROWS_PER_TRANSACTION):
            with self.transaction():
                for key, row in rows[start : start + _ROWS_PER_TRANSACTION]:
                    self.put(key, row)

    def drop(self, key: str) -> None:
        """Delete a row, if it is there."""
        self._cache.delete(key, retry=True)

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing; never await inside (FIELD 0.8)."""
        transaction: AbstractContextManager[None] = self._cache.transact(retry=True)
        return transaction

    @property
    def totals(self) -> Totals:
        """What stands in ``blobs/``, as of the last change; safe to read in any thread."""
        return self._totals

    def keys(self) -> Iterator[str]:
        """Yield all keys."""
        for key in self._cache.iterkeys():
            yield str(key)

    def is_whole(self) -> bool:
        """Return whether every fact of ``refs/`` and ``blobs/`` has been written here."""
        return self._cache.get(_WHOLE, retry=True) is not None

    def mark_whole(self) -> None:
        """Note that every fact is here."""
        self._cache.set(_WHOLE, b"1", retry=True)

    def close(self) -> None:
        """Close the database."""
        self._cache.close()

    # --- objects ---------------------------------------------------------------------------

    def add_object(self, digest: str, seen: ObjectRow) -> ObjectRow:
        """Write that an object stands in ``blobs/``; scopes and repositories add up.

        Returns the row as it is now. Totals and queue follow in the same transaction.
        """
        with self.transaction():
            before = self.get(object_key(digest), ObjectRow)
            row = seen if before is None else before.merged(seen)
            self.put(object_key(digest), row)
            if before is None:
                self._queue(digest, row.used_at)
                self._put_totals(self._totals.plus(row, +1))
        return row

    def drop_object(self, digest: str) -> ObjectRow | None:
        """Delete an object's row and return it; its place in the queue goes when it comes up."""
        with self.transaction():
            row = self.get(object_key(digest), ObjectRow)
            if row is not None:
                self.drop(object_key(digest))
                self._put_totals(self._totals.plus(row, -1))
        return row

    def touch(self, digests: Sequence[str], used_at: float) -> None:
        """Note the last use of some objects; the queue is put in order lazily."""
        for start in range(0, len(digests), _ROWS_PER_TRANSACTION):
            with self.transaction():
                for digest in digests[start : start + _ROWS_PER_TRANSACTION]:
                    row = self.get(object_key(digest), ObjectRow)
                    if row is not None and row.used_at < used_at:
                        changed = msgspec.structs.replace(row, used_at=used_at)
                        self.put(object_key(digest), changed)

    def evict(
        self, need_bytes: int, keep: Callable[[str], bool], remove: Callable[[str, ObjectRow], None]
    ) -> list[tuple[str, ObjectRow]]:
        """Remove the objects that were used longest ago until *need_bytes* are free.

        One transaction of a few hundred rows: call again while something came out and more
        is needed. *remove* deletes the files; it runs before the row goes, so that a crash
        in between leaves a row without a file, which reads as a miss, and never a file that
        nobody counts.

        Args:
            need_bytes: How much to free, in bytes.
            keep: Tells which digests are in use and stay.
            remove: Deletes the files of an object.
        """
        victims: list[tuple[str, ObjectRow]] = []
        kept: list[tuple[str, float]] = []
        freed_bytes = 0
        with self.transaction():
            for _ in range(_ROWS_PER_TRANSACTION):
                if freed_bytes >= need_bytes:
                    break
                digest, row = self._oldest()
                if digest is None or row is None:
                    break
                if keep(digest):
                    kept.append((digest, row.used_at))
                    continue
                remove(digest, row)
                self.drop_object(digest)
                freed_bytes += row.size_bytes
                victims.append((digest, row))
            for digest, used_at in kept:
                self._queue(digest, used_at)
        return victims

    def oldest_use(self) -> float | None:
        """Return about when the object that would be evicted next was used last."""
        key, _ = self._cache.peek(prefix=_QUEUE, retry=True, default=(None, None))
        return None if key is None else float(_queued_at(key))

    def _put_totals(self, totals: Totals) -> None:
        self.put(_TOTALS, totals)
        self._totals = totals

    def _oldest(self) -> tuple[str | None, ObjectRow | None]:
        """Take the head of the queue; what was used since goes back to its place.

        Entries of objects that are gone are dropped on the way.
        """
        while True:
            key, value = self._cache.pull(prefix=_QUEUE, retry=True, default=(None, None))
            if key is None:
                return None, None
            digest = value.decode()
            row = self.get(object_key(digest), ObjectRow)
            if row is None:
                continue
            if int(row.used_at) <= _queued_at(key):
                return digest, row
            self._queue(digest, row.used_at)

    def _queue(self, digest: str, used_at: float) -> None:
        # diskcache's queue is keys `lru-<15 digits>` in order: ours are the time and a number.
        second = max(0, min(int(used_at), 9_999_999_999))
        for _ in range(_PLACES_TRIED):
            number = random.randrange(_PLACES_PER_SECOND)  # noqa: S311 -- a place, not a secret
            key = f"{_QUEUE}-{second:010d}{number:05d}"
            if self._cache.add(key, digest.encode(), retry=True):
                return
        self._queue(digest, second + 1)  # this second is crowded


def _queued_at(key: str) -> int:
    return int(key.removeprefix(f"{_QUEUE}-")[:10])


def object_key(digest: str) -> str:
    """Return the key of an object's row."""
    return f"o:{digest}"
