"""Over an air gap: images go from one mirror to another in a file, and every client pulls them."""

from __future__ import annotations

import json
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from .clients import CLIENTS, Client, Cri
from .conftest import StartClient, StartMirror, Upstreams, tool
from .daemon import free_port
from .mirror_process import COMMAND, PROJECT, Mirror
from .registry import Registry
from .seed import ARTIFACT, DOCKER_LIST, HELLO, MANY_LAYERS, MULTI, SECRET, Seed

IMAGES = (HELLO, MULTI, DOCKER_LIST, MANY_LAYERS)
PLATFORMS = ("--platform", "linux/amd64", "--platform", "linux/arm64")
OCI_IMAGES = (HELLO, MULTI, MANY_LAYERS)
"""What skopeo reads from an OCI layout: it knows no manifest list of Docker's there."""
NOWHERE = {
    "docker.io": {"endpoints": ["http://127.0.0.1:1"]},
    "private.example": {"endpoints": ["http://127.0.0.1:1"]},
}
CUTS = 30


def mirror_command(mirror: Mirror, *arguments: str | Path) -> list[str]:
    return [*COMMAND, *map(str, arguments), "--config", str(mirror.config)]


def told(mirror: Mirror, *arguments: str | Path) -> str:
    """Run a command of a mirror; returns what it says."""
    done = subprocess.run(
        mirror_command(mirror, *arguments),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def facts(mirror: Mirror, *arguments: str | Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(told(mirror, *arguments, "-o", "json"))
    return result


@pytest.fixture
def outside(start_mirror: StartMirror, upstreams: Upstreams) -> Mirror:
    """Return a mirror that has five images, one with a referrer, and one that is private."""
    mirror = start_mirror(upstreams.settings())
    told(mirror, "prefetch", *IMAGES, SECRET, *PLATFORMS)
    told(mirror, "prefetch", ARTIFACT, "--with-referrers")
    return mirror


def test_a_round_trip(
    outside: Mirror,
    upstreams: Upstreams,
    start_mirror: StartMirror,
    start_client: StartClient,
    seed: Seed,
    tmp_path: Path,
) -> None:
    file = tmp_path / "images.tar.zst"
    written = facts(outside, "cache", "export", "--all", file)
    assert written["private_left_out"] == 1
    upstreams.stop()
    outside.stop()

    inside = start_mirror(NOWHERE, policy={"mode": "offline"})
    done = facts(inside, "cache", "import", file)
    assert done["new_objects"] == written["objects"]
    assert facts(inside, "cache", "import", file)["new_objects"] == 0

    kinds: tuple[type[Client], ...] = (*CLIENTS, Cri)
    for kind in dict.fromkeys(kinds):
        client = start_client(kind, inside)
        for reference in IMAGES:
            image = seed.images[reference]
            client.wipe()
            assert image.digest in client.pull(image), (kind.name, reference)
    subject = seed.images[ARTIFACT]
    listed = inside.get(f"/v2/{subject.repository}/referrers/{subject.digest}").json()
    assert [each["digest"] for each in listed["manifests"]] == [seed.referrer]
    assert inside.get(f"/v2/{subject.repository}/manifests/{seed.referrer}").status == 200
    secret = seed.images[SECRET]
    path = f"/v2/private.example/{secret.repository}/manifests/{secret.tag}"
    assert inside.get(path).status == 404

    # The same content makes the same bytes, whichever mirror has it, and runs or not.
    inside.stop()
    again = tmp_path / "again.tar.zst"
    assert facts(inside, "cache", "export", "--all", again)["private_left_out"] == 0
    assert again.read_bytes() == file.read_bytes()


def test_only_the_difference_travels(
    outside: Mirror, start_mirror: StartMirror, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    told(outside, "cache", "export", HELLO, MULTI, first)
    inside = start_mirror(NOWHERE, policy={"mode": "offline"})
    told(inside, "cache", "import", first)
    inventory = tmp_path / "inventory.json"
    inventory.write_text(told(inside, "cache", "inventory"))
    whole = facts(outside, "cache", "export", "--all", tmp_path / "whole.tar")
    rest = facts(outside, "cache", "export", "--missing-in", inventory, second)
    print(f"\nall: {whole['file_bytes']} bytes, the difference: {rest['file_bytes']} bytes")
    assert rest["objects"] == whole["objects"]
    assert rest["carried_objects"] < whole["carried_objects"]
    assert facts(inside, "cache", "import", second)["new_objects"] == rest["carried_objects"]
    assert (
        facts(inside, "cache", "export", "--all", tmp_path / "there.tar")["objects"]
        == (whole["objects"])
    )
    assert (tmp_path / "there.tar").read_bytes() == (tmp_path / "whole.tar").read_bytes()


def test_other_programs_read_a_bundle(outside: Mirror, seed: Seed, tmp_path: Path) -> None:
    file = tmp_path / "images.tar"
    told(outside, "cache", "export", *OCI_IMAGES, file)
    for reference in OCI_IMAGES:
        where = f"oci-archive:{file}:{reference}"
        raw = subprocess.run(
            ["skopeo", "inspect", "--raw", where], capture_output=True, check=True, timeout=60
        )
        digest = subprocess.run(
            ["skopeo", "manifest-digest", "/dev/stdin"],
            input=raw.stdout,
            capture_output=True,
            check=True,
        )
        assert digest.stdout.decode().strip() == seed.images[reference].digest
        subprocess.run(["skopeo", "inspect", where], capture_output=True, check=True, timeout=60)
        target = tmp_path / reference.replace("/", "_").replace(":", "_")
        copy = ["skopeo", "copy", "--all", "--preserve-digests", where, f"dir:{target}"]
        subprocess.run(copy, capture_output=True, check=True, timeout=120)


def test_crane_finds_nothing_wrong(outside: Mirror, tmp_path: Path) -> None:
    """``crane validate`` wants a registry: crane pushes the layout there, and reads it again."""
    registry = Registry(tmp_path / "registry", tmp_path / "storage", free_port())
    registry.start()
    try:
        for number, reference in enumerate((HELLO, MULTI, MANY_LAYERS)):
            file, layout = tmp_path / f"{number}.tar", tmp_path / f"layout-{number}"
            told(outside, "cache", "export", reference, file)
            layout.mkdir()
            subprocess.run(["tar", "-xf", file, "-C", layout], check=True)
            name = f"{registry.url.removeprefix('http://')}/carried/{number}:v1"
            crane("push", "--index", str(layout), name)
            assert "PASS" in crane("validate", "--remote", name)
    finally:
        registry.stop()


def crane(*arguments: str) -> str:
    done = subprocess.run(
        [tool("crane"), "--insecure", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_an_import_that_is_killed_is_done_again(
    outside: Mirror, start_mirror: StartMirror, tmp_path: Path
) -> None:
    file, chance = tmp_path / "images.tar", random.Random(1)
    written = facts(outside, "cache", "export", "--all", file)
    inside = start_mirror(NOWHERE, policy={"mode": "offline"})
    inside.stop()
    seconds = 0.0
    states = set[int]()
    for cut in range(CUTS):
        began = time.monotonic()
        process = subprocess.Popen(
            mirror_command(inside, "cache", "import", file),
            cwd=PROJECT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            # The first one tells when things happen; it is killed as soon as they do.
            if cut == 0:
                while process.poll() is None and not objects(inside):
                    assert time.monotonic() < began + 60, "nothing is imported"
                    time.sleep(0.001)
                seconds = time.monotonic() - began
            else:  # at any moment of its life: nothing is waited for
                time.sleep(chance.uniform(0.5 * seconds, 1.3 * seconds))
        finally:
            process.kill()
            process.wait()
        states.add(objects(inside))
    print(f"\n{CUTS} cuts after up to {1.3 * seconds:.2f} s; objects then: {sorted(states)}")
    done = facts(inside, "cache", "import", file)
    assert done["objects"] == written["objects"]
    assert objects(inside) == written["objects"]
    assert len(states) > 1, "all were killed at the same point"
    told(inside, "cache", "verify")
    again = tmp_path / "again.tar"
    told(inside, "cache", "export", "--all", again)
    assert again.read_bytes() == file.read_bytes()


def objects(mirror: Mirror) -> int:
    """Return how many objects have their name."""
    return sum(1 for path in (mirror.cache / "blobs").glob("*/*/*") if path.is_file())
