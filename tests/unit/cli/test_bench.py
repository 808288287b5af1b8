"""``mirror bench``: a pull, measured through the mirror and beside it."""

import json
from pathlib import Path

import pytest

from mirror.cli.bench_command import measures_text
from mirror.cli.measuring import Measure, _result
from tests.fakes.content import image, index
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, mirror_of
from tests.unit.cli.threads import in_thread

ONE, TWO = image(1), image(2, architecture="arm64")
BOTH = index([ONE, TWO])


async def test_a_pull_is_measured_through_the_mirror_and_beside_it(
    tmp_path: Path, upstream: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream.push("library/alpine", BOTH, ["v1"])
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        file = tmp_path / "mirror.yaml"
        file.write_text(
            f"server: {{listen: '127.0.0.1:{mirror.port}'}}\n"
            f"upstreams: {{docker.io: {{endpoints: ['{upstream.url}']}}}}\n"
        )
        arguments = ["-c", str(file), "alpine:v1", "--direct", "--runs", "2", "-o", "json"]
        assert await in_thread("bench", *arguments) == 0
    result = json.loads(capsys.readouterr().out)
    first, second = result["runs"]
    wanted = [BOTH.digest, ONE.digest, *(each.digest for each in ONE.blobs)]
    for measures in (first, second, result["direct"]):
        assert [each["digest"] for each in measures] == wanted
        assert [each["what"] for each in measures] == [
            *("index", "manifest", "config", "layer 1", "layer 2")
        ]
        assert all(0 < each["first_byte_seconds"] <= each["seconds"] for each in measures)
    assert [each["size_bytes"] for each in first[2:]] == [each.size_bytes for each in ONE.blobs]
    assert {each["result"] for each in first} == {"miss"}
    assert {each["result"] for each in second} <= {"hit", "joined"}
    blob = ONE.layers[0].digest
    assert sum(each.reference == blob and each.method == "GET" for each in upstream.requests) == 2


@pytest.mark.parametrize(
    ("cache_status", "word"),
    [
        ("mirror; hit; ttl=531", "hit"),
        ("mirror; fwd=uri-miss; stored", "miss"),
        ("mirror; fwd=uri-miss; collapsed", "joined"),
        ("mirror; fwd=stale; fwd-status=200", "revalidated"),
        ("mirror; hit; ttl=-30; detail=timeout", "stale"),
        ("mirror; fwd=uri-miss; detail=passthrough", "passthrough"),
        ("", "?"),
    ],
)
def test_results_are_those_of_cache_status(cache_status: str, word: str) -> None:
    assert _result(cache_status) == word


def test_the_table_has_both_side_by_side() -> None:
    slow = Measure("layer 1", "sha256:" + "a" * 64, 2 * MIB, "miss", 0.05, 2.0)
    direct = Measure("layer 1", "sha256:" + "a" * 64, 2 * MIB, "direct", 0.1, 4.0)
    head, line, total = measures_text([slow], [direct]).splitlines()
    assert head.split()[:4] == ["DIGEST", "SIZE", "RESULT", "FIRST"]
    assert "2.0 MiB  miss       50.0 ms  2.00 s  1.0 MB/s" in line
    assert line.split()[-6:] == ["100.0", "ms", "4.00", "s", "0.5", "MB/s"]
    assert total.split()[:3] == ["total", "2.0", "MiB"]
    assert total.endswith("4.00 s  0.5 MB/s")
