"""Measure, and print a table; everything else goes to standard error."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.bench import servers
from tests.bench.report import as_json, machine, table
from tests.bench.scenarios import SCENARIOS, prepared


def main() -> int:
    """Run the scenarios that the command line names; return the exit code."""
    options = _options()
    if shutil.which("docker-registry") is None:
        sys.stderr.write(
            "bench: docker-registry is missing; on Debian: apt install docker-registry\n"
        )
        return 1
    facts = machine()
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(dir=options.directory, prefix="mirror-bench-") as directory,
        ProcessPoolExecutor(1, mp_context=spawn) as clients,
        servers.registry(Path(directory) / "origin") as origin,
    ):
        stage = prepared(
            Path(directory),
            origin,
            clients,
            rounds=options.rounds,
            size_bytes=options.size * 10**6,
        )
        outcomes = [SCENARIOS[name](stage) for name in options.scenario or SCENARIOS]
    sys.stdout.write(table(outcomes) + "\n")
    sys.stderr.write("".join(f"{name}: {value}\n" for name, value in facts.items()))
    if options.json is not None:
        text = json.dumps(as_json(outcomes, facts), indent=2, ensure_ascii=False)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(SCENARIOS)}; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="of each (default: 5)")
    parser.add_argument("--size", type=int, default=256, help="of the blob, in MB (default: 256)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there, too")
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
