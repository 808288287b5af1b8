"""``mirror prefetch``: what it takes images from, and what it says of them."""

import io
import json
import sys
from pathlib import Path

import pytest

from mirror.cli import image_sources, run
from mirror.cli.prefetch_report import Speed, image_text, job_text, summary_text
from mirror.service.prefetch_job import ImageProgress, ImageState, JobFacts, JobState
from tests.fakes.content import image, index
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, mirror_of
from tests.unit.cli.threads import in_thread

ONE, TWO = image(1), image(2, architecture="arm64")
JOB = JobFacts(
    id="1",
    state=JobState.RUNNING,
    origin="command",
    started_at=0,
    ended_at=None,
    platforms=("linux/amd64",),
    referrers=False,
    images=40,
    done=11,
    failed=1,
    skipped=0,
    total_bytes=300 * MIB,
    done_bytes=200 * MIB,
    fetched_bytes=150 * MIB,
    fetched_objects=1,
)


async def test_images_of_a_list_come_into_a_running_mirror(
    tmp_path: Path,
    upstream: FakeRegistry,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upstream.push("library/alpine", index([ONE, TWO]), ["v1"])
    upstream.push("team/app", TWO, ["v1"])
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        file = tmp_path / "mirror.yaml"
        file.write_text(f"server: {{admin_listen: '127.0.0.1:{mirror.up.admin_listen.port}'}}\n")
        wanted = ("prefetch", "-c", str(file), "--platform", "linux/arm64", "alpine:v1", "-f", "-")
        monkeypatch.setattr(sys, "stdin", io.StringIO("team/app:v1 # ours\n"))
        assert await in_thread(*wanted) == 0
        lines = capsys.readouterr().out.splitlines()
        assert "docker.io/library/alpine:v1  fetched 2.8 KiB of 2.8 KiB" in lines
        assert lines[-1].startswith("2 of 2 images here: 2.8 KiB fetched, ")
        monkeypatch.setattr(sys, "stdin", io.StringIO("team/app:v1\n"))
        assert await in_thread(*wanted, "no:v1", "-o", "json") == 1
        result = json.loads(capsys.readouterr().out)
    assert (result["job"]["done"], result["job"]["failed"]) == (2, 1)
    assert {each["image"]: each["state"] for each in result["images"]} == {
        "docker.io/library/alpine:v1": "done",
        "docker.io/team/app:v1": "done",
        "docker.io/library/no:v1": "failed",
    }


def test_without_a_mirror_it_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mirror.yaml"
    file.write_text("server: {admin_listen: '127.0.0.1:1'}\n")
    assert run(["prefetch", "-c", str(file), "alpine"]) == 1
    assert "this needs a running mirror: start it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "which images?"),
        (("-f", "-"), "no image is named there"),
        (("-f", "-", "--from-manifests", "-"), "can be read once only"),
        (("-f", "none.txt"), "none.txt: No such file"),
        (("--keep-quota", "20", "alpine"), "write for example 20%"),
    ],
)
def test_what_cannot_be_meant_is_explained(
    arguments: tuple[str, ...],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert run(["prefetch", *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_manifests_are_found_in_a_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/pod.yaml").write_text("spec: {containers: [{image: 'nginx:1'}]}\n---\n")
    (tmp_path / "list.json").write_text('{"items": [{"spec": {"image": "alpine:3"}}]}')
    (tmp_path / "chart.yml").write_text("image: {{ .Values.image }}\n  x: [\n")
    (tmp_path / "notes.txt").write_text("image: busybox\n")
    assert image_sources.from_manifests([str(tmp_path)]) == ["nginx:1", "alpine:3"]
    assert "chart.yml is left out: it is not YAML" in capsys.readouterr().err


def test_a_cluster_is_asked_by_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        "#!/bin/sh\n"
        '[ "$1 $2" = "--context=prod get" ] || exit 9\n'
        'case "$3" in\n'
        "nodes) echo 'it is not allowed' >&2; exit 1;;\n"
        '*) echo \'{"items": [{"spec": {"containers": [{"image": "nginx:1"}, '
        '{"image": "sha256:ab"}]}}]}\';;\n'
        "esac\n"
    )
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert image_sources.from_cluster("prod") == (["nginx:1"], ())


def test_how_far_it_is_is_said_with_speed_and_time_left() -> None:
    speed = Speed()
    for second in range(30):
        speed.note(second, second * 2 * MIB)
    assert speed.bytes_per_second == 2 * MIB
    assert job_text(JOB, speed) == "12 of 40 images, 200.0 MiB of 300.0 MiB, 2.0 MiB/s, 50s left"
    assert summary_text(JOB, 12.34) == (
        "11 of 40 images here, 1 failed: 150.0 MiB fetched, 1 object, linux/amd64, 12.3 s"
    )


@pytest.mark.parametrize(
    ("state", "objects", "error", "expected"),
    [
        (ImageState.DONE, 2, None, "a:1  fetched 1.0 MiB of 2.0 MiB"),
        (ImageState.DONE, 0, None, "a:1  was here, 2.0 MiB"),
        (ImageState.FAILED, 0, "no such thing", "a:1  failed: no such thing"),
        (ImageState.SKIPPED, 0, "few pulls", "a:1  skipped: few pulls"),
        (ImageState.CANCELLED, 0, None, "a:1  cancelled, 1.5 MiB of 2.0 MiB is here"),
    ],
)
def test_what_became_of_an_image(
    state: ImageState, objects: int, error: str | None, expected: str
) -> None:
    sizes = (2 * MIB, 3 * MIB // 2, MIB)
    assert image_text(ImageProgress("a:1", state, None, *sizes, objects, error)) == expected
