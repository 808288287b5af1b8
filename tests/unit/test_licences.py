"""The licences of what is shipped are known, and the list of them is true."""

import subprocess
import sys
from email.message import Message
from importlib.metadata import Distribution
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy"))
import licences

ROOT = Path(__file__).parents[2]


def test_the_list_is_true_and_every_licence_is_accepted() -> None:
    command = [sys.executable, "deploy/licences.py", "requirements/otel.txt"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 -- ours
    assert done.stderr == ""
    assert done.returncode == 0
    written = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    remedy = "run `python deploy/licences.py requirements/otel.txt > docs/licences.md`"
    assert _rows(done.stdout) <= _rows(written), remedy
    assert written.startswith(licences.INTRO)


def _rows(text: str) -> set[str]:
    return {line for line in text.splitlines() if line.startswith("| ")}


def package(**fields: str) -> Distribution:
    metadata = Message()
    metadata["Name"] = "thing"
    for name, value in fields.items():
        metadata[name.replace("_", "-")] = value
    return cast("Distribution", SimpleNamespace(metadata=metadata))


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"License_Expression": "MIT OR Apache-2.0"}, "MIT OR Apache-2.0"),
        ({"Classifier": "License :: OSI Approved :: MIT License"}, "MIT"),
        ({"License": "Apache-2.0"}, "Apache-2.0"),
        ({"License": "3-Clause BSD License"}, "BSD-3-Clause"),
        ({"License": "Some words about it"}, ""),
        ({}, ""),
    ],
)
def test_what_a_package_says(fields: dict[str, str], found: str) -> None:
    assert licences.licence(package(**fields)) == found


@pytest.mark.parametrize("expression", ["", "GPL-3.0-only", "MIT AND GPL-3.0-only", "Proprietary"])
def test_what_is_not_accepted(expression: str) -> None:
    assert not licences.is_accepted(expression)
    _, unknown = licences.listed([package(License_Expression=expression)])
    assert unknown == ["thing"]
