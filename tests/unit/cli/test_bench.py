"""``mirror bench``: a pull, measured through the mirror and beside it."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mirror as package
from mirror.cli.bench_command import measures_text
from mirror.cli.measuring import Measure, _result
from tests.fakes.content import image, index
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, mirror_of

ONE, TWO = image(1), image(2, architecture="arm64")
BOTH = index([ONE, TWO])


async def bench(directory: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mirror", "bench", *arguments),
        cwd=directory,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(package.__file__).parents[1]),
            "HOME": str(directory),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        written, complained = await process.communicate()
    assert process.returncode == code, written.decode() + complained.decode()
    return written.decode(), complained.decode()


async def test_a_pull_is_measured_through_the_mirror_and_beside_it(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    upstream.push("library/alpine", BOTH, ["v1"])
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        file = tmp_path / "mirror.yaml"
        file.write_text(
            f"server: {{listen: '127.0.0.1:{mirror.port}'}}\n"
            f"upstreams: {{docker.io: {{endpoints: ['{upstream.url}']}}}}\n"
        )
        told, _ = await bench(
            tmp_path, "-c", str(file), "alpine:v1", "--direct", "--runs", "2", "-o", "json"
        )
    result = json.loads(told)
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
