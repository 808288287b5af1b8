"""What an operation costs in system calls and bytes: a guard that no slow machine can trip.

Measured by strace on a running mirror. The bounds are about twice what was found when they were
set, so that they speak of another way of doing things and not of the weather.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.bench import client, requests, servers
from tests.bench.servers import Server
from tests.fakes.tls import write_pair

from . import oci
from .daemon import eventually

_MIB: Final = 1 << 20
_BLOB_BYTES: Final = 64_000_000
_HITS: Final = 1000
_MANY: Final = 100
_SMALL_BYTES: Final = 500_000
_REPOSITORY: Final = "library/costs"
_ROW: Final = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", re.MULTILINE)


@dataclass(frozen=True)
class Stage:
    """A mirror, and what is behind it."""

    mirror: Server
    secure: Server
    blob: str
    manifest: str
    size_bytes: int
    many: list[str]
    work: Path

    def counted(self, work: Callable[[], object], server: Server | None = None) -> Counter[str]:
        """Return the system calls that the mirror makes while *work* is done."""
        server = server or self.mirror
        table = self.work / "strace"
        tracer = subprocess.Popen(
            ["strace", "-f", "-c", "-o", table, "-p", str(server.processes()[0])],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert tracer.stderr is not None
        assert "attached" in tracer.stderr.readline()
        work()
        server.wait_until_quiet()
        tracer.send_signal(signal.SIGINT)
        tracer.communicate()
        text = table.read_text(encoding="ascii")
        return Counter({name: int(count) for count, name in _ROW.findall(text) if name != "total"})


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    work = tmp_path_factory.mktemp("costs")
    layer = oci.random_layer(_BLOB_BYTES)
    many = [os.urandom(_SMALL_BYTES) for _ in range(_MANY)]
    with servers.registry(work / "origin") as origin:
        repository = oci.Repository(origin.url, _REPOSITORY)
        pushed = repository.push_image("v1", layer)
        for content in many:
            repository.push_blob(oci.LAYER, content)
        certificate = servers.Certificate(*write_pair(work))
        secure = servers.mirror(work / "secure", upstream=origin.url, certificate=certificate)
        with servers.mirror(work / "mirror", upstream=origin.url) as mirror, secure:
            url = f"{mirror.url}/v2/{_REPOSITORY}"
            eventually(lambda: oci.request(f"{mirror.admin_url}/readyz").status == 200, "ready")
            requests.ask_times(f"{url}/manifests/{pushed['digest']}", oci.MANIFEST, 10)
            mirror.wait_until_quiet()  # what is written once after the start is of no operation
            yield Stage(
                mirror,
                secure,
                f"{url}/blobs/{oci.digest_of(layer)}",
                f"{url}/manifests/{pushed['digest']}",
                len(layer),
                [f"{url}/blobs/{oci.digest_of(content)}" for content in many],
                work,
            )


def test_a_download_costs_few_calls_and_each_byte_is_written_twice(stage: Stage) -> None:
    """To the disk and to the client; it is received without a copy in between."""
    before = stage.mirror.written_bytes()
    calls = stage.counted(lambda: client.download(stage.blob, 1))
    mib = stage.size_bytes / _MIB
    assert calls["pwrite64"] / mib < 6, calls
    assert calls["recvfrom"] / mib < 8, calls
    assert sum(calls.values()) / mib < 120, calls
    written_bytes = stage.mirror.written_bytes() - before
    assert written_bytes < 2.05 * stage.size_bytes


def test_many_small_blobs_share_what_they_cost(stage: Stage) -> None:
    """A file and a reference for each, and no sidecar; the index is written for all together."""
    calls = stage.counted(lambda: client.download_all(stage.many))
    assert calls["fsync"] / _MANY < 6.5, calls  # each of the first has a directory to be made, too
    assert calls["fdatasync"] / _MANY < 1, calls
    assert calls["rename"] / _MANY < 4, calls
    assert calls["unlink"] / _MANY < 0.5, calls
    assert calls["openat"] / _MANY < 8, calls
    assert calls["pwrite64"] / _MANY < 20, calls


def test_a_stored_blob_costs_a_few_calls_for_each_mebibyte(stage: Stage) -> None:
    client.download(stage.blob, 1)
    before = stage.mirror.written_bytes()
    calls = stage.counted(lambda: client.download(stage.blob, 1))
    mib = stage.size_bytes / _MIB
    assert sum(calls.values()) / mib < 16, calls
    assert calls["futex"] / mib < 1, "threads are woken for each slice"
    # The watch of the event loop reads what the kernel counts, some twenty times a second.
    assert (calls["read"] + calls["pread64"]) / mib < 1, "bytes pass through the process"
    assert stage.mirror.written_bytes() - before < 1.02 * stage.size_bytes


def test_over_tls_a_stored_blob_costs_few_calls_and_the_loop_is_not_woken_for_each(
    stage: Stage,
) -> None:
    """Read and send pieces of 256 KiB, in threads that go on until the socket is full."""
    url = stage.blob.replace(stage.mirror.url, stage.secure.url)
    client.download(url, 1, stage.size_bytes)
    client.download(url, 1, stage.size_bytes)
    calls = stage.counted(lambda: client.download(url, 1, stage.size_bytes), stage.secure)
    mib = stage.size_bytes / _MIB
    reads = sum(calls[name] for name in ("preadv", "preadv2", "pread64"))
    assert reads / mib < 8, calls
    assert (calls["write"] + calls["sendto"]) / mib < 9, calls
    assert calls["epoll_wait"] / mib < 3, calls
    assert sum(calls.values()) / mib < 30, calls


def test_a_hot_manifest_costs_no_thread_and_no_disk(stage: Stage) -> None:
    calls = stage.counted(
        lambda: requests.ask_times(stage.manifest, oci.MANIFEST, _HITS),
    )
    assert sum(calls.values()) / _HITS < 12, calls
    assert calls["futex"] / _HITS < 0.2, "a thread is woken for each request"
    disk = sum(calls[name] for name in ("pwrite64", "fdatasync", "fsync", "openat", "pread64"))
    assert disk / _HITS < 0.1, calls
