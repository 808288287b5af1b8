"""What a request has made upstream do: which endpoint was asked, and how many pulls that cost.

A task copies the context it is created in, so the trail of the request that began a download or
a shared question leads to it; whoever joins has cost nothing.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final


@dataclass(slots=True)
class Trail:
    """Where a request has led.

    Attributes:
        endpoint: The endpoint that was asked last; empty: none.
        pulls: How many pulls of a budget that cost: GETs of manifests that upstream counts.
    """

    endpoint: str = ""
    pulls: int = 0


_current: Final[ContextVar[Trail | None]] = ContextVar("trail", default=None)


def begin() -> Trail:
    """Return a new trail, which what is done from here on is written to."""
    trail = Trail()
    _current.set(trail)
    return trail


def asked(endpoint: str) -> None:
    """Note that an endpoint is asked."""
    trail = _current.get()
    if trail is not None:
        trail.endpoint = endpoint


def paid() -> None:
    """Note that upstream has counted a pull."""
    trail = _current.get()
    if trail is not None:
        trail.pulls += 1
