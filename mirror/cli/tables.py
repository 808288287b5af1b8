"""How results look on a terminal: columns, sizes, ages."""

from collections.abc import Sequence
from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_AGES: Final = ((86400 * 365, "y"), (86400, "d"), (3600, "h"), (60, "m"))
_MINUTE: Final = 60
_STEP: Final = 1024
_GAP: Final = "  "


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return aligned columns, those of *right* to the right; as wide as they must be."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        _GAP.join(
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
            for column, cell in enumerate(line)
        ).rstrip()
        for line in lines
    )


def human_size(size_bytes: float) -> str:
    """Return a size in three digits or so: ``812 B``, ``8.1 MiB``."""
    for unit in _UNITS:
        if size_bytes < _STEP or unit == _UNITS[-1]:
            break
        size_bytes /= _STEP
    return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"


def human_span(seconds: float) -> str:
    """Return a length of time in its largest whole unit: ``43m``."""
    for length, unit in _AGES:
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(0, round(seconds))}s"


def human_age(seconds: float) -> str:
    """Return how long ago something was: ``3h ago``."""
    return f"{human_span(seconds)} ago" if seconds >= _MINUTE else "just now"


def counted(number: int, what: str, many: str = "") -> str:
    """Return ``1 tag`` or ``2 tags``."""
    return f"{number:,} {what if number == 1 else many or what + 's'}"
