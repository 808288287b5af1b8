"""The wall around diskcache: facts by key, totals, and the order of last use.

All calls are synchronous and belong in the index threads. The index is a cache of ``blobs/``
and ``refs/``: losing it costs time, never facts. diskcache's own eviction counts rows and
not bytes, so it is off. Its ``retry`` is off, too: it would try a full or read-only disk
again without end.
"""

import random
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import diskcache
import msgspec

from mirror.observe.logs import get_logger
from mirror.store.disk import NoPickleDisk, PickleForbiddenError
from mirror.store.rows import DocumentRow, LinkRow, ObjectRow, TagRow, Totals

Row = TypeVar("Row", ObjectRow, LinkRow, TagRow, DocumentRow, Totals)
T = TypeVar("T")

ROWS_PER_TRANSACTION: Final = 500
_QUEUE: Final = "lru"
_TOTALS: Final = "totals"
_COMPLETE: Final = "complete"
_DAMAGED: Final = "DAMAGED"
_INLINE_MAX_BYTES: Final = 2**30
_PLACES_PER_SECOND: Final = 100_000
_PLACES_TRIED: Final = 8
_LAST_SECOND: Final = 9_999_999_999
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FOREIGN: Final = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA})
"""What a database of somebody else's says when it is opened."""

_log = get_logger("store")


class IndexBrokenError(OSError):
    """The database cannot be read or written; ``is_damage`` tells that it must be built anew."""

    def __init__(self, reason: str, *, is_damage: bool = False) -> None:
        super().__init__(None, f"the index: {reason}")
        self.is_damage = is_damage

    def __str__(self) -> str:
        return str(self.strerror)


