"""Whether a cache directory is fit for use, found out from outside: nothing is changed.

For a look at a directory whose mirror may run, may be stopped, or may never have run.
"""

import fcntl
import os
import sqlite3
import stat
import time
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import quote

from mirror.store.database import COMPLETE, DAMAGED
from mirror.store.layout import Layout

_MOUNTS: Final = Path("/proc/self/mountinfo")
_DATABASE: Final = "cache.db"
_STEPS: Final = 10_000
"""How many steps of the database go by before its time is looked at."""


@dataclass(frozen=True, slots=True)
class FileSystem:
    """What a directory stands on."""

    kind: str
    """As the kernel calls it: ``ext4``, ``nfs4``, ``overlay``; empty if it does not tell."""
    mount_point: str
    total_bytes: int
    free_bytes: int
    """What this user may still write."""
    free_inodes: int | None
    """``None`` where the file system has no fixed number."""


@dataclass(frozen=True, slots=True)
class Fitness:
    """What can be said of a cache directory by looking at it."""

    directory: Path
    standing: Path
    """The directory itself, or the nearest one above it that exists."""
    trouble: str
    """Why it cannot be used by this user; empty if it can."""
    owner: int
    mode: int
    version: str
    """Of the layout; empty if there is none yet."""
    in_use: bool | None
    """Whether a mirror runs on it; ``None``: this user may not look."""
    file_system: FileSystem

    @property
    def exists(self) -> bool:
        """Whether it is there."""
        return self.standing == self.directory


class IndexState(StrEnum):
    """What was found of an index."""

    MISSING = "missing"
    SOUND = "sound"
    UNFINISHED = "unfinished"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"
    LARGE = "large"
    """It opens, but to read all of it takes longer than there was time."""


_BY_CODE: Final = {
    sqlite3.SQLITE_CORRUPT: IndexState.DAMAGED,
    sqlite3.SQLITE_NOTADB: IndexState.DAMAGED,
    sqlite3.SQLITE_INTERRUPT: IndexState.LARGE,
}


@dataclass(frozen=True, slots=True)
class IndexFitness:
    """What was found of an index, and what the database says about it."""

    state: IndexState
    detail: str = ""
    rows: int = 0


def look_at(directory: Path) -> Fitness:
    """Look at a cache directory; raises OSError where not even that can be done."""
    directory = directory.absolute()
    standing = directory
    while not _is_there(standing):
        standing = standing.parent
    facts = standing.stat()
    version, in_use = _version(directory) if standing == directory else ("", False)
    return Fitness(
        directory,
        standing,
        _trouble(standing),
        facts.st_uid,
        stat.S_IMODE(facts.st_mode),
        version,
        in_use,
        _file_system(standing),
    )


def check_index(directory: Path, limit_seconds: float) -> IndexFitness:
    """Read the index through, for so long at most; it may be in use."""
    index = Layout(directory).index
    database = index / _DATABASE
    try:
        if not database.exists():
            return IndexFitness(IndexState.MISSING)
        if (index / DAMAGED).exists():
            return IndexFitness(IndexState.DAMAGED, "the mirror found it damaged")
        with closing(_opened(database)) as connection:
            return _checked(connection, limit_seconds)
    except PermissionError as error:
        return IndexFitness(IndexState.UNREADABLE, error.strerror or "")
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return IndexFitness(_BY_CODE.get(code, IndexState.UNREADABLE), str(error))


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path.parent == path
    except PermissionError:
        return False
    return True


def _trouble(standing: Path) -> str:
    if not standing.is_dir():
        return "is not a directory"
    if os.statvfs(standing).f_flag & os.ST_RDONLY:
        return "is on a file system that is mounted read-only"
    if not os.access(standing, os.W_OK | os.X_OK):
        return f"cannot be written by user {os.geteuid()}"
    return ""


def _version(directory: Path) -> tuple[str, bool | None]:
    """Return the version of the layout, and whether a mirror has it locked."""
    try:
        with (directory / "VERSION").open("rb") as file:
            version = file.read(32).decode("ascii", "replace").strip()
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return version, True
            return version, False
    except PermissionError:
        return "", None
    except OSError:
        return "", False


def _file_system(path: Path) -> FileSystem:
    numbers = os.statvfs(path)
    kind, mount_point = _mount(path)
    return FileSystem(
        kind,
        mount_point,
        numbers.f_blocks * numbers.f_frsize,
        numbers.f_bavail * numbers.f_frsize,
        numbers.f_favail if numbers.f_files else None,
    )


def _mount(path: Path) -> tuple[str, str]:
    """Return kind and place of the mount that a path is on (proc_pid_mountinfo(5))."""
    real, best = os.path.realpath(path), ("", "")
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return best
    for line in lines:
        before, _, after = line.partition(" - ")
        place = before.split(" ")[4].encode().decode("unicode_escape")
        is_around = f"{real}/".startswith(f"{place.rstrip('/')}/")
        if is_around and len(place) >= len(best[1]):
            best = after.split(" ")[0], place
    return best


def _opened(database: Path) -> sqlite3.Connection:
    """Open for reading; a database at rest is opened so that no file appears beside it."""
    is_at_rest = not database.with_name(f"{_DATABASE}-wal").exists()
    query = "immutable=1" if is_at_rest else "mode=ro"
    return sqlite3.connect(f"file:{quote(str(database))}?{query}", uri=True, timeout=1)


def _checked(connection: sqlite3.Connection, limit_seconds: float) -> IndexFitness:
    ends_at = time.monotonic() + limit_seconds
    connection.set_progress_handler(lambda: int(time.monotonic() > ends_at), _STEPS)
    found = connection.execute("SELECT 1 FROM Cache WHERE key = ?", (COMPLETE,)).fetchone()
    if found is None:
        return IndexFitness(IndexState.UNFINISHED)
    (rows,) = connection.execute("SELECT COALESCE(MAX(rowid), 0) FROM Cache").fetchone()
    (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    return IndexFitness(IndexState.SOUND if said == "ok" else IndexState.DAMAGED, str(said), rows)
