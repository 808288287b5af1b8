"""Start a registry with content and a mirror before it, and run the suites."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import tempfile
from pathlib import Path

from tests.e2e import oci
from tests.e2e.daemon import free_port
from tests.e2e.mirror_process import Mirror
from tests.e2e.registry import Registry

from . import suites
from .pull import run_pull
from .suites import Content, SetupError, Verdict

REPOSITORY = "conformance/content"
EMPTY_REPOSITORY = "conformance/empty"
# The names of one repository: as docker asks for it, and as podman does.
PREFIXES = ("", "docker.io/")
REFERRER_KIND = "application/vnd.example.signature"


def main() -> int:
    """Run everything and return the exit code."""
    try:
        new = _prepare()
    except SetupError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="conformance-") as work:
        verdicts = _run_all(Path(work), new)
    _report(verdicts)
    return 0 if all(verdict.good for verdict in verdicts) else 1


def _prepare() -> Path:
    if shutil.which("docker-registry") is None:
        raise SetupError("needs docker-registry: run tests/e2e/install as root")
    cache = suites.cache_directory()
    return suites.build_new(cache)


def _run_all(work: Path, new: Path) -> list[Verdict]:
    registry = Registry(work / "registry", work / "storage", free_port())
    registry.start()
    try:
        content = _push_content(registry)
        mirror = Mirror(work / "mirror", {"docker.io": {"endpoints": [registry.url]}})
        mirror.start()
        try:
            return _run_suites(work, new, content, mirror)
        finally:
            mirror.stop()
    finally:
        registry.stop()


def _run_suites(work: Path, new: Path, content: Content, mirror: Mirror) -> list[Verdict]:
    verdicts = []
    for prefix in PREFIXES:
        seen = dataclasses.replace(
            content,
            address=f"127.0.0.1:{mirror.port}",
            repository=prefix + content.repository,
            empty_repository=prefix + content.empty_repository,
        )
        verdicts.append(suites.run_new(new, seen, work / "new"))
        verdicts.append(run_pull(seen))
    return verdicts


def _push_content(registry: Registry) -> Content:
    repository = oci.Repository(registry.url, REPOSITORY)
    layer = oci.random_layer(100_000)
    image = repository.push_image("v1", layer)
    for tag in ("v2", "v3", "v4"):
        repository.push_image(tag, oci.random_layer(1_000))
    referrer = repository.push_referrer(image, REFERRER_KIND, b"signed")
    return Content(
        address="",
        repository=REPOSITORY,
        empty_repository=EMPTY_REPOSITORY,
        tag="v1",
        manifests=(image["digest"], referrer["digest"]),
        blobs=(oci.digest_of(layer), oci.digest_of(b"{}")),
        subject=image["digest"],
    )


def _report(verdicts: list[Verdict]) -> None:
    for verdict in verdicts:
        if not verdict.good:
            print(f"--- {verdict.suite}, {verdict.repository}\n{verdict.output}")
    for verdict in verdicts:
        word = "pass" if verdict.good else "FAIL"
        print(f"{word}  {verdict.suite:<22} {verdict.repository:<32} {verdict.summary}")


if __name__ == "__main__":
    sys.exit(main())