class Index:
    """Rows by key, and objects in the order of their last use."""

    def __init__(self, directory: Path) -> None:
        """Open the index in *directory*, or make one; raises IndexBrokenError."""
        self._damaged = directory / _DAMAGED
        self._is_in_transaction = False
        with _translated(_DAMAGE | _FOREIGN):
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
            self._totals = self._row(_TOTALS, Totals) or Totals()

    @property
    def is_complete(self) -> bool:
        """Whether it was built to its end and has not been found damaged since."""
        return not self._damaged.exists() and self.get(_COMPLETE, Totals) is not None

    def complete(self) -> None:
        """Note that all facts are in: what is not in the index now does not exist."""
        self.put(_COMPLETE, Totals())

    def get(self, key: str, kind: type[Row]) -> Row | None:
        """Return a row; one that cannot be read is as good as none."""
        try:
            with self._watched():
                return self._row(key, kind)
        except IndexBrokenError:
            return None

    def put(self, key: str, row: Row) -> None:
        """Write a row."""
        with self._watched():
            self._cache.set(key, msgspec.msgpack.encode(row))

    def put_all(self, rows: Iterable[tuple[str, LinkRow | TagRow]]) -> None:
        """Write many rows, a few hundred in a transaction."""
        for batch in _batches(rows):
            with self.transaction():
                for key, row in batch:
                    self._cache.set(key, msgspec.msgpack.encode(row))

    def add_links(self, rows: Sequence[tuple[str, LinkRow]]) -> list[tuple[str, LinkRow]]:
        """Write the links that are not there yet, and return those."""
        new = []
        for batch in _batches(rows):
            with self.transaction():
                for key, row in batch:
                    if self._row(key, LinkRow) is None:
                        self.put(key, row)
                        new.append((key, row))
        return new

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; never await inside (FIELD 0.8)."""
        if self._is_in_transaction:
            yield
            return
        self._is_in_transaction = True
        try:
            with self._watched(), self._cache.transact():
                yield
        except BaseException:
            self._start_over()
            raise
        finally:
            self._is_in_transaction = False

    @property
    def totals(self) -> Totals:
        """What stands in ``blobs/``, as of the last change; safe to read in any thread."""
        return self._totals

    def close(self) -> None:
        """Close the database for the calling thread: each has a connection of its own."""
        self._cache.close()

    # --- objects ---------------------------------------------------------------------------

    def add_object(self, digest: str, seen: ObjectRow) -> tuple[ObjectRow, int]:
        """Write that an object stands in ``blobs/``; scopes and repositories add up.

        Returns the row as it is now, and by how many bytes the total grew. Totals and queue
        follow in the same transaction.
        """
        with self.transaction():
            before = self._row(object_key(digest), ObjectRow)
            row = seen if before is None else before.merged(seen)
            self.put(object_key(digest), row)
            if before is not None:
                return row, 0
            self._queue(digest, row.used_at)
            self._put_totals(self._totals.plus(row, +1))
        return row, row.size_bytes

    def add_objects(self, rows: Iterable[tuple[str, ObjectRow]]) -> None:
        """Write many objects, a few hundred in a transaction."""
        for batch in _batches(rows):
            with self.transaction():
                for digest, row in batch:
                    self.add_object(digest, row)

    def drop_object(
        self, digest: str, *, if_so: Callable[[], bool] = lambda: True
    ) -> ObjectRow | None:
        """Delete an object's row and return it; its place in the queue goes when it comes up.

        *if_so* is asked here, where no other change comes between.
        """
        with self.transaction():
            row = self._row(object_key(digest), ObjectRow)
            if row is None or not if_so():
                return None
            self._cache.delete(object_key(digest))
            self._put_totals(self._totals.plus(row, -1))
        return row

    def touch(self, uses: Sequence[tuple[str, float]]) -> None:
        """Note when some objects were used last; the queue is put in order lazily."""
        for batch in _batches(uses):
            with self.transaction():
                for digest, used_at in batch:
                    row = self._row(object_key(digest), ObjectRow)
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
            while freed_bytes < need_bytes and len(victims) < ROWS_PER_TRANSACTION:
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
        try:
            with self._watched():
                key, _ = self._cache.peek(prefix=_QUEUE, default=(None, None))
        except (IndexBrokenError, PickleForbiddenError):
            return None
        return None if key is None else float(_queued_at(key))

    # --- inside ----------------------------------------------------------------------------

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Turn the database's errors into ours; damage makes the next start build it anew."""
        try:
            with _translated():
                yield
        except IndexBrokenError as error:
            if error.is_damage and not self._damaged.exists():
                _log.error("the index is damaged; the next start builds it anew", reason=str(error))
                with suppress(OSError):
                    self._damaged.touch(mode=0o600)
            raise

    def _start_over(self) -> None:
        """Forget what a transaction that was rolled back had done to this connection."""
        self._cache.close()
        with suppress(IndexBrokenError), _translated():
            self._totals = self._row(_TOTALS, Totals) or Totals()

    def _row(self, key: str, kind: type[Row]) -> Row | None:
        try:
            data = self._cache.get(key)
            return None if data is None else msgspec.msgpack.decode(data, type=kind)
        except (PickleForbiddenError, msgspec.MsgspecError):
            return None

    def _put_totals(self, totals: Totals) -> None:
        self.put(_TOTALS, totals)
        self._totals = totals

    def _oldest(self) -> tuple[str | None, ObjectRow | None]:
        """Take the head of the queue; what was used since goes back to its place.

        Entries of objects that are gone, and those that nobody could have written, are
        dropped on the way.
        """
        while True:
            try:
                key, value = self._cache.pull(prefix=_QUEUE, default=(None, None))
            except PickleForbiddenError:
                continue
            if key is None:
                return None, None
            digest = value.decode(errors="replace")
            row = self._row(object_key(digest), ObjectRow)
            if row is None:
                continue
            if _second(row.used_at) <= _queued_at(key):
                return digest, row
            self._queue(digest, row.used_at)

    def _queue(self, digest: str, used_at: float) -> None:
        # diskcache's queue is keys `lru-<15 digits>` in order: ours are the time and a number.
        second = _second(used_at)
        for _ in range(_PLACES_TRIED):
            number = random.randrange(_PLACES_PER_SECOND)  # noqa: S311 -- a place, not a secret
            key = f"{_QUEUE}-{second:010d}{number:05d}"
            if self._cache.add(key, digest.encode()):
                return
        self._queue(digest, second + 1)  # this second is crowded


@contextmanager
def _translated(damage: Collection[int] = _DAMAGE) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        is_damage = code is not None and code & 0xFF in damage
        raise IndexBrokenError(str(error), is_damage=is_damage) from error
    except diskcache.Timeout:
        raise IndexBrokenError("it is locked, or cannot be written") from None


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == ROWS_PER_TRANSACTION:
            yield batch
            batch = []
    if batch:
        yield batch


def _second(used_at: float) -> int:
    return max(0, min(int(used_at), _LAST_SECOND))


def _queued_at(key: str) -> int:
    digits = key.removeprefix(f"{_QUEUE}-")[:10]
    return int(digits) if digits.isdecimal() else _LAST_SECOND


def object_key(digest: str) -> str:
    """Return the key of an object's row."""
    return f"o:{digest}"
