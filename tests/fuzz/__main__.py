"""Fuzz every target for so long: ``python -m tests.fuzz 60s [NAME…]``.

What is found is kept in ``build/fuzz/<target>`` as the beginning of the next run; an input that
breaks something, as ``build/fuzz/<target>-crash-…``: ``python -m tests.fuzz.one TARGET FILE``
shows it.
"""

import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mirror.settings.units import parse_duration
from tests.fuzz.targets import TARGETS, Target

WORK = Path("build/fuzz")
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_AT_ONCE = 2


def fuzz(name: str, target: Target, seconds: float) -> tuple[str, int, int]:
    """Run one target; returns its name, exit code and number of executions."""
    corpus = WORK / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = WORK / f"{name}.dict"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words), encoding="utf-8")
    options = [
        f"-max_total_time={max(1, round(seconds))}",
        f"-max_len={target.max_bytes}",
        f"-dict={words}",
        f"-artifact_prefix={WORK}/{name}-",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
    ]
    command = [sys.executable, "-m", "tests.fuzz.one", name, str(corpus), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- ours
    (WORK / f"{name}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    executed = _EXECUTED.search(done.stdout + done.stderr)
    return name, done.returncode, int(executed[1]) if executed else 0


def _escaped(word: str) -> str:
    return "".join(
        f"\\x{byte:02x}" if byte in b'"\\' or not 32 <= byte < 127 else chr(byte)
        for byte in word.encode()
    )


def main() -> int:
    """Fuzz, report, and return 1 if anything broke."""
    duration, *names = sys.argv[1:] or ["60s"]
    chosen = {name: TARGETS[name] for name in names} if names else TARGETS
    seconds, started = float(parse_duration(duration)), time.monotonic()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        results = list(pool.map(lambda each: fuzz(each[0], each[1], seconds), chosen.items()))
    broken = [name for name, code, _ in results if code]
    for name, code, executions in results:
        said = f"BROKEN, see {WORK}/{name}.log" if code else "ok"
        sys.stdout.write(f"{name:<15} {executions:>12,} executions  {said}\n")
    total = sum(executions for _, _, executions in results)
    elapsed = time.monotonic() - started
    sys.stdout.write(f"{'total':<15} {total:>12,} executions  {elapsed:.0f} s\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
