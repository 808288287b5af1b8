"""The page about pulls in trouble, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

REVALIDATE_SECONDS = 1.0
HEAD_MAX_SECONDS = 10.0
BODY_MAX_SECONDS = 40.0

HEAD = """\
# Never worse: real clients while upstream is in trouble

<!-- Made by `python -m tests.never_worse > docs/never-worse.md` (make never-worse). -->

Each client pulls one image of one layer through the mirror alone: it has nowhere else to go. Tags
are asked for at each pull (`tag_ttl: 0s`), which is the hardest case. `docker-registry` is
Debian's, as a pull-through cache, run by the same script on the same machine.

*Pulled* and *fails* are followed by seconds. *Goes on trying*: the client had not given up after
45 s. *Does not start*: the cache itself ends at its start.
"""
RULE = """
Bounds: a cached image is pulled in every case, in at most 1.2 times the healthy time and
`timeouts.revalidate` (1 s) more. For what is not cached, a plain GET has its answer, or a closed
connection, within 10 s before the headers and within `timeouts.idle` + 10 s in a body. How often a
client then tries again is its own affair.
"""


class Cell(msgspec.Struct, frozen=True):
    """What became of a pull, and after how long."""

    outcome: str
    seconds: float

    @property
    def is_pulled(self) -> bool:
        """Whether the client has the image."""
        return self.outcome == "pulled"


class Results(msgspec.Struct):
    """Everything about one target; ``cached`` and ``new`` are by trouble and client.

    ``head`` is what a plain GET of a manifest gets that is not cached, or of its layer.
    """

    target: str
    healthy: dict[str, float] = {}
    cached: dict[str, dict[str, Cell]] = {}
    new: dict[str, dict[str, Cell]] = {}
    head: dict[str, Cell] = {}


def page(results: Sequence[Results], troubles: Sequence[str]) -> tuple[str, list[str]]:
    """Return the page, and what breaks a bound of ours."""
    text = HEAD + RULE
    for result in results:
        text += f"\n## {result.target}\n"
        text += "\n### Cached\n\n" + _table(result, troubles, is_cached=True)
        text += "\n### Not cached\n\n" + _table(result, troubles, is_cached=False)
    return text, list(_complaints(results[0]))


def _table(result: Results, troubles: Sequence[str], *, is_cached: bool) -> str:
    names = list(result.healthy)
    more = [] if is_cached else ["a plain GET"]
    rule = "|---" * (len(names + more) + 1) + "|"
    lines = [_line("upstream", [*names, *more]), rule]
    if is_cached:
        lines.append(_line("is well", [f"pulled {result.healthy[name]:.1f}" for name in names]))
    cells = result.cached if is_cached else result.new
    for trouble in troubles:
        row = [_text(cells[trouble][name]) for name in names]
        if not is_cached:
            row.append(_text(result.head[trouble]))
        lines.append(_line(trouble, row))
    return "\n".join(lines) + "\n"


def _line(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _text(cell: Cell) -> str:
    return cell.outcome + (f" {cell.seconds:.1f}" if cell.seconds else "")


def _complaints(result: Results) -> Iterator[str]:
    for trouble, cells in result.cached.items():
        for client, cell in cells.items():
            bound = 1.2 * result.healthy[client] + REVALIDATE_SECONDS
            if not cell.is_pulled or cell.seconds > bound:
                yield f"{trouble}, {client}, cached: {_text(cell)}, bound {bound:.1f}"
    for trouble, cell in result.head.items():
        bound = BODY_MAX_SECONDS if cell.outcome == "200" else HEAD_MAX_SECONDS
        if cell.outcome == "hangs" or cell.seconds > bound:
            yield f"{trouble}, a plain GET: {_text(cell)}, bound {bound:.0f}"
