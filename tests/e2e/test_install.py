"""docs/install.md and docs/air-gap.md, followed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from . import oci
from . import seed as names
from .conftest import StartMirror, Upstreams
from .daemon import Daemon, eventually, free_port, run
from .mirror_process import PROJECT
from .seed import Seed

GUIDE = (PROJECT / "docs/install.md").read_text(encoding="utf-8")
UNIT = PROJECT / "deploy/systemd/mirror.service"
FINE = 2.0
"""What `systemd-analyze security` calls OK, of 10."""


def steps(name: str) -> str:
    """Return the commands of a part of the guide."""
    (found,) = re.findall(rf"<!-- test: {name} -->\n```sh\n(.*?)```", GUIDE, re.DOTALL)
    return str(found)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a fresh clone, in which the guide begins."""
    if any(Path(path).exists() for path in ("/opt/mirror", "/etc/mirror", "/var/lib/mirror")):
        pytest.fail("a mirror is installed on this machine: it would be removed")
    run("git", "clone", "--quiet", PROJECT, tmp_path / "clone")
    return tmp_path / "clone"


def follow(name: str, clone: Path) -> None:
    run("sh", "-eu", "-c", f"cd '{clone}'\n{steps(name)}", seconds=300)


def test_a_machine_with_the_guide_has_a_mirror_and_then_has_none(
    clone: Path, tmp_path: Path
) -> None:
    accounts = Path("/etc/passwd").read_text(encoding="utf-8")
    try:
        follow("install", clone)
        follow("configure", clone)
        file = Path("/etc/mirror/mirror.yaml")
        # The tests' ports are not the guide's: others may have those.
        text = file.read_text(encoding="utf-8").replace("0.0.0.0:5000", f"127.0.0.1:{free_port()}")
        file.write_text(text.replace("127.0.0.1:5001", f"127.0.0.1:{free_port()}"), "utf-8")
        daemon = started(tmp_path / "service.log")
        try:
            eventually(lambda: is_ready(clone), "the mirror is ready")
        finally:
            assert daemon.stop() == 0, daemon.tail()
        assert not is_ready(clone)
    finally:
        follow("remove", clone)
    assert Path("/etc/passwd").read_text(encoding="utf-8") == accounts
    assert not any(
        Path(path).exists() for path in ("/opt/mirror", "/etc/mirror", "/var/lib/mirror")
    )


def started(log: Path) -> Daemon:
    """Start what the unit starts, as its user, where no systemd runs."""
    unit = dict(line.split("=", 1) for line in UNIT.read_text("utf-8").splitlines() if "=" in line)
    run("install", "-d", "-o", unit["User"], "-g", unit["Group"], "-m", "0700", "/var/lib/mirror")
    command = ["setpriv", f"--reuid={unit['User']}", f"--regid={unit['Group']}", "--clear-groups"]
    return Daemon("service", [*command, "--no-new-privs", *unit["ExecStart"].split()], log)


def is_ready(clone: Path) -> bool:
    done = subprocess.run(["sh", "-c", steps("ready")], cwd=clone, capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.parametrize("name", [UNIT.name, "mirror-node-agent.service"])
def test_a_unit_is_sound_and_allows_little(name: str, tmp_path: Path) -> None:
    unit = UNIT.with_name(name)
    if shutil.which("systemd-analyze") is None:
        pytest.fail("systemd-analyze is not there: run tests/e2e/install as root")
    said = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert float(exposure) <= FINE, said
    # It checks that the program is there, which a machine without Mirror does not have.
    here = tmp_path / unit.name
    here.write_text(unit.read_text("utf-8").replace("/opt/mirror/bin/mirror", "/bin/true"), "utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", here], capture_output=True, text=True, check=False
    )
    assert unit.name not in done.stderr, done.stderr


def test_the_compose_file_runs_the_image_as_it_is_meant() -> None:
    service = yaml.safe_load((PROJECT / "compose.yaml").read_text("utf-8"))["services"]["mirror"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["user"] == "65532:65532"
    assert [volume.partition(":")[2] for volume in service["volumes"]] == ["/var/lib/mirror"]


def test_a_cache_that_was_carried_in_serves_without_upstream(
    start_mirror: StartMirror, upstreams: Upstreams, seed: Seed
) -> None:
    image = seed.images[names.HELLO]
    manifest = f"/v2/{image.repository}/manifests/{image.tag}"
    blobs = []
    outside = start_mirror(upstreams.settings())
    told = outside.get(manifest)
    for each in [told.json()["config"], *told.json()["layers"]]:
        blobs.append(f"/v2/{image.repository}/blobs/{each['digest']}")
        assert outside.get(blobs[-1]).status == 200
    outside.stop()
    upstreams.stop()

    policy = re.findall(
        r"```yaml\n(.*?)```", (PROJECT / "docs/air-gap.md").read_text("utf-8"), re.DOTALL
    )[1]
    inside = start_mirror(upstreams.settings(), **yaml.safe_load(policy))
    inside.stop()
    shutil.rmtree(inside.cache)
    shutil.copytree(outside.cache, inside.cache)
    inside.cache.chmod(0o700)
    inside.start()
    again = inside.get(manifest)
    assert (again.status, oci.digest_of(again.body)) == (200, image.digest)
    for path in blobs:
        answer = inside.get(path)
        assert (answer.status, oci.digest_of(answer.body)) == (200, path.rpartition("/")[2])
