"""Names of upstreams are looked up in threads of their own."""

from pathlib import Path

from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.unit.upstream.pulling import REPOSITORY, manifest, mirrored, pull

IMAGE = image()


async def test_a_name(tmp_path: Path, upstream: FakeRegistry) -> None:
    upstream.push(REPOSITORY, IMAGE, tags=["v1"])
    async with mirrored(tmp_path, f"http://localhost:{upstream.port}") as mirror:
        await pull(mirror, IMAGE)
    assert upstream.requests[0].host == f"localhost:{upstream.port}"


async def test_a_name_that_is_none(tmp_path: Path) -> None:
    async with mirrored(tmp_path, "http://registry.invalid") as mirror:
        got = await mirror.get(manifest())
    assert (got.status, got.error_code) == (502, "UNKNOWN")
    assert b"registry.invalid" in got.body
