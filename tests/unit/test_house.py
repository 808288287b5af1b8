"""House rules that no linter knows."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.domain import errors
from mirror.web.errors import status_of

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "mirror").rglob("*.py"))
FILE_LINES, FUNCTION_LINES, USUAL_LINES = 400, 60, 25


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the functions of a file and their lengths in lines, docstrings left out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            lines = (node.end_lineno or 0) - node.lineno + 1 - len(docstring.splitlines())
            yield f"{path.name}:{node.name}", lines


def test_imports_point_down() -> None:
    # In a process of its own: it disables the loggers of the process that it runs in.
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 -- ours
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_and_its_functions_can_be_overlooked(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES
    for name, lines in functions(path):
        assert lines <= FUNCTION_LINES, name


def test_most_functions_are_short() -> None:
    lengths = [lines for path in SOURCES for _, lines in functions(path)]
    assert statistics.quantiles(lengths, n=20)[-1] <= USUAL_LINES


def test_every_situation_has_a_status() -> None:
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    leaves = [
        each
        for each in kinds
        if issubclass(each, errors.MirrorError)
        and each not in {errors.MirrorError, errors.TroubleError, errors.NotFoundError}
    ]
    assert len(leaves) > 15
    for each in leaves:
        assert 400 <= status_of(each.__new__(each)) <= 599


def test_an_ignored_finding_says_why() -> None:
    assert len(SOURCES) > 100
    for path in SOURCES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for mark in ("# noqa", "# type: ignore"):
                _, found, rest = line.partition(mark)
                reason = rest.partition("]")[2] if "ignore" in mark else rest.partition("--")[2]
                assert not found or len(reason.strip()) > 3, f"{path.name}:{number}: {line}"
