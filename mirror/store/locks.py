"""Who uses a file of the cache: told by the kernel, so that a crash leaves no wrong count.

Readers have a shared lock on what they have open, writers and who removes an exclusive one
(flock). A lock belongs to the file and not to its name: after it is taken, the name must
still mean the same file.
"""

import fcntl
import os
from pathlib import Path
from typing import BinaryIO


def open_shared(path: Path) -> BinaryIO | None:
    """Open a file for reading, so that it is not removed; ``None``: it is gone, or going."""
    return _opened(path, fcntl.LOCK_SH)


def open_exclusive(path: Path) -> BinaryIO | None:
    """Open a file that nobody uses, to remove it; ``None``: somebody does, or it is gone."""
    return _opened(path, fcntl.LOCK_EX)


def is_at(file: BinaryIO, path: Path) -> bool:
    """Return whether an open file is the one that has the name *path*."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _opened(path: Path, lock: int) -> BinaryIO | None:
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, lock | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except BaseException:
        file.close()
        raise
    if is_at(file, path):
        return file
    file.close()
    return None
