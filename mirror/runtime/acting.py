"""With whose credential an upstream is asked for the request at hand, if with a caller's own.

A task copies the context it is created in, so a fill or a shared question goes on with the
credential of the request that started it (``policy.access: verify``).
"""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller's own credential for one upstream; it goes nowhere else.

    Without ``username`` and ``password`` upstream is asked as by a stranger. Another
    ``generation`` gets new tokens for them: what is remembered of the old ones must not count.
    ``mark`` is a keyed hash of them: by it one caller is told from another.
    """

    upstream: str
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    generation: int = 0
    mark: bytes = b""


_current: Final[ContextVar[Caller | None]] = ContextVar("acting_as", default=None)


def act_as(caller: Caller | None) -> None:
    """Ask with a caller's own credential from here on; ``None``: as the mirror itself."""
    _current.set(caller)


def acting_for(upstream: str) -> Caller | None:
    """Return the caller whose credential an upstream is asked with; ``None``: the mirror's own."""
    caller = _current.get()
    return caller if caller is not None and caller.upstream == upstream else None
