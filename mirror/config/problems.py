"""What is wrong with a configuration: all of it, each with its place and what to do."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

Location = tuple[str | int, ...]

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def notation(location: Location) -> str:
    """Write a place as ``upstreams["docker.io"].endpoints[0]``."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else part
        else:
            quoted = part.encode("unicode_escape").decode().replace('"', '\\"')
            text += f'["{quoted}"]'
    return text


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake; it never repeats a value, which might be a secret."""

    path: str
    message: str
    hint: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        said = f"{self.path}: {self.message}" if self.path else self.message
        return f"{said} ({self.hint})" if self.hint else said


class ConfigError(Exception):
    """The configuration cannot be used; carries every problem that was found."""

    def __init__(self, problems: Iterable[Problem], source: Path | None = None) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        self.source = source
        super().__init__(self.problems, source)

    def __str__(self) -> str:
        return "\n".join(self._placed(problem) for problem in self.problems)

    def _placed(self, problem: Problem) -> str:
        if problem.line is None:
            return str(problem)
        return f"{self.source or 'line'}:{problem.line}: {problem}"
