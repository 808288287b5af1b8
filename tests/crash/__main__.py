"""Kill a mirror so many times, and say what came of it."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.report import figures_of, write
from tests.crash.run import run


def main() -> int:
    """Run the model; the exit code is 1 if anything was wrong."""
    options = _options()
    started = time.monotonic()
    sys.stderr.write(f"crash: --kills {options.kills} --seed {options.seed}\n")
    with tempfile.TemporaryDirectory(prefix="mirror-crash-", dir=options.directory) as work:
        outcome = run(Path(work), options.seed, options.kills)
    for complaint in outcome.complaints:
        sys.stderr.write(f"crash: seed {options.seed}: {complaint}\n")
    for name, value in figures_of(outcome).items():
        sys.stdout.write(f"{name:42} {value}\n")
    sys.stdout.write(f"{'seconds':42} {time.monotonic() - started:.0f}\n")
    write(outcome)
    return 1 if outcome.complaints else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=300, help="how many (default: 300)")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), help="of what happens (default: any)"
    )
    parser.add_argument("--directory", metavar="DIR", help="for the cache and the log")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
