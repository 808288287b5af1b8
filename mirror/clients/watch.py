"""Whether clients are to be told of a mirror, by what was seen of it."""

from dataclasses import dataclass
from typing import Final

IN_A_ROW: Final = 2
"""One lost answer is not an outage, and one good one is no recovery."""


@dataclass(slots=True)
class Watch:
    """Remembers the last looks at the mirror; the very first one counts at once."""

    in_a_row: int = IN_A_ROW
    _tell: bool | None = None
    _last: bool | None = None
    _streak: int = 0

    def judge(self, *, answers: bool) -> bool:
        """Take one more look into account; return whether clients are to be told."""
        self._streak = self._streak + 1 if answers is self._last else 1
        self._last = answers
        if self._tell is None or self._streak >= self.in_a_row:
            self._tell = answers
        return self._tell
