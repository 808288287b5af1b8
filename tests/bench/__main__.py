"""Measure, and print tables; everything else goes to standard error."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.bench import servers
from tests.bench.chart import chart
from tests.bench.report import Outcome, as_json, machine, promised, table
from tests.bench.scenarios import SCENARIOS
from tests.bench.servers import Certificate
from tests.bench.stage import prepared
from tests.fakes.tls import write_pair


def main() -> int:
    """Run the scenarios that the command line names; return the exit code."""
    options = _options()
    missing = [name for name in ("docker-registry", "nginx") if shutil.which(name) is None]
    if missing:
        sys.stderr.write(f"bench: missing: {', '.join(missing)}; run tests/bench/install\n")
        return 1
    facts = machine()
    outcomes: list[Outcome] = []
    for outcome in _measured(options):
        outcomes.append(outcome)
        if options.output is not None:  # after each, so that none is lost with those behind it
            _write(options.output, outcomes, facts)
    sys.stdout.write(f"{promised(outcomes)}\n\n{table(outcomes)}\n")
    sys.stderr.write("".join(f"{name}: {value}\n" for name, value in facts.items()))
    return 0


def _measured(options: argparse.Namespace) -> Iterator[Outcome]:
    """Yield the outcome of each scenario when it is over."""
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(dir=options.directory, prefix="mirror-bench-") as directory,
        ProcessPoolExecutor(1, mp_context=spawn) as clients,
        servers.registry(Path(directory) / "origin") as origin,
    ):
        certificate = Certificate(*write_pair(Path(directory)))
        stage = prepared(
            Path(directory),
            origin,
            clients,
            certificate,
            rounds=options.rounds,
            size_bytes=options.size * 10**6,
        )
        for name in options.scenario or SCENARIOS:
            yield SCENARIOS[name](stage)


def _write(folder: Path, outcomes: Sequence[Outcome], facts: Mapping[str, Any]) -> None:
    """Write the results for people, for programs and as a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(as_json(outcomes, facts), indent=1, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "ratios.svg").write_text(chart(outcomes), encoding="utf-8")
    machine_lines = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    (folder / "results.md").write_text(
        "# Results of `make bench`\n\n"
        "<!-- Made by `python -m tests.bench --output docs/benchmarks`; do not edit. -->\n\n"
        f"{machine_lines}\n\n![Ratios](ratios.svg)\n\n## Promised and measured\n\n"
        f"{promised(outcomes)}\n\n## All figures\n\n{table(outcomes)}\n",
        encoding="utf-8",
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(SCENARIOS)}; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="of each (default: 5)")
    parser.add_argument("--size", type=int, default=256, help="of the blob, in MB (default: 256)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write results there, too")
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="for caches (default: the temporary one)"
    )
    options = parser.parse_args()
    unknown = set(options.scenario) - set(SCENARIOS)
    if unknown or options.rounds < 1 or options.size < 1:
        parser.error(f"no such scenario: {', '.join(unknown)}" if unknown else "at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
