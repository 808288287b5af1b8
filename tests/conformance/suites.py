"""The two suites: how each is built, run, and judged."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# The new suite has no releases.  This commit is one that the Go proxy serves.
NEW = "github.com/opencontainers/distribution-spec/conformance"
NEW_VERSION = "v0.0.0-20260831232431-97274622c111"
GO_MINOR = 24  # the new suite's go.mod wants 1.24
# What ran when this was written.  Fewer means that a suite found nothing to do.
NEW_LEAST_PASSED = 18
SUITE_SECONDS = 120
COUNT = re.compile(r"^  (\w+)\.*: +(\d+)$", re.MULTILINE)


class SetupError(Exception):
    """The suites cannot be run here; the message says what to do."""


@dataclass(frozen=True)
class Content:
    """What is in the registry for the suites to find."""

    address: str
    repository: str
    empty_repository: str
    tag: str
    manifests: tuple[str, ...]
    blobs: tuple[str, ...]
    subject: str


@dataclass(frozen=True)
class Verdict:
    """How one run of one suite ended."""

    suite: str
    repository: str
    good: bool
    summary: str
    output: str


def cache_directory() -> Path:
    """Return where built suites are kept across runs."""
    named = os.environ.get("MIRROR_CONFORMANCE_CACHE")
    xdg = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(xdg) / "mirror-conformance"


def build_new(cache: Path) -> Path:
    """Return the program of the new suite."""
    program = cache / NEW_VERSION / "conformance"
    if not program.exists():
        command = ("install", f"{NEW}@{NEW_VERSION}")
        _go(*command, directory=Path.cwd(), environment={"GOBIN": str(program.parent)})
    return program


def run_new(program: Path, content: Content, results: Path) -> Verdict:
    """Run the new suite, read-only.

    Without pushing it always panics when it writes its report, after all tests
    and their summary: so what it prints is judged, never its exit code.
    """
    output = _run(
        program,
        results,
        {
            "OCI_REGISTRY": content.address,
            "OCI_TLS": "disabled",
            "OCI_REPO1": content.repository,
            "OCI_REPO2": content.empty_repository,
            # "dev" would miss a header that it can only know from a push.
            "OCI_VERSION": "1.1",
            "OCI_API_PUSH": "false",
            "OCI_API_TAGS_DELETE": "false",
            "OCI_API_MANIFESTS_DELETE": "false",
            "OCI_API_BLOBS_DELETE": "false",
            "OCI_RO_DATA_TAGS": content.tag,
            "OCI_RO_DATA_MANIFESTS": " ".join(content.manifests),
            "OCI_RO_DATA_BLOBS": " ".join(content.blobs),
            "OCI_RO_DATA_REFERRERS": content.subject,
            "OCI_RESULTS_DIR": str(results),
        },
    ).stdout
    result = re.search(r"OCI Conformance Result: (\w+)", output)
    counts = {name: int(count) for name, count in COUNT.findall(output)}
    good = (
        result is not None
        and result[1] == "Pass"
        and counts.get("Pass", 0) >= NEW_LEAST_PASSED
        and counts["FAIL"] == counts["Error"] == 0
    )
    summary = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return Verdict(f"new {NEW_VERSION[-12:]}", content.repository, good, summary, output)


def _run(
    program: Path, results: Path, settings: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    results.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in os.environ.items() if not _misleads(key)}
    return subprocess.run(
        [program],
        env={**kept, **settings},
        cwd=results,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SUITE_SECONDS,
        check=False,
    )


def _misleads(variable: str) -> bool:
    return variable.startswith("OCI_") or variable.lower().endswith("_proxy")


def _go(*command: str, directory: Path, environment: Mapping[str, str]) -> None:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise SetupError(f"needs Go 1.{GO_MINOR} or later: install it and put it on the PATH")
    version = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True)
    found = re.match(r"go1\.(\d+)", version.stdout)
    if found and int(found[1]) < GO_MINOR:
        raise SetupError(f"needs Go 1.{GO_MINOR} or later, but {go} is {version.stdout.strip()}")
    built = subprocess.run(
        [go, *command],
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode != 0:
        raise SetupError(f"go {' '.join(command)} failed:\n{built.stderr}")
