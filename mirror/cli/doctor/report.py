"""The report of ``mirror doctor`` on a terminal."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

import typer
from msgspec import structs

from mirror.cli.doctor.examining import NOT_TRIED
from mirror.cli.doctor.finding import Finding, State
from mirror.cli.tables import counted

_MARKS: Final = {
    State.OK: ("✓", "ok", typer.colors.GREEN),
    State.WARNING: ("!", "!!", typer.colors.YELLOW),
    State.FAILED: ("✗", "XX", typer.colors.RED),
    State.SKIPPED: ("-", "--", typer.colors.BRIGHT_BLACK),
}
_INDENT: Final = "  "
_NAME_CHARS: Final = 17


def report(findings: Sequence[Finding], *, colours: bool, unicode: bool) -> str:
    """Return the report: what was found, group by group, with the remedy below it.

    Args:
        findings: In the order of the checks.
        colours: Whether the terminal shows them.
        unicode: Whether it can write ``✓``.
    """
    lines: list[str] = []
    ordered = sorted(findings, key=lambda each: _place(findings, each.group))
    width = min(_NAME_CHARS, max((len(each.name) for each in findings), default=0))
    for group, members in groupby(ordered, key=lambda each: each.group):
        lines += ["", typer.style(group, bold=True) if colours else group]
        for each in _without_echo(members):
            lines += _lines(each, width, colours=colours, unicode=unicode)
    return "\n".join([*lines[1:], "", summary(findings)])


def summary(findings: Sequence[Finding]) -> str:
    """Return how it stands in one line."""
    failed, doubtful, left_out, fine = (
        sum(each.state is state for each in findings)
        for state in (State.FAILED, State.WARNING, State.SKIPPED, State.OK)
    )
    parts = [f"{fine} fine"]
    parts += [counted(doubtful, "warning")] if doubtful else []
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{left_out} left out"] if left_out else []
    return f"{counted(len(findings), 'check')}: {', '.join(parts)}."


def _without_echo(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Say in one line what was not tried, instead of once for each step of a way."""
    for reason, members in groupby(findings, key=lambda each: each.found.startswith(NOT_TRIED)):
        together = list(members)
        if reason:
            names = ", ".join(each.name for each in together)
            yield structs.replace(together[0], name=NOT_TRIED, found=names)
        else:
            yield from together


def _place(findings: Sequence[Finding], group: str) -> int:
    return next(number for number, each in enumerate(findings) if each.group == group)


def _lines(finding: Finding, width: int, *, colours: bool, unicode: bool) -> Iterator[str]:
    sign, letters, colour = _MARKS[finding.state]
    mark = sign if unicode else letters
    shown = typer.style(mark, fg=colour, bold=True) if colours else mark
    hanging = " " * (len(_INDENT) + len(mark) + 1 + width + 2)
    first, *more = finding.found.splitlines() or [""]
    yield f"{_INDENT}{shown} {finding.name.ljust(width)}  {first}".rstrip()
    yield from (f"{hanging}{line}" for line in more)
    if finding.remedy:
        yield f"{hanging}{'→' if unicode else '->'} {finding.remedy}"
