"""The ``Via`` chain of the request that caused a piece of work, for loop detection.

A task copies the context it is created in, so a fill or a shared question carries the chain
of the request that started it (invariant 15).
"""

import secrets
from contextvars import ContextVar
from typing import Final

INSTANCE = f"mirror-{secrets.token_hex(6)}"
"""This mirror, as it calls itself in ``Via``."""

MAX_HOPS: Final = 16
_MAX_CHARS: Final = 2048
"""Sixteen hops with room for their names; upstreams refuse heads of more than 8 KiB."""

incoming: Final[ContextVar[str]] = ContextVar("incoming_via", default="")


def join(instance: str) -> None:
    """Be a part of another process's mirror."""
    global INSTANCE  # noqa: PLW0603 -- one name for each process, set once at its start
    INSTANCE = instance


def outgoing() -> str:
    """Return the Via header of a request that we send now.

    Others may wait for its answer too, so whatever the first client wrote must not spoil it:
    what cannot stand in a header is left out.
    """
    before = "".join(char for char in incoming.get() if " " <= char <= "~")
    return f"{before}, 1.1 {INSTANCE}" if before else f"1.1 {INSTANCE}"


def is_loop(via: str) -> bool:
    """Return whether a request with this Via header has been here, or has come too far."""
    return INSTANCE in via or via.count(",") >= MAX_HOPS or len(via) > _MAX_CHARS
