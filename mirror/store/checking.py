"""Reads every object again and compares files, rows and ``refs/`` with each other.

What is wrong can be repaired: it is removed so that it is fetched again, or its row is made
anew of what ``refs/`` and the manifests say. What somebody is reading is never touched.
"""

import hashlib
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from mirror.domain.errors import MirrorError
from mirror.domain.names import Digest
from mirror.observe.logs import get_logger
from mirror.runtime.pools import Pool
from mirror.runtime.steps import in_steps
from mirror.store.index import object_key
from mirror.store.locks import open_exclusive
from mirror.store.restoring import Restoring
from mirror.store.rows import ObjectRow
from mirror.store.store import Store

_STEP_BYTES: Final = 4 << 20
_PROGRESS_BYTES: Final = 64 << 20
_PROGRESS_OBJECTS: Final = 500
_log = get_logger("store")


class Fault(StrEnum):
    """What can be wrong."""

    CONTENT = "wrong_content"
    SIZE = "wrong_size"
    UNREADABLE = "unreadable_file"
    NO_ROW = "file_without_row"
    NO_FILE = "row_without_file"
    REF = "unreadable_ref"
    FOREIGN = "foreign_file"


class Finding(msgspec.Struct, frozen=True, tag_field="event", tag="finding"):
    """Something that is wrong, and what became of it."""

    kind: Fault
    name: str
    size_bytes: int
    detail: str
    repaired: bool = False


class Progress(msgspec.Struct, frozen=True, tag_field="event", tag="progress"):
    """How far it is."""

    checked_objects: int
    checked_bytes: int
    total_bytes: int


class Verdict(msgspec.Struct, frozen=True, tag_field="event", tag="done"):
    """The end: how much was read, and how much is wrong."""

    checked_objects: int
    checked_bytes: int
    wrong: int
    repaired: int
    freed_bytes: int
    seconds: float


Event = Finding | Progress | Verdict


class Check:
    """One run through a store."""

    def __init__(self, store: Store, *, repair: bool) -> None:
        self._store = store
        self._repair = repair
        self._layout = store.parts.layout
        self._index = store.parts.index
        self._pool = store.parts.pools.inspect
        self._restoring = Restoring(store)
        self._objects = self._bytes = 0
        self._shown = 0, 0
        self._wrong = self._repaired = self._freed_bytes = 0

    async def run(self) -> AsyncIterator[Event]:
        """Yield what is wrong as it is found, how far it is, and the verdict at the end."""
        started = self._store.parts.clock.monotonic()
        for part in (self._files(), self._rows(), self._refs()):
            async for event in part:
                self._note(event)
                yield event
        seconds = self._store.parts.clock.monotonic() - started
        yield Verdict(
            self._objects,
            self._bytes,
            self._wrong,
            self._repaired,
            self._freed_bytes,
            round(seconds, 3),
        )

    def _note(self, event: Event) -> None:
        if isinstance(event, Finding):
            self._wrong += 1
            self._repaired += event.repaired
            self._freed_bytes += event.size_bytes if event.repaired else 0
            _log.warning(
                "the cache is not as it should be",
                kind=event.kind,
                name=event.name,
                detail=event.detail,
                repaired=event.repaired,
            )

    # --- files -----------------------------------------------------------------------------

    async def _files(self) -> AsyncIterator[Event]:
        yield self._progress()
        async for path in in_steps(self._pool, self._paths()):
            digest = _digest_of_name(path)
            if digest is None or path != self._layout.blob(digest):
                yield await self._pool.run(self._foreign, path)
                continue
            async for event in self._file(digest, path):
                yield event
            if self._is_worth_a_line():
                yield self._progress()

    def _paths(self) -> Iterator[Path]:
        for directory, _, names in os.walk(self._layout.root / "blobs"):
            for name in names:
                yield Path(directory, name)

    async def _file(self, digest: Digest, path: Path) -> AsyncIterator[Event]:
        row = await self._pool.run(self._row, digest)
        reading = Reading(path, digest, self._pool)
        async for size_bytes in reading:
            self._bytes += size_bytes
            if self._is_worth_a_line():
                yield self._progress()
        self._objects += 1
        if reading.is_gone:
            return
        if reading.trouble:
            yield await self._bad(Fault.UNREADABLE, digest, reading, reading.trouble)
        elif row is not None and row.size_bytes != reading.size_bytes:
            detail = f"{reading.size_bytes} bytes instead of {row.size_bytes}"
            yield await self._bad(Fault.SIZE, digest, reading, detail)
        elif not reading.is_right:
            yield await self._bad(Fault.CONTENT, digest, reading, "it is not what its name says")
        elif row is None and not self._store.is_under_way(str(digest)):
            finding = await self._without_row(digest, path, reading.size_bytes)
            if finding is not None:
                yield finding

    async def _bad(self, fault: Fault, digest: Digest, reading: "Reading", detail: str) -> Finding:
        repaired = False
        if self._repair:
            repaired = await drop_wrong(self._store, digest, reading)
            detail += "; removed" if repaired else "; it is in use"
        return Finding(fault, str(digest), reading.size_bytes, detail, repaired)

    async def _without_row(self, digest: Digest, path: Path, size_bytes: int) -> Finding | None:
        # What was on its way when the file was met is in the index by now.
        write = self._store.parts.pools.index_write
        if await write.run(lambda: self._row(digest) is not None or not path.exists()):
            return None
        if not self._repair:
            return Finding(Fault.NO_ROW, str(digest), size_bytes, "the index has no row")
        if await self._restoring.restore(digest):
            return Finding(Fault.NO_ROW, str(digest), 0, "its row is made anew", repaired=True)
        gone = await write.run(remove_file, path)
        detail = "nothing says whose it is; " + ("removed" if gone else "it is in use")
        return Finding(Fault.NO_ROW, str(digest), size_bytes, detail, gone)

    def _foreign(self, path: Path) -> Finding:
        name = str(path.relative_to(self._layout.root))
        detail = "no file of the cache has such a name; look at it, and remove it yourself"
        return Finding(Fault.FOREIGN, name, path.lstat().st_size, detail)

    # --- rows and refs ---------------------------------------------------------------------

    async def _rows(self) -> AsyncIterator[Event]:
        async for digest, size_bytes in in_steps(self._pool, self._lost()):
            if not await self._store.parts.pools.index_write.run(self._is_lost, digest):
                continue
            repaired = self._repair and await self._store.drop(
                digest, partial(self._has_no_file, digest)
            )
            detail = f"{size_bytes} bytes are missing" + (
                "; it will be fetched" if repaired else ""
            )
            yield Finding(Fault.NO_FILE, str(digest), 0, detail, repaired)

    def _is_lost(self, digest: Digest) -> bool:
        # Whoever evicts drops the row first, so a row without a file is never on its way.
        return self._row(digest) is not None and self._has_no_file(digest)

    def _has_no_file(self, digest: Digest) -> bool:
        return not self._layout.blob(digest).exists()

    def _lost(self) -> Iterator[tuple[Digest, int]]:
        for key in self._index.all_keys():
            digest = _digest_of_key(key)
            if digest is None or self._layout.blob(digest).exists():
                continue
            row = self._row(digest)
            if row is not None:
                yield digest, row.size_bytes

    async def _refs(self) -> AsyncIterator[Event]:
        async for path in in_steps(self._pool, self._restoring.unreadable()):
            name = str(path.relative_to(self._layout.root))
            if not self._repair:
                yield Finding(Fault.REF, name, 0, "it cannot be read")
                continue
            is_back = await self._restoring.rewrite(path)
            detail = "written anew of the index" if is_back else "removed: the index knows no more"
            yield Finding(Fault.REF, name, 0, detail, repaired=True)

    # --- helpers ---------------------------------------------------------------------------

    def _row(self, digest: Digest) -> ObjectRow | None:
        return self._index.get(object_key(str(digest)), ObjectRow)

    def _is_worth_a_line(self) -> bool:
        objects, size_bytes = self._shown
        many = self._objects - objects >= _PROGRESS_OBJECTS
        return many or self._bytes - size_bytes >= _PROGRESS_BYTES

    def _progress(self) -> Progress:
        self._shown = self._objects, self._bytes
        total_bytes = max(self._index.totals.size_bytes, self._bytes)
        return Progress(self._objects, self._bytes, total_bytes)


