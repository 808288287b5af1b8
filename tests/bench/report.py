"""Samples to medians, and medians to a table, to JSON and to a chart."""

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

from tests.bench.promises import Medians, verdicts
from tests.bench.servers import DISTRIBUTION, MIRROR, NGINX, REGISTRY, distribution

Sample = Mapping[str, float]
_PEERS: Final = (REGISTRY, DISTRIBUTION, NGINX)


@dataclass(frozen=True)
class Outcome:
    """What one scenario came to: for each server, a sample of each figure for each round."""

    name: str
    what: str
    samples: Mapping[str, Sequence[Sample]]

    @property
    def servers(self) -> list[str]:
        """Who took part, ours first."""
        return [name for name in (MIRROR, *_PEERS) if name in self.samples]

    def figures(self) -> list[str]:
        """Return the names of the figures, with their units."""
        return list(self.samples[MIRROR][0])

    def values(self, server: str, figure: str) -> list[float]:
        """Return one figure of one server over the rounds."""
        return [sample[figure] for sample in self.samples[server]]

    def median(self, server: str, figure: str) -> float:
        """Return the median of one figure of one server."""
        return median(self.values(server, figure))

    def ratio(self, server: str, figure: str) -> float | None:
        """Return our median divided by another's."""
        if server not in self.samples or server == MIRROR:
            return None
        theirs = self.median(server, figure)
        return self.median(MIRROR, figure) / theirs if theirs else None


def medians(outcomes: Sequence[Outcome]) -> Medians:
    """Return the medians of all figures."""
    return {
        outcome.name: {
            server: {figure: outcome.median(server, figure) for figure in outcome.figures()}
            for server in outcome.servers
        }
        for outcome in outcomes
    }


def table(outcomes: Sequence[Outcome]) -> str:
    """Return all outcomes as a Markdown table: medians, with least and most in parentheses."""
    columns = [name for name in (MIRROR, *_PEERS) if any(name in o.samples for o in outcomes)]
    ratios = [name for name in (REGISTRY, NGINX) if name in columns]
    lines = [
        _row(["", *columns, *(f"÷ {name}" for name in ratios)]),
        _row(["---", *["---:"] * (len(columns) + len(ratios))]),
    ]
    for outcome in outcomes:
        blank = [""] * (len(columns) + len(ratios))
        lines.append(_row([f"**{outcome.name}**: {outcome.what}", *blank]))
        for figure in outcome.figures():
            shown = [_shown(outcome, name, figure) for name in columns]
            beside = [outcome.ratio(name, figure) for name in ratios]
            lines.append(
                _row([figure, *shown, *("" if each is None else f"{each:.2f}" for each in beside)])
            )
    return "\n".join(lines)


def promised(outcomes: Sequence[Outcome]) -> str:
    """Return what was promised and whether it was kept, as a Markdown table."""
    lines = [_row(["", "must; aim", "measured", ""]), _row(["---"] * 4)]
    lines += [_row(row) for row in verdicts(medians(outcomes))]
    return "\n".join(lines)


def as_json(outcomes: Sequence[Outcome], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that was measured, and where."""
    return {
        "machine": dict(facts),
        "promises": [
            dict(zip(("what", "bounds", "measured", "kept"), row, strict=True))
            for row in verdicts(medians(outcomes))
        ],
        "scenarios": [
            {
                "name": outcome.name,
                "what": outcome.what,
                "figures": {
                    figure: {
                        server: {
                            "median": outcome.median(server, figure),
                            "samples": outcome.values(server, figure),
                        }
                        for server in outcome.servers
                    }
                    for figure in outcome.figures()
                },
            }
            for outcome in outcomes
        ],
    }


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    cpu = re.search(
        r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE
    )
    v3 = distribution()
    return {
        "processor": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "aiohttp": version("aiohttp"),
        "mirror": _words("git", "describe", "--always", "--dirty"),
        REGISTRY: _words("docker-registry", "--version"),
        DISTRIBUTION: "not installed" if v3 is None else _words(str(v3), "--version"),
        NGINX: _words("nginx", "-v"),
        "load average before": round(os.getloadavg()[0], 2),
    }


def _shown(outcome: Outcome, server: str, figure: str) -> str:
    if server not in outcome.samples:
        return ""
    values = outcome.values(server, figure)
    form = ".0f" if max(values) >= 1000 else ".3g"
    middle, least, most = (
        f"{value:{form}}" for value in (median(values), min(values), max(values))
    )
    return middle if len(values) == 1 else f"{middle} ({least} to {most})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _words(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- fixed words
    except OSError:
        return "not installed"
    return (done.stdout.strip() or done.stderr.strip() or "unknown").removeprefix(command[0] + " ")
