"""What of a new configuration holds while the process goes on as it began."""

from collections.abc import Iterator
from typing import Any, Final

from mirror.settings import Settings

_FOLLOWS: Final = {
    "server": frozenset({"auth", "catalog"}),
    "cache": frozenset({"max_size", "min_free"}),
    "fill": frozenset({"abandon", "range_wait_seconds"}),
}
"""What of these sections follows at once; the rest needs a restart. All other sections follow."""


class NeedsRestartError(Exception):
    """A configuration that would not be safe with what stays as it is; the message says why."""


def followed(running: Settings, wanted: Settings) -> Settings:
    """Return *wanted*, but for what needs a restart: that stays as it is in *running*.

    Raises:
        NeedsRestartError: credentials would go over a listener that is not protected yet.
    """
    sections: dict[str, Any] = {}
    for name, follows in _FOLLOWS.items():
        old, new = getattr(running, name), getattr(wanted, name)
        sections[name] = old.model_copy(update={each: getattr(new, each) for each in follows})
    found = wanted.model_copy(update=sections)
    try:
        found.check_protection()
    except ValueError as error:
        raise NeedsRestartError(f"without a restart, {error}") from None
    return found


def waiting(running: Settings, wanted: Settings) -> Iterator[str]:
    """Yield the keys that are another in *wanted* and wait for a restart."""
    for section, follows in _FOLLOWS.items():
        old, new = getattr(running, section), getattr(wanted, section)
        for name in type(old).model_fields:
            if name not in follows and getattr(old, name) != getattr(new, name):
                yield f"{section}.{name.removesuffix('_seconds').removesuffix('_bytes')}"