class Reading:
    """Hashes a file, a few MiB at a time; to be iterated over, then asked.

    It takes no lock, so that the file can be evicted meanwhile: then it is gone.
    """

    def __init__(self, path: Path, digest: Digest, pool: Pool) -> None:
        self.path = path
        self.size_bytes = 0
        self.is_right = False
        self.is_gone = False
        self.trouble = ""
        """Why the disk does not give it back."""
        self.identity: tuple[int, ...] = ()
        self._digest = digest
        self._pool = pool

    async def __aiter__(self) -> AsyncIterator[int]:
        """Yield how many bytes each step has read."""
        file = await self._pool.run(self._opened)
        if file is None:
            self.is_gone = True
            return
        with file:
            hashing = self._digest.new_hash()
            try:
                while read := await self._pool.run(_hash_some, file, hashing):
                    self.size_bytes += read
                    yield read
            except OSError as error:
                self.trouble = f"it cannot be read: {error.strerror}"
            self.is_right = hashing.hexdigest() == self._digest.hex
            self.is_gone = not await self._pool.run(self.is_same)

    def is_same(self) -> bool:
        """Return whether the name still means the file that was read, unchanged."""
        with suppress(FileNotFoundError):
            return _identity(self.path.stat()) == self.identity
        return False

    def _opened(self) -> BinaryIO | None:
        try:
            file = self.path.open("rb", buffering=0)
        except FileNotFoundError:
            return None
        self.identity = _identity(os.fstat(file.fileno()))
        if sys.platform == "linux":
            with suppress(OSError):  # it is worth nothing in memory that pulls could use
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_NOREUSE)
        return file


def _identity(facts: os.stat_result) -> tuple[int, ...]:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _hash_some(file: BinaryIO, hashing: "hashlib._Hash") -> int:
    content = file.read(_STEP_BYTES)
    hashing.update(content)
    return len(content)


async def drop_wrong(store: Store, digest: Digest, reading: Reading) -> bool:
    """Remove an object that was found wrong, unless somebody reads it or it has been replaced."""

    def is_wrong_and_free() -> bool:
        file = open_exclusive(reading.path)
        if file is None:
            return False
        with file:
            if not reading.is_same():
                return False
            reading.path.unlink()
            return True

    if await store.drop(digest, is_wrong_and_free):
        return True
    return await store.parts.pools.index_write.run(
        lambda: (
            store.parts.index.get(object_key(str(digest)), ObjectRow) is None
            and is_wrong_and_free()
        )
    )


def remove_file(path: Path) -> bool:
    """Remove a file that nobody uses."""
    file = open_exclusive(path)
    if file is None:
        return False
    with file:
        path.unlink()
    return True


def _digest_of_name(path: Path) -> Digest | None:
    try:
        return Digest(path.parent.parent.name, path.name)
    except MirrorError:
        return None


def _digest_of_key(key: str) -> Digest | None:
    kind, _, name = key.partition(":")
    try:
        return Digest.parse(name) if kind == "o" else None
    except MirrorError:
        return None
