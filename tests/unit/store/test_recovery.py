"""Deleting or breaking ``index/`` costs time, never facts, and opens nothing private."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from mirror.settings import Credential, Upstream
from mirror.store.layout import Layout, LayoutError
from tests.fakes.auth import BasicGuard
from tests.fakes.content import blob, image, index
from tests.fakes.origin import Origin
from tests.fakes.registry import FakeRegistry
from tests.harness import Mirror, mirror_of

REPOSITORY = "library/alpine"


def delete(directory: Path) -> None:
    shutil.rmtree(directory)


def scribble(directory: Path) -> None:
    for path in directory.iterdir():
        path.write_bytes(b"this is no database" * 100)


def unmark(directory: Path) -> None:
    """Leave what a rebuild leaves that was killed at once: an index without its mark."""
    for path in directory.iterdir():
        path.unlink()


async def pull(mirror: Mirror, digests: list[str]) -> list[bytes]:
    bodies = [(await mirror.get(f"/v2/{REPOSITORY}/blobs/{digest}")).body for digest in digests]
    await mirror.settled()
    return bodies


@pytest.mark.parametrize("harm", [delete, scribble, unmark], ids=["delete", "scribble", "unmark"])
async def test_everything_is_served_offline_from_a_new_index(
    tmp_path: Path, upstream: FakeRegistry, harm: Callable[[Path], None]
) -> None:
    child = image(layers=3)
    parent = index([child])
    lonely = blob(5000)
    upstream.push(REPOSITORY, parent, tags=["v1"])
    upstream.push_blob(REPOSITORY, lonely)
    digests = [each.digest for each in child.blobs] + [lonely.digest]
    references = ["v1", parent.digest, child.digest]
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        for reference in references:
            await mirror.get(f"/v2/{REPOSITORY}/manifests/{reference}")
        bodies = await pull(mirror, digests)
        before = mirror.up.store.space.stored_bytes
    await upstream.go_down()
    harm(tmp_path / "cache" / "index")

    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        assert mirror.up.store.space.stored_bytes == before
        assert await pull(mirror, digests) == bodies
        for reference in references:
            got = await mirror.get(f"/v2/{REPOSITORY}/manifests/{reference}")
            assert got.status == 200
            assert got.headers["Content-Type"] in {parent.media_type, child.media_type}
        other = await mirror.get(f"/v2/library/other/blobs/{lonely.digest}")
        assert other.status == 502  # upstream would have to be asked


async def test_private_bytes_stay_private_in_a_new_index(tmp_path: Path) -> None:
    secret = image(layers=1)
    async with FakeRegistry() as private, FakeRegistry() as public:
        private.push("team/app", secret, tags=["v1"])
        private.guard = BasicGuard(users={"me": "canary"})
        account = Credential(username="me", password=SecretStr("canary"))
        upstreams: dict[str, Origin | str | Upstream] = {
            "docker.io": public,
            "private.example": Upstream(endpoints=(private.url,), credentials=(account,)),
        }
        path = f"blobs/{secret.layers[0].digest}"
        # The attacker's manifest names the private layer; its registry has the manifest only.
        public.push("evil/app", secret, tags=["v1"])
        public.delete_blob("evil/app", secret.layers[0].digest)
        async with mirror_of(tmp_path / "cache", upstreams) as mirror:
            assert (await mirror.get("/v2/private.example/team/app/manifests/v1")).status == 200
            assert (await mirror.get(f"/v2/private.example/team/app/{path}")).status == 200
            assert (await mirror.get("/v2/evil/app/manifests/v1")).status == 200
            await mirror.settled()
            assert (await mirror.get(f"/v2/evil/app/{path}")).status == 404
        delete(tmp_path / "cache" / "index")

        async with mirror_of(tmp_path / "cache", upstreams) as mirror:
            assert (await mirror.get(f"/v2/evil/app/{path}")).status == 404
            private.clear()
            assert (await mirror.get(f"/v2/private.example/team/app/{path}")).status == 200
            assert private.requests == []


async def test_a_half_written_reference_is_passed_over(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    pushed = image()
    upstream.push(REPOSITORY, pushed, tags=["v1"])
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        await mirror.get(f"/v2/{REPOSITORY}/manifests/v1")
    tags = tmp_path / "cache/refs/docker.io" / REPOSITORY / "_tags"
    (tags / "~v2").write_bytes(b'{"dig')
    (tags / "v3").write_bytes(b'{"dig')
    delete(tmp_path / "cache" / "index")

    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        upstream.clear()
        assert (await mirror.get(f"/v2/{REPOSITORY}/manifests/v1")).body == pushed.content
        assert upstream.count("GET") == 0


def test_a_directory_serves_one_mirror(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.prepare()
    with layout.lock(), pytest.raises(LayoutError, match="another mirror"):
        layout.lock()
    layout.lock().close()
