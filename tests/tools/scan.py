"""Runs checkov over what is delivered: ``make scan``. A finding that nobody has explained fails.

What it says and why that stays is a table of docs/security.md; a row for what checkov no longer
says fails, too. Needs helm and kustomize, as ``tests/e2e/install`` makes them.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from tests.e2e.conftest import tool
from tests.e2e.test_chart import CHART, VALUES

ROOT: Final = Path(__file__).parents[2]
_FINDING: Final = re.compile(r"CKV2?_[A-Z0-9]+_\d+")


def main(checkov: str) -> int:
    """Scan, tell, and return the exit code."""
    explained = set(_FINDING.findall((ROOT / "docs/security.md").read_text("utf-8")))
    with tempfile.TemporaryDirectory() as folder:
        _render(Path(folder))
        found = [*_found(checkov, "kubernetes", "-d", folder)]
        found += _found(checkov, "dockerfile", "-f", str(ROOT / "Dockerfile"))
    said = {check for check, _ in found}
    for check, where in sorted(set(found)):
        print(f"{'explained' if check in explained else 'UNEXPLAINED'} {check} {where}")  # noqa: T201 -- a report
    for check in sorted(explained - said):
        print(f"docs/security.md explains {check}, which checkov does not say")  # noqa: T201 -- as above
    return int(said != explained)


def _render(folder: Path) -> None:
    """Write every overlay, and the chart with every set of values of its tests."""
    agent = {"kind": "DaemonSet", "nodeAgent": {"enabled": True}}
    for name, values in {**VALUES, "node-agent": agent}.items():
        file = folder / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        helm = [str(tool("helm")), "template", "mirror", str(CHART), "--namespace", "cache"]
        more = ["--kube-version", "1.34.0", "--values", str(file)]
        (folder / f"chart-{name}.yaml").write_text(_output([*helm, *more]))
        file.unlink()
    for overlay in sorted((ROOT / "k8s/overlays").iterdir()):
        built = _output([str(tool("kustomize")), "build", str(overlay)])
        (folder / f"overlay-{overlay.name}.yaml").write_text(built)


def _found(checkov: str, framework: str, *what: str) -> Iterator[tuple[str, str]]:
    command = [checkov, "--framework", framework, *what, "--compact", "--quiet", "--soft-fail"]
    text = _output([*command, "--skip-download", "-o", "json"])
    reports: Any = json.loads(text)
    for report in reports if isinstance(reports, list) else [reports]:
        for each in report["results"]["failed_checks"]:
            yield each["check_id"], f"{each['check_name']}: {Path(each['file_path']).name}"


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 -- tools of the tests


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
