"""What stands beside a partial: of what it is the beginning, so that the next process goes on."""

from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from mirror.runtime.unreadable import UNREADABLE

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Sidecar(msgspec.Struct, frozen=True):
    """What a partial is the beginning of.

    ``size_bytes`` is the length of the whole, if upstream told. Up to ``synced_bytes`` the
    file outlasts a power failure; beyond that, another ``boot_id`` makes it worthless, since
    the length of the file may cover blocks that were never written.
    """

    size_bytes: int | None
    repositories: tuple[str, ...]
    endpoint: str
    synced_bytes: int
    boot_id: str


@cache
def boot_id() -> str:
    """Return what is another at each start of the machine; empty where nothing tells."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def sidecar_path(path: Path) -> Path:
    """Return where the sidecar of a partial stands."""
    return path.with_name(f"{path.name}.json")


def read_sidecar(path: Path) -> Sidecar | None:
    """Return the sidecar of a partial, if there is one that can be read."""
    try:
        return msgspec.json.decode(sidecar_path(path).read_bytes(), type=Sidecar)
    except (OSError, *UNREADABLE):
        return None


def remove_partial(path: Path) -> None:
    """Remove a partial and what belongs to it."""
    path.unlink(missing_ok=True)
    sidecar_path(path).unlink(missing_ok=True)
