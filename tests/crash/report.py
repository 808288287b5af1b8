"""The outcome of a run as figures, and as a table for ``docs/reliability.md``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from tests.crash.run import Outcome

PATH: Final = Path(__file__).parents[2] / "build" / "reliability" / "crash.json"
_MB: Final = 1_000_000


def figures_of(outcome: Outcome) -> dict[str, str]:
    """Return what the run came to, in words and numbers."""
    figures = outcome.figures
    return {
        "kills survived": str(figures.kills),
        "operations of clients": str(figures.operations),
        "bytes served": f"{figures.bytes_served / _MB:.0f} MB",
        "bad bytes served": str(figures.bad_bytes),
        "committed objects asked for again": str(figures.checked),
        "starts while upstream was away": str(figures.offline_starts),
        "times the index was lost or damaged": str(figures.rebuilt),
        "partials resumed after a kill": str(figures.resumed),
        "partials begun anew after a kill": str(figures.begun_anew),
        "images pinned": str(figures.pins),
        "upstream bytes ÷ bytes gained": f"{figures.upstream_ratio:.3f}",
        "largest share of the bound in use": f"{figures.peak_share:.3f}",
        "complaints": str(len(outcome.complaints)),
    }


def write(outcome: Outcome) -> None:
    """Write the table where the page on reliability is made from it."""
    document = {
        "title": "Kills (SIGKILL) of a working mirror",
        "columns": ["Moment of the kill", "Kills"],
        "rows": [[str(moment), str(count)] for moment, count in sorted(outcome.kills.items())],
        "figures": {**figures_of(outcome), "seed": str(outcome.seed)},
    }
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
