"""Many readers of one uncached blob cost upstream one download."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from . import seed as names
from .clients import Containerd, Skopeo
from .conftest import StartClient, Upstreams
from .daemon import CommandError, eventually
from .download import Download, Got, begin, piece
from .mirror_process import Mirror
from .registry import Registry
from .seed import Image, Seed

READERS = 32
PIECES = 64
READ_IT = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1]).read()"


def blob_url(mirror: Mirror, image: Image) -> str:
    return f"{mirror.url}/v2/{image.repository}/blobs/{image.last_layer}"


def test_32_readers_a_late_one_and_a_killed_one_share_one_download(
    mirror: Mirror, upstreams: Upstreams, seed: Seed
) -> None:
    image = seed.images[names.BIG]
    url = blob_url(mirror, image)
    hold = upstreams.plain.hold(image.last_layer, image.last_layer_bytes // 2)

    with (
        subprocess.Popen([sys.executable, "-c", READ_IT, url]) as victim,
        ThreadPoolExecutor(READERS + 1) as pool,
    ):
        assert hold.reached.wait(60)
        running = begin(pool, url, READERS)
        victim.kill()
        running += begin(pool, url, 1)
        hold.release()
        got = [future.result() for _, future in running]

    assert len(got) == READERS + 1
    assert all(one.complete for one in got)
    assert {one.digest for one in got} == {image.last_layer}
    assert len(upstreams.plain.blob_gets(image.last_layer)) == 1
    assert upstreams.plain.blob_bytes(image.last_layer) == image.last_layer_bytes


def test_64_open_ended_ranges_share_one_download(
    mirror: Mirror, upstreams: Upstreams, seed: Seed, plain_registry: Registry
) -> None:
    image = seed.images[names.RANGES]
    content = plain_registry.blob_file(image.last_layer).read_bytes()
    size = -(-len(content) // PIECES)
    starts = range(0, len(content), size)

    with ThreadPoolExecutor(PIECES) as pool:
        url = blob_url(mirror, image)
        pieces = list(pool.map(lambda start: piece(url, start, size), starts))

    assert b"".join(pieces) == content
    eventually(mirror.blob_file(image.last_layer).exists, "the download has ended")
    assert upstreams.plain.blob_bytes(image.last_layer) <= 1.05 * len(content)


def test_a_flipped_bit_reaches_nobody_as_a_whole_blob(
    mirror: Mirror, upstreams: Upstreams, seed: Seed, start_client: StartClient
) -> None:
    image = seed.images[names.FLIP]
    upstreams.plain.flip(image.last_layer)

    with ThreadPoolExecutor(8) as pool:
        running = begin(pool, blob_url(mirror, image), 8)
        got = [future.result() for _, future in running]
    clients = [start_client(kind, mirror) for kind in (Containerd, Skopeo)]
    for client in clients:
        with pytest.raises(CommandError):
            client.pull(image)

    assert not any(one.complete for one in got)
    assert not mirror.blob_file(image.last_layer).exists()
    attempts = len(upstreams.plain.blob_gets(image.last_layer))
    assert mirror.metric("mirror_digest_mismatches_total") == attempts > 0

    upstreams.plain.mend()
    for client in clients:
        client.wipe()
        assert image.digest in client.pull(image)


def test_a_killed_mirror_comes_back_and_finishes(
    mirror: Mirror, upstreams: Upstreams, seed: Seed
) -> None:
    image = seed.images[names.RANGES]

    got = download_over_a_kill(mirror, upstreams, image)

    assert got.complete
    assert got.digest == image.last_layer


def test_a_killed_mirror_goes_on_where_it_was(
    mirror: Mirror, upstreams: Upstreams, seed: Seed
) -> None:
    image = seed.images[names.RANGES]

    download_over_a_kill(mirror, upstreams, image)

    before, after = upstreams.plain.blob_gets(image.last_layer)
    assert (before.status, after.status) == (200, 206)
    assert after.sent_bytes < 0.75 * image.last_layer_bytes


def download_over_a_kill(mirror: Mirror, upstreams: Upstreams, image: Image) -> Got:
    """Kill the mirror in the middle of a download, start it again, and download again."""
    url = blob_url(mirror, image)
    hold = upstreams.plain.hold(image.last_layer, image.last_layer_bytes // 2)
    with ThreadPoolExecutor(1) as pool:
        [(_, cut)] = begin(pool, url, 1)
        assert hold.reached.wait(60)
        mirror.kill()
        assert not cut.result().complete
    hold.release()
    mirror.start()
    return Download(url).run()


def test_a_download_that_nobody_waits_for_is_finished(
    mirror: Mirror, upstreams: Upstreams, seed: Seed
) -> None:
    image = seed.images[names.FLIP]

    piece(blob_url(mirror, image), 0, 1)
    eventually(mirror.blob_file(image.last_layer).exists, "the download has ended")
    got = Download(blob_url(mirror, image)).run()

    assert got.complete
    assert got.digest == image.last_layer
    assert len(upstreams.plain.blob_gets(image.last_layer)) == 1
