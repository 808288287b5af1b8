"""A digest is not a capability (S9, invariant 12): links decide, bytes are shared."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mirror.domain.names import Digest
from mirror.settings import Upstream
from mirror.settings.upstreams import Credential
from mirror.store.store import Store
from tests.fakes.auth import BasicGuard
from tests.fakes.content import OCI_MANIFEST, Blob, artifact, blob, image
from tests.fakes.origin import Origin
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, Mirror, mirror_of
from tests.unit.web.wire import blob_path, manifest_path

IMAGE = image()
LAYER = IMAGE.layers[0]
A, B = "team/a", "team/b"


async def pull(mirror: Mirror, repository: str) -> None:
    await mirror.get(manifest_path("v1", repository))
    for each in IMAGE.blobs:
        await mirror.get(blob_path(each.digest, repository))
    await mirror.settled()


async def test_s09_another_repository_has_to_ask(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.push(A, IMAGE, ["v1"])
    upstream.push("team/other", image(7), ["v1"])
    await pull(mirror, A)

    for path in (blob_path(LAYER.digest, B), manifest_path(IMAGE.digest, B)):
        for got in (
            await mirror.get(path),
            await mirror.head(path),
            await mirror.get(path, {"Range": "bytes=0-9"}),
            await mirror.get(path, {"If-None-Match": "*"}),
        ):
            assert got.status == 404
    upstream.push(B, image(8), ["v1"])
    upstream.push_blob(B, LAYER)
    upstream.clear()
    assert (await mirror.get(blob_path(LAYER.digest, B))).body == LAYER.content
    assert (await mirror.get(blob_path(LAYER.digest, B))).body == LAYER.content
    assert [each.method for each in upstream.requests] == ["HEAD"]


async def test_a_manifest_links_its_config_and_layers_without_asking(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push(A, IMAGE, ["v1"])
    upstream.push(B, IMAGE, ["v1"])
    await pull(mirror, A)
    await mirror.get(manifest_path("v1", B))
    upstream.clear()

    for each in IMAGE.blobs:
        assert (await mirror.get(blob_path(each.digest, B))).body == each.content
    assert not upstream.requests


async def test_s09_foreign_layers_and_subjects_link_nothing(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push(A, IMAGE, ["v1"])
    await pull(mirror, A)
    referring = artifact(IMAGE)
    foreign = json.loads(IMAGE.content)
    for each in foreign["layers"]:
        each["urls"] = ["https://elsewhere.example/layer"]
    upstream.push(B, referring, ["referring"])
    upstream.put_manifest(B, "foreign", json.dumps(foreign).encode(), OCI_MANIFEST)
    for tag in ("referring", "foreign"):
        assert (await mirror.get(manifest_path(tag, B))).status == 200
    upstream.clear()

    assert (await mirror.get(manifest_path(IMAGE.digest, B))).status == 404
    assert (await mirror.get(blob_path(LAYER.digest, B))).status == 404
    assert {each.repository for each in upstream.requests} == {B}
    # Its config is no foreign layer.
    assert (await mirror.get(blob_path(IMAGE.config.digest, B))).body == IMAGE.config.content


async def test_who_has_no_link_does_not_board_what_another_began(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    pushed = blob(4 * MIB)
    upstream.push_blob(A, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=MIB)
    first = asyncio.create_task(mirror.get(blob_path(pushed.digest, A)))
    await gate.reached.wait()

    other = await mirror.get(blob_path(pushed.digest, B))
    gate.release()

    assert other.status == 404
    assert (await first).body == pushed.content


async def test_many_who_begin_at_once_get_only_what_they_may(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    for seed in range(20):
        pushed = blob(1000, seed)
        upstream.push_blob(A, pushed)
        names = [B, A, B, A] if seed % 2 else [A, B, A, B]
        asking = [mirror.get(blob_path(pushed.digest, name)) for name in names]
        answers = await asyncio.gather(*asking)
        for name, got in zip(names, answers, strict=True):
            assert got.status == (200 if name == A else 404), (seed, names)


async def test_who_looked_before_the_bytes_were_there_has_to_ask(
    mirror: Mirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = blob(1000)
    upstream.push_blob(A, pushed)
    await mirror.get(blob_path(pushed.digest, A))
    await mirror.settled()

    async def as_it_was(self: Store, digest: Digest, scope: str) -> bool:
        """Answer as the moment before the fill of the other repository was committed."""
        return False

    monkeypatch.setattr(Store, "has", as_it_was)

    assert (await mirror.get(blob_path(pushed.digest, B))).status == 404
    assert (await mirror.get(blob_path(pushed.digest, A))).body == pushed.content


# --- credentials -----------------------------------------------------------------------------


@asynccontextmanager
async def guarded() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as registry:
        registry.guard = BasicGuard(users={"me": "s3cr3t"})
        yield registry


def with_account(registry: FakeRegistry, *repositories: str) -> Upstream:
    account = Credential(username="me", password="s3cr3t", repositories=repositories or ("**",))
    return Upstream(endpoints=(registry.url,), credentials=(account,))


async def test_s09_bytes_fetched_with_credentials_stay_with_their_upstream(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    async with guarded() as private:
        private.push(A, IMAGE, ["v1"])
        upstream.push(A, IMAGE, ["v1"])
        both: dict[str, Origin | str | Upstream] = {
            "ghcr.io": with_account(private),
            "docker.io": upstream,
        }
        async with mirror_of(tmp_path / "cache", both, default_upstream="ghcr.io") as mirror:
            await pull(mirror, A)
            public = f"docker.io/{A}"
            assert (await mirror.get(manifest_path("v1", public))).body == IMAGE.content
            assert (await mirror.get(blob_path(LAYER.digest, public))).body == LAYER.content
            assert (await mirror.get(blob_path(LAYER.digest, f"docker.io/{B}"))).status == 404

    # They were not taken from where the credential had brought them.
    assert upstream.count("GET", "manifest", A) == upstream.count("GET", "blob", A) == 1


async def test_with_credentials_a_manifest_only_allows_asking(tmp_path: Path) -> None:
    async with guarded() as private:
        private.push(A, IMAGE, ["v1"])
        private.push(B, IMAGE, ["v1"])
        async with mirror_of(tmp_path / "cache", {"ghcr.io": with_account(private)}) as mirror:
            await pull(mirror, A)
            await mirror.get(manifest_path("v1", B))
            for each in IMAGE.blobs:
                private.delete_blob(B, each.digest)
            private.clear()

            assert (await mirror.get(blob_path(LAYER.digest, B))).status == 404
            assert (await mirror.head(blob_path(LAYER.digest, B))).status == 404
            assert {each.repository for each in private.requests} == {B}

            private.push_blob(B, LAYER)
            private.clear()
            for _ in range(2):
                got = await mirror.get(blob_path(LAYER.digest, B))
                assert got.body == LAYER.content
            assert [each.method for each in private.requests] == ["HEAD"]


@pytest.mark.parametrize("wanted", [LAYER, IMAGE], ids=["blob", "manifest"])
async def test_a_repository_without_the_credential_has_its_own_scope(
    tmp_path: Path, wanted: Blob
) -> None:
    async with guarded() as private:
        for repository in (A, B):
            private.push(repository, IMAGE, ["v1"])
        only_a = {"ghcr.io": with_account(private, A)}
        async with mirror_of(tmp_path / "cache", only_a) as mirror:
            await pull(mirror, A)
            path = blob_path if wanted is LAYER else manifest_path

            assert (await mirror.get(path(wanted.digest, A))).body == wanted.content
            assert (await mirror.get(path(wanted.digest, B))).status == 403
