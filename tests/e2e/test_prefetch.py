"""``mirror prefetch`` with a real registry: what it has fetched is pulled without any upstream."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from .clients import Podman, Skopeo
from .conftest import StartClient, StartMirror, Upstreams
from .daemon import eventually
from .mirror_process import COMMAND, PROJECT, Mirror
from .seed import ARTIFACT, BIG, DOCKER_LIST, HELLO, MANY_LAYERS, MULTI, SECRET, Seed

IMAGES = (HELLO, MULTI, DOCKER_LIST, MANY_LAYERS, SECRET)


def prefetch(mirror: Mirror, *arguments: str, given: str = "") -> dict[str, Any]:
    """Prefetch with a command of its own; returns what it says."""
    command = [*COMMAND, "prefetch", "--config", str(mirror.config), "-o", "json", *arguments]
    done = subprocess.run(
        command, cwd=PROJECT, input=given, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_what_is_prefetched_is_pulled_without_upstream(
    start_mirror: StartMirror,
    upstreams: Upstreams,
    seed: Seed,
    start_client: StartClient,
) -> None:
    mirror = start_mirror(upstreams.settings())
    platforms = ("--platform", "linux/amd64", "--platform", "linux/arm64")  # skopeo copies both
    result = prefetch(mirror, "-f", "-", *platforms, given="\n".join(IMAGES))
    assert result["job"]["done"] == len(IMAGES)
    artifact = prefetch(mirror, ARTIFACT, "--with-referrers")
    assert artifact["job"]["fetched_objects"] > 0

    upstreams.plain.forget()
    again = prefetch(mirror, *IMAGES, *platforms)
    assert again["job"]["fetched_bytes"] == 0
    assert upstreams.plain.object_gets() == []

    upstreams.stop()
    for kind in (Skopeo, Podman):
        client = start_client(kind, mirror)
        for reference in (HELLO, MULTI, DOCKER_LIST, MANY_LAYERS):
            image = seed.images[reference]
            client.wipe()
            assert image.digest in client.pull(image), (kind.name, reference)
    subject = seed.images[ARTIFACT]
    listed = mirror.get(f"/v2/{subject.repository}/referrers/{subject.digest}").json()
    assert [each["digest"] for each in listed["manifests"]] == [seed.referrer]
    assert mirror.get(f"/v2/{subject.repository}/manifests/{seed.referrer}").status == 200


def test_an_interrupted_prefetch_goes_on(
    start_mirror: StartMirror, upstreams: Upstreams, seed: Seed, tmp_path: Path
) -> None:
    mirror = start_mirror(upstreams.settings(), fill={"abandon": "stop"})
    image = seed.images[BIG]
    hold = upstreams.plain.hold(image.last_layer, image.last_layer_bytes // 2)
    # A shell starts what it puts into the background with this signal ignored.
    default = ("env", "--default-signal=INT")
    command = [*default, *COMMAND, "prefetch", "--config", str(mirror.config), BIG]
    with (tmp_path / "said").open("w+") as said:
        running = subprocess.Popen(command, cwd=PROJECT, stdout=said, stderr=said)
        half = image.last_layer_bytes // 2
        eventually(
            lambda: upstreams.plain.blob_bytes(image.last_layer) >= half,
            "half of the layer has come",
            seconds=120,
        )
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
        said.seek(0)
        assert "the same command goes on from here" in said.read()
    hold.release()
    result = prefetch(mirror, BIG)
    assert result["job"]["state"] == "done"
    assert result["job"]["fetched_bytes"] < 0.6 * image.last_layer_bytes
    assert upstreams.plain.blob_bytes(image.last_layer) < 1.1 * image.last_layer_bytes
