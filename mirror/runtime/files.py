"""Whether a file is still the one that it was."""

from pathlib import Path

Identity = tuple[int, ...] | None


def identity(path: Path) -> Identity:
    """Return what changes when a file is written or replaced; ``None`` while it is not there."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
