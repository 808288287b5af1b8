"""An object of the store, open for reading."""

import asyncio
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from mirror.runtime.pools import Pool
from mirror.store.locks import open_shared


class StoredObject:
    """An object of the store, open for reading; it is not evicted while it is open."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self.file = file
        self.size_bytes = size_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()


async def open_whole(pool: Pool, path: Path, size_bytes: int) -> BinaryIO | None:
    """Open a file of *size_bytes*; ``None`` where there is none of that size.

    A caller that is cancelled leaves no open file behind.
    """
    opening = pool.start(_open, path, size_bytes)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close)
        raise


def is_whole(path: Path, size_bytes: int) -> bool:
    """Return whether there is a file of that size."""
    try:
        return path.stat().st_size == size_bytes
    except FileNotFoundError:
        return False


def is_gone(path: Path) -> bool:
    """Return whether there is surely no file; where the disk does not say, there may be one."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def open_kept(path: Path) -> BinaryIO:
    """Open a file so that it is not removed; raises FileNotFoundError: it is gone, or going."""
    file = open_shared(path)
    if file is None:
        raise FileNotFoundError(None, "an object is being removed", str(path))
    return file


def _open(path: Path, size_bytes: int) -> BinaryIO | None:
    file = open_shared(path)
    if file is None or os.fstat(file.fileno()).st_size == size_bytes:
        return file
    file.close()
    return None


def _close(opening: "asyncio.Future[BinaryIO | None]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        file = opening.result()
        if file is not None:
            file.close()
