"""More than the cache holds, read by many at once: no failed read, never above the bound.

``WORKING_SET=full`` takes 5 GB through 1 GB instead of 1.5 GB through 300 MB.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Final

from tests.crash.directory import Directory, Watch

from .bulk import REPOSITORY, Bulk, read_all
from .conftest import StartMirror
from .daemon import eventually
from .mirror_process import Mirror

MB: Final = 1_000_000
BLOB_BYTES: Final = 20 * MB
READERS: Final = 50
PROCESSES: Final = 2
READS_OF_EACH: Final = 3
NEIGHBOURS: Final = 60
"""How far apart the reads of one blob may be: some join its download, some come too late."""


@dataclass(frozen=True)
class Size:
    """How much there is, and how much the cache may hold."""

    blobs: int
    bound_bytes: int


def size() -> Size:
    if os.environ.get("WORKING_SET") == "full":
        return Size(250, 1000 * MB)
    return Size(75, 300 * MB)


def reads(digests: list[str]) -> list[str]:
    """Return each digest a few times, in random order but not far apart."""
    dice = random.Random(1)
    repeated = [one for one in digests for _ in range(READS_OF_EACH)]
    places = {at: at + dice.uniform(0, NEIGHBOURS) for at in range(len(repeated))}
    return [repeated[at] for at in sorted(places, key=places.__getitem__)]


def read_by_many(mirror: Mirror, wanted: list[str]) -> list[str]:
    """Read from several processes, so that the clients have more than one core."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=spawn) as pool:
        parts = [
            pool.submit(read_all, mirror.port, wanted[first::PROCESSES], READERS // PROCESSES)
            for first in range(PROCESSES)
        ]
        return [trouble for part in parts for trouble in part.result()]


def test_a_working_set_beyond_the_cache(start_mirror: StartMirror) -> None:
    chosen = size()
    with Bulk(chosen.blobs, BLOB_BYTES) as bulk:
        mirror = start_mirror({"docker.io": {"endpoints": [bulk.url]}})
        mirror.stop()
        mirror.configure(
            cache={
                "directory": str(mirror.cache),
                "max_size": chosen.bound_bytes,
                "min_free": "0B",
            }
        )
        mirror.start()
        directory = Directory(mirror.cache)
        watch = Watch(directory, every_seconds=0.05, limit_bytes=chosen.bound_bytes)
        started = time.monotonic()

        troubles = read_by_many(mirror, reads(bulk.digests))

        seconds = time.monotonic() - started
        watch.close()
        passed = mirror.get(f"/v2/{REPOSITORY}/blobs/{bulk.digests[0]}")
        eventually(lambda: mirror.metric("mirror_fills_in_progress") == 0, "all fills have ended")
        served_bytes = mirror.metric("mirror_client_bytes_total")
        fetched_bytes = mirror.metric("mirror_upstream_bytes_total")
    print(
        f"working set: {chosen.blobs * BLOB_BYTES // MB} MB through {chosen.bound_bytes // MB} MB"
        f" in {seconds:.0f} s: {served_bytes / MB:.0f} MB served, {fetched_bytes / MB:.0f} MB"
        f" fetched, peak {watch.peak_bytes / MB:.0f} MB in {watch.samples} samples"
    )
    assert troubles == []
    assert watch.excesses == []
    assert watch.peak_bytes > chosen.bound_bytes / 2
    assert passed.status == 200
    eventually(lambda: not directory.complaints(), "files, rows and totals agree")
