"""The admin API keeps its word: schemathesis makes requests of its own description."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.fakes.content import image, index
from tests.fakes.registry import FakeRegistry

from .conftest import StartMirror
from .loop_thread import LoopThread

EXAMPLES = 25
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
STREAMS = ("/api/v1/events", "/api/v1/prefetch/events")
"""They go on for as long as somebody listens."""


def test_the_api_is_as_it_says(
    loop_thread: LoopThread, start_mirror: StartMirror, tmp_path: Path
) -> None:
    hub = FakeRegistry()
    loop_thread.run(hub.__aenter__())
    hub.push("library/alpine", index([image(1), image(2, architecture="arm64")]), ["3.20"])
    try:
        mirror = start_mirror({"docker.io": {"endpoints": [hub.url]}})
        assert mirror.get("/v2/library/alpine/manifests/3.20").status == 200
        done = _fuzzed(f"{mirror.admin_url}/api/v1/openapi.json", tmp_path)
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert "Exception" not in mirror.log_text()
    finally:
        loop_thread.run(hub.__aexit__(None, None, None))


def _fuzzed(description: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            "run",
            description,
            f"--checks={','.join(CHECKS)}",
            f"--max-examples={EXAMPLES}",
            "--phases=examples,coverage,fuzzing",
            "--header=X-Mirror-CSRF:1",
            "--generation-deterministic",
            "--request-timeout=60",
            "--warnings=off",
            "--no-color",
            *(f"--exclude-path={path}" for path in STREAMS),
        ],
        cwd=directory,  # it keeps notes there
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
