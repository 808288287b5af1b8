"""Files and rows that a broken disk has filled with anything: never an obstacle to the start."""

import io
from pathlib import Path

import msgspec
import pytest

from mirror.store.inventory import platform_of
from mirror.store.refs import TagRef, read_ref
from mirror.store.sidecar import read_sidecar, sidecar_path
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.harness import mirror_of

JUNK = [b"", b"\0" * 100, b"\xff\xfe", b'{"digest": "\xff\xff"}', b'{"x": ' + b"[" * 5000, b"[]"]


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: junk[:12].hex())
def test_a_file_that_cannot_be_read_is_as_good_as_none(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(junk)
    sidecar_path(path).write_bytes(junk)
    assert read_ref(path, TagRef) is None
    assert read_sidecar(path) is None
    assert platform_of(junk) is None


async def test_a_mirror_starts_on_what_a_broken_disk_left(
    tmp_path: Path, upstream: FakeRegistry, log_lines: io.StringIO
) -> None:
    """Found by `make fuzz`: a byte that is not UTF-8 in a reference stopped the start."""
    pushed = image()
    upstream.push("library/alpine", pushed, tags=["v1", "v2"])
    cache = tmp_path / "cache"
    async with mirror_of(cache, {"docker.io": upstream}) as mirror:
        for tag in ("v1", "v2"):
            await mirror.get(f"/v2/library/alpine/manifests/{tag}")
        await mirror.pull_blobs("library/alpine", pushed)
    refs = cache / "refs/docker.io/library/alpine"
    (refs / "_tags/v1").write_bytes(msgspec.json.encode({"digest": "x"}).replace(b"x", b"\xff"))
    (cache / "pins.json").write_bytes(b'[{"image": "\xff')
    for path in (cache / "index").iterdir():
        path.unlink()
    async with mirror_of(cache, {"docker.io": "http://127.0.0.1:1"}) as mirror:
        kept = await mirror.get("/v2/library/alpine/manifests/v2")
        lost = await mirror.get("/v2/library/alpine/manifests/v1")
    assert kept.body == pushed.content
    assert lost.status == 502
    assert (cache / "pins.unreadable").exists()
    assert "the pins cannot be read" in log_lines.getvalue()
