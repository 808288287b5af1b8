"""The wall around diskcache: rows by key, and small queues of them.

All calls are synchronous and belong in the index threads. diskcache's own eviction counts
rows and not bytes, so it is off. Its ``retry`` is off, too: it would try a full or read-only
disk again without end.
"""

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import diskcache
import msgspec

from mirror.observe.logs import get_logger
from mirror.runtime.unreadable import UNREADABLE
from mirror.store.disk import NoPickleDisk, PickleForbiddenError
from mirror.store.rows import (
    LinkRow,
    TagRow,
    Totals,
)

Row = TypeVar("Row", bound=msgspec.Struct)
T = TypeVar("T")

ROWS_PER_TRANSACTION: Final = 500
COMPLETE: Final = "complete-2"
"""The number is that of the format: an index of another one is built anew."""
DAMAGED: Final = "DAMAGED"
_INLINE_MAX_BYTES: Final = 2**30
_FULL_SYNC: Final = 2
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FOREIGN: Final = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA})
"""What a database of somebody else's says when it is opened."""

_log = get_logger("store")


class IndexBrokenError(OSError):
    """The database cannot be read or written.

    ``is_damage`` tells that it must be built anew, ``is_full`` that the disk has no room.
    """

    def __init__(self, reason: str, *, is_damage: bool = False, is_full: bool = False) -> None:
        super().__init__(None, f"the index: {reason}")
        self.is_damage = is_damage
        self.is_full = is_full

    def __str__(self) -> str:
        return str(self.strerror)


class Database:
    """Rows by key; one that cannot be read is as good as none."""

    def __init__(self, directory: Path) -> None:
        """Open the index in *directory*, or make one; raises IndexBrokenError."""
        self._damaged = directory / DAMAGED
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
                sqlite_synchronous=_FULL_SYNC,  # what is committed outlasts a power failure
            )
            directory.chmod(0o700)

    @property
    def is_complete(self) -> bool:
        """Whether it was built to its end and has not been found damaged since."""
        return not self._damaged.exists() and self.get(COMPLETE, Totals) is not None

    def complete(self) -> None:
        """Note that all facts are in: what is not in the index now does not exist."""
        self.put(COMPLETE, Totals())

    def get(self, key: str, kind: type[Row]) -> Row | None:
        """Return a row; one that cannot be read is as good as none."""
        try:
            return self.read(key, kind)
        except IndexBrokenError:
            return None

    def read(self, key: str, kind: type[Row]) -> Row | None:
        """Return a row as ``get`` does, but raise IndexBrokenError if nobody can tell."""
        with self._watched():
            return self.row(key, kind)

    def put(self, key: str, row: Row) -> None:
        """Write a row."""
        with self._watched():
            self._cache.set(key, msgspec.msgpack.encode(row))

    def put_all(self, rows: Iterable[tuple[str, LinkRow | TagRow]]) -> None:
        """Write many rows, a few hundred in a transaction."""
        for batch in batches(rows):
            with self.transaction():
                for key, row in batch:
                    self._cache.set(key, msgspec.msgpack.encode(row))

    def all_keys(self) -> Iterator[str]:
        """Yield all keys as they came in; to be advanced in one thread, a few at a time.

        diskcache's ``iterkeys`` has an order, but reads all it has passed again and again.
        """
        with self._watched():
            for key in self._cache:
                yield str(key)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete rows, a few hundred in a transaction."""
        for batch in batches(keys):
            with self.transaction():
                for key in batch:
                    self._cache.delete(key)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; never await inside."""
        if self._is_in_transaction:
            yield
            return
        self._is_in_transaction = True
        try:
            with self._watched(), self._cache.transact():
                yield
                self._before_commit()
        except BaseException:
            self._start_over()
            raise
        finally:
            self._is_in_transaction = False

    def close(self) -> None:
        """Close the database for the calling thread: each has a connection of its own."""
        self._cache.close()

    # --- queues ----------------------------------------------------------------------------

    def push(self, queue: str, row: Row) -> str:
        """Put a row at the end of a queue and return its key, by which it can be deleted."""
        with self._watched():
            return str(self._cache.push(msgspec.msgpack.encode(row), prefix=queue))

    def first(self, queue: str) -> tuple[str, bytes] | None:
        """Return the first entry of a queue; what nobody could have written is dropped."""
        while True:
            try:
                with self._watched():
                    key, value = self._cache.peek(prefix=queue, default=(None, None))
            except PickleForbiddenError:
                with suppress(PickleForbiddenError):  # it is out of the queue all the same
                    self._cache.pull(prefix=queue, default=(None, None))
                continue
            return None if key is None else (str(key), value)

    def put_place(self, place: str, digest: str) -> bool:
        """Write an entry of a queue under a key of its own, unless there is one."""
        with self._watched():
            return bool(self._cache.add(place, digest.encode()))

    # --- inside ----------------------------------------------------------------------------

    def _before_commit(self) -> None:
        """Write what is held besides the rows; the last thing in a transaction."""

    def _reload(self) -> None:
        """Read again what is held of the rows besides them."""

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
            self._reload()

    def row(self, key: str, kind: type[Row]) -> Row | None:
        """Return a row, within a transaction; one that is not ours is as good as none."""
        try:
            data = self._cache.get(key)
            return None if data is None else msgspec.msgpack.decode(data, type=kind)
        except (PickleForbiddenError, *UNREADABLE):
            return None


@contextmanager
def _translated(damage: Collection[int] = _DAMAGE) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        primary = -1 if code is None else code & 0xFF
        raise IndexBrokenError(
            str(error), is_damage=primary in damage, is_full=primary == sqlite3.SQLITE_FULL
        ) from error
    except diskcache.Timeout:
        raise IndexBrokenError("it is locked, or cannot be written") from None


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield the items in lists that one transaction takes."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == ROWS_PER_TRANSACTION:
            yield batch
            batch = []
    if batch:
        yield batch
