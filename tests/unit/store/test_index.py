"""The index cannot hold pickles, and the store survives a restart and a missing file."""

from pathlib import Path

import diskcache
import pytest

from mirror.store.index import Index, PickleForbiddenError
from mirror.store.layout import Layout, LayoutError
from mirror.store.rows import ObjectRow
from tests.fakes.content import blob, image
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, mirror_of


def test_a_pickled_row_is_not_read(tmp_path: Path) -> None:
    with diskcache.Cache(str(tmp_path)) as foreign:
        foreign.set("o:evil", {"loads": "code"})
    index = Index(tmp_path)

    with pytest.raises(PickleForbiddenError):
        index.get("o:evil", ObjectRow)
    with pytest.raises(PickleForbiddenError):
        index._cache.set("o:evil", {"a": 1})
    with pytest.raises(PickleForbiddenError):
        index._cache.set(("a", "tuple"), b"")
    index.close()


def test_totals_follow_what_is_added_and_dropped(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.add_object("sha256:a", ObjectRow(10, "blob", ("_",), 1.0))
    index.add_object("sha256:b", ObjectRow(5, "manifest", ("_",), 2.0))
    index.add_object("sha256:a", ObjectRow(10, "blob", ("docker.io",), 3.0))

    assert (index.totals.size_bytes, index.totals.blobs, index.totals.manifests) == (15, 1, 1)
    gone = index.evict(1, lambda _: False, lambda *_: None)
    assert [digest for digest, _ in gone] == ["sha256:b"]  # a was used after it
    assert index.totals.size_bytes == 10
    index.close()


def test_a_later_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_text("999\n", encoding="ascii")

    with pytest.raises(LayoutError, match="999"):
        Layout(tmp_path).prepare()


async def test_a_restart_without_upstream_serves_what_was_pulled(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    pushed = image()
    upstream.push("library/alpine", pushed, tags=["v1"])
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        await mirror.get("/v2/library/alpine/manifests/v1")
        for each in pushed.blobs:
            await mirror.get(f"/v2/library/alpine/blobs/{each.digest}")
        await mirror.settled()
    await upstream.go_down()

    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        assert (await mirror.get("/v2/library/alpine/manifests/v1")).body == pushed.content
        for each in pushed.blobs:
            got = await mirror.get(f"/v2/library/alpine/blobs/{each.digest}")
            assert got.body == each.content


async def test_a_file_that_is_gone_is_fetched_again(tmp_path: Path, upstream: FakeRegistry) -> None:
    pushed = blob(MIB)
    upstream.push_blob("library/alpine", pushed)
    path = f"/v2/library/alpine/blobs/{pushed.digest}"
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        await mirror.get(path)
        await mirror.settled()
        mirror.stored(pushed.digest).unlink()

        assert (await mirror.get(path)).body == pushed.content
