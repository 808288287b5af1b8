"""A chart of the ratios, as SVG: one bar for each figure and peer, on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import log2
from typing import Final

from tests.bench.report import Outcome
from tests.bench.servers import DISTRIBUTION, MIRROR, NGINX, REGISTRY

_CHARTED: Final = ("throughput, GB/s", "requests/s", "wall time, s", "server CPU, s/GB")
_MORE_IS_BETTER: Final = ("throughput, GB/s", "requests/s")
_COLOURS: Final = {REGISTRY: "#3b6ea5", DISTRIBUTION: "#7aa6cf", NGINX: "#5a8f5a"}
_ROW: Final = 15
_GAP: Final = 11
_LEFT: Final = 300
_WIDTH: Final = 940
_SCALE: Final = 100.0
"""Pixels for a factor of two."""
_MOST: Final = 2.9


def chart(outcomes: Sequence[Outcome]) -> str:
    """Return the chart; a bar to the right of the line means that the mirror does better."""
    bars, y = [], 54
    for title, rows in _groups(outcomes):
        bars.append(_text(_LEFT - 12, y + 11, title, anchor="end"))
        for server, better in rows:
            bars.append(_bar(y, server, better))
            y += _ROW
        y += _GAP
    middle = _middle()
    axis = f'<line x1="{middle}" y1="40" x2="{middle}" y2="{y}" stroke="#666"/>'
    return "\n".join([_head(y + 12), *_legend(), axis, *bars, "</svg>"]) + "\n"


def _groups(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    for outcome in outcomes:
        for figure in (name for name in _CHARTED if name in outcome.figures()):
            rows = []
            for server in (name for name in outcome.servers if name != MIRROR):
                ratio = outcome.ratio(server, figure)
                if ratio:
                    rows.append((server, ratio if figure in _MORE_IS_BETTER else 1 / ratio))
            if rows:
                yield f"{outcome.name}: {figure.partition(',')[0]}", rows


def _middle() -> float:
    return _LEFT + (_WIDTH - _LEFT) / 2 - 40


def _bar(y: float, server: str, better: float) -> str:
    length = max(-_MOST, min(_MOST, log2(better))) * _SCALE
    middle = _middle()
    x = middle + min(0.0, length)
    number = f"{better:.2f} ×" if better < 10 else f"{better:.0f} ×"
    place = middle + length + (6 if length >= 0 else -6)
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{abs(length):.1f}" height="{_ROW - 3}" '
        f'fill="{_COLOURS[server]}"/>'
        + _text(place, y + 10, number, anchor="start" if length >= 0 else "end")
    )


def _legend() -> Iterator[str]:
    yield _text(_LEFT, 16, "How much better the mirror is (right of the line) or worse (left)")
    for number, (server, colour) in enumerate(_COLOURS.items()):
        x = _LEFT + 150 * number
        yield f'<rect x="{x}" y="24" width="11" height="11" fill="{colour}"/>'
        yield _text(x + 16, 34, f"than {server}")


def _head(height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
        'font-family="system-ui, sans-serif" font-size="12">'
        f'<rect width="{_WIDTH}" height="{height:.0f}" fill="#ffffff"/>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#222">{escape(text)}</text>'
