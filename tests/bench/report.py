"""Samples to medians, and medians to a table and to JSON."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.bench.servers import MIRROR, REGISTRY

Sample = Mapping[str, float]
_HEADINGS: Final = ("", MIRROR, REGISTRY, "ratio")


@dataclass(frozen=True)
class Outcome:
    """What one scenario came to: for each server, a sample of each figure for each round."""

    name: str
    what: str
    samples: Mapping[str, Sequence[Sample]]

    def figures(self) -> list[str]:
        """Return the names of the figures, with their units."""
        return list(self.samples[MIRROR][0])

    def values(self, server: str, figure: str) -> list[float]:
        """Return one figure of one server over the rounds."""
        return [sample[figure] for sample in self.samples[server]]

    def ratio(self, figure: str) -> float | None:
        """Return our median divided by theirs."""
        theirs = median(self.values(REGISTRY, figure))
        return median(self.values(MIRROR, figure)) / theirs if theirs else None


def table(outcomes: Sequence[Outcome]) -> str:
    """Return all outcomes as a Markdown table: medians, with least and most in parentheses."""
    lines = [_row(_HEADINGS), _row(["---", "---:", "---:", "---:"])]
    for outcome in outcomes:
        lines.append(_row([f"**{outcome.name}**: {outcome.what}", "", "", ""]))
        for figure in outcome.figures():
            ratio = outcome.ratio(figure)
            ours, theirs = (_shown(outcome.values(name, figure)) for name in (MIRROR, REGISTRY))
            lines.append(_row([figure, ours, theirs, "" if ratio is None else f"{ratio:.2f}"]))
    return "\n".join(lines)


def as_json(outcomes: Sequence[Outcome], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that was measured, and where."""
    return {
        "machine": dict(facts),
        "scenarios": [
            {
                "name": outcome.name,
                "what": outcome.what,
                "figures": {figure: _figure(outcome, figure) for figure in outcome.figures()},
            }
            for outcome in outcomes
        ],
    }


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    cpu = re.search(
        r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE
    )
    return {
        "processor": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "aiohttp": version("aiohttp"),
        "mirror": _words("git", "describe", "--always", "--dirty"),
        "docker-registry": _words("docker-registry", "--version"),
        "load average before": round(os.getloadavg()[0], 2),
    }


def _figure(outcome: Outcome, figure: str) -> dict[str, Any]:
    servers = {
        name: {
            "median": median(outcome.values(name, figure)),
            "samples": outcome.values(name, figure),
        }
        for name in (MIRROR, REGISTRY)
    }
    return {**servers, "ratio": outcome.ratio(figure)}


def _shown(values: Sequence[float]) -> str:
    form = ".0f" if max(values) >= 1000 else ".3g"
    middle, least, most = (
        f"{value:{form}}" for value in (median(values), min(values), max(values))
    )
    return f"{middle} ({least} to {most})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _words(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- fixed words
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
