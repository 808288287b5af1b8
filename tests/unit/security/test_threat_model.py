"""The threat model names every case, and tests that exist; the waiver is for what is installed."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
TESTS = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
NAMES = {name for text in TESTS.values() for name in re.findall(r"def (test_\w+)\(", text)}
VEX = ROOT / "docs/mirror.openvex.json"


def row(case: int) -> str:
    (found,) = re.findall(rf"^\| S{case} \|.*$", PAGE, re.MULTILINE)
    return str(found)


@pytest.mark.parametrize("case", range(1, 21))
def test_each_case_names_its_tests_and_each_test_is_named(case: int) -> None:
    named = set(re.findall(r"`(test_\w+)`", row(case)))
    own = {name for name in NAMES if name.startswith(f"test_s{case:02}_")}
    assert own
    assert own <= named
    assert all(name.startswith("test_trap_") for name in named - own)


def test_every_test_and_file_that_the_page_names_exists() -> None:
    assert set(re.findall(r"`(test_\w+)`", PAGE)) <= NAMES
    for place in re.findall(r"`((?:unit|e2e)/[\w/]+\.py)`", PAGE):
        assert (ROOT / "tests" / place).is_file(), place


def test_the_waiver_is_for_the_version_that_is_installed() -> None:
    (statement,) = json.loads(VEX.read_text(encoding="utf-8"))["statements"]
    lock = (ROOT / "requirements/runtime.txt").read_text(encoding="utf-8")
    (version,) = re.findall(r"^diskcache==(\S+)", lock, re.MULTILINE)
    parts = {each["@id"] for product in statement["products"] for each in product["subcomponents"]}
    assert parts == {f"pkg:pypi/diskcache@{version}"}
    assert statement["vulnerability"]["name"] == "CVE-2025-69872"
    evidence = set(re.findall(r"test_\w+\b(?!\.py)", statement["impact_statement"]))
    assert evidence
    assert evidence <= NAMES
