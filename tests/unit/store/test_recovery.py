"""Deleting or spoiling the index costs time, never facts (invariant 16)."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from mirror.app import running
from mirror.domain.manifests import LinkKind
from mirror.domain.names import ANONYMOUS_SCOPE, Digest, Repository, Tag
from mirror.settings import Credential, Upstream
from mirror.store.index import Index, object_key
from mirror.store.layout import LayoutError
from mirror.store.rows import Commit, ObjectRow
from tests.fakes.auth import BasicGuard
from tests.fakes.clock import FakeClock
from tests.fakes.content import Blob, blob, image, index
from tests.fakes.origin import Origin
from tests.fakes.registry import FakeRegistry
from tests.harness import mirror_of
from tests.harness import settings as mirror_settings
from tests.unit.store.test_store import REPOSITORY, commit, files, is_here, keep, store_of

Harm = Callable[[Path], None]


def _delete(directory: Path) -> None:
    shutil.rmtree(directory)


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


def _write(content: bytes) -> Harm:
    return lambda directory: _spoil(directory, content)


def _spoil(directory: Path, content: bytes) -> None:
    _empty(directory)
    (directory / "cache.db").write_bytes(content)


def _cut(directory: Path) -> None:
    whole = (directory / "cache.db").read_bytes()
    (directory / "cache.db").write_bytes(whole[: len(whole) // 2])


def _mark(directory: Path) -> None:
    (directory / "DAMAGED").touch()


def _unfinish(directory: Path) -> None:
    opened = Index(directory)
    opened._cache.delete("complete-2")
    opened.drop_object(str(Digest.of(b"whatever")))
    opened.close()


HARMS = {
    "deleted": _delete,
    "no database": _write(b"this is no database, but it is long enough to be one" * 100),
    "no bytes": _write(b""),
    "cut": _cut,
    "marked": _mark,
    "unfinished": _unfinish,
}


def lines(log: io.StringIO, event: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in found if line["event"] == event]


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
async def test_without_its_index_the_mirror_serves_what_it_has_and_offline(
    tmp_path: Path, upstream: FakeRegistry, log_lines: io.StringIO, harm: Harm
) -> None:
    cache, clock = tmp_path / "cache", FakeClock(1_800_000_000)
    pushed = [image(1, architecture="amd64"), image(2, architecture="arm64")]
    top, lone = index(pushed), blob(5000, 7)
    upstream.push("library/alpine", top, tags=["v1", "v2"])
    upstream.push_blob("library/alpine", lone)
    paths = [
        *(f"/v2/library/alpine/manifests/{name}" for name in ("v1", "v2", top.digest)),
        *(f"/v2/library/alpine/manifests/{each.digest}" for each in pushed),
        *(f"/v2/library/alpine/blobs/{each.digest}" for one in pushed for each in one.blobs),
        f"/v2/library/alpine/blobs/{lone.digest}",
    ]
    async with mirror_of(cache, {"docker.io": upstream}, clock=clock) as mirror:
        before = [(await mirror.get(path)).body for path in paths]
        await mirror.settled()
        totals = mirror.up.store._index.totals
    await upstream.go_down()
    harm(cache / "index")
    clock.advance(3 * 86400)

    async with mirror_of(cache, {"docker.io": upstream}, clock=clock) as mirror:
        assert mirror.up.store._index.totals == totals
        assert mirror.up.store.space.used_bytes == totals.size_bytes
        assert [(await mirror.get(path)).body for path in paths] == before
        # What was never asked for is no more open than before.
        stranger = await mirror.get(f"/v2/library/other/blobs/{pushed[0].layers[0].digest}")
        assert stranger.status in {502, 504}
    (line,) = lines(log_lines, "the index was built anew")
    assert (line["blobs"], line["manifests"], line["tags"]) == (totals.blobs, totals.manifests, 2)
    assert line["unreferenced"] == 0


async def test_an_index_that_is_whole_is_taken_as_it_is(
    tmp_path: Path, log_lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store_of(tmp_path) as store:
        await commit(store, blob(10))

    def scan(*_: object, **__: object) -> None:
        raise AssertionError("the files are looked at")

    monkeypatch.setattr(Path, "glob", scan)
    monkeypatch.setattr("os.walk", scan)
    async with store_of(tmp_path) as store:
        assert await is_here(store, blob(10))
    assert not lines(log_lines, "the index was built anew")


async def test_a_tag_that_was_confirmed_for_long_is_not_too_old_afterwards(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    cache, clock, pushed = tmp_path / "cache", FakeClock(1_800_000_000), image()
    upstream.push("library/alpine", pushed, tags=["v1"])
    path = "/v2/library/alpine/manifests/v1"
    async with mirror_of(cache, {"docker.io": upstream}, clock=clock) as mirror:
        for _ in range(10):  # ten days, each with a confirmation
            assert (await mirror.get(path)).status == 200
            await mirror.pull_blobs("library/alpine", pushed)
            clock.advance(86400)
    await upstream.go_down()
    _delete(cache / "index")

    async with mirror_of(cache, {"docker.io": upstream}, clock=clock) as mirror:
        assert (await mirror.get(path)).body == pushed.content


async def test_tags_keep_their_history(tmp_path: Path, upstream: FakeRegistry) -> None:
    cache, clock = tmp_path / "cache", FakeClock(1_800_000_000)
    versions = [image(seed) for seed in range(3)]
    async with mirror_of(cache, {"docker.io": upstream}, clock=clock) as mirror:
        for version in versions:
            upstream.push("library/alpine", version, tags=["latest"])
            await mirror.get("/v2/library/alpine/manifests/latest")
            clock.advance(3600)
        before = await mirror.up.store.facts.tag(REPOSITORY, Tag("latest"))
    _delete(cache / "index")

    async with store_of(cache) as store:
        assert await store.facts.tag(REPOSITORY, Tag("latest")) == before
    assert before is not None
    assert [digest for digest, _ in before.history] == [each.digest for each in versions[1::-1]]


# --- who may see what ------------------------------------------------------------------------


async def scopes(directory: Path, pushed: Blob) -> tuple[str, ...]:
    """Return who may see an object once the index has been built anew."""
    _delete(directory / "index")
    async with store_of(directory) as store:
        row = await store.facts.object(Digest.parse(pushed.digest))
        assert row is not None
        return row.scopes


async def test_private_bytes_stay_private_whatever_a_public_manifest_says(tmp_path: Path) -> None:
    pulled = image(layers=1)
    async with store_of(tmp_path) as store:
        await commit(store, pulled.layers[0], "ghcr.io")
        await keep(store, pulled)  # anybody can push a manifest that names the layer

    assert await scopes(tmp_path, pulled.layers[0]) == ("ghcr.io",)


async def test_public_bytes_stay_public_although_a_private_repository_has_them_too(
    tmp_path: Path,
) -> None:
    pulled = image(layers=1)
    digest = Digest.parse(pulled.layers[0].digest)
    private = Repository("ghcr.io", "team/app")
    async with store_of(tmp_path) as store:
        await keep(store, pulled)
        await commit(store, pulled.layers[0])
        await store.answered_blob(private, digest, "ghcr.io", 5)

    assert await scopes(tmp_path, pulled.layers[0]) == (ANONYMOUS_SCOPE,)


async def test_bytes_that_came_both_ways_are_seen_both_ways(tmp_path: Path) -> None:
    pulled = image(layers=1)
    async with store_of(tmp_path) as store:
        await keep(store, pulled)
        await commit(store, pulled.layers[0], "ghcr.io", Repository("ghcr.io", "team/app"))
        await commit(store, pulled.layers[0])

    assert await scopes(tmp_path, pulled.layers[0]) == (ANONYMOUS_SCOPE, "ghcr.io")


async def test_a_private_manifest_does_not_make_its_layers_public(tmp_path: Path) -> None:
    pulled = image(layers=1)
    async with store_of(tmp_path) as store:
        await keep(store, pulled, "ghcr.io")
        await commit(store, pulled.layers[0], "ghcr.io")

    assert await scopes(tmp_path, pulled.layers[0]) == ("ghcr.io",)
    assert await scopes(tmp_path, pulled) == ("ghcr.io",)


async def test_what_only_a_private_manifest_speaks_for_is_for_nobody(tmp_path: Path) -> None:
    pulled = image(layers=1)
    async with store_of(tmp_path) as store:
        await keep(store, pulled, "ghcr.io")
        await commit(store, pulled.layers[0], "ghcr.io")
        store.refs.drop(REPOSITORY, Digest.parse(pulled.layers[0].digest))

    assert await scopes(tmp_path, pulled.layers[0]) == ()


async def test_a_link_by_manifest_and_one_by_upstreams_word_are_told_apart(tmp_path: Path) -> None:
    pulled = image(layers=2)
    first, second = (Digest.parse(each.digest) for each in pulled.layers)
    async with store_of(tmp_path) as store:
        await keep(store, pulled, "ghcr.io")
        await commit(store, pulled.layers[0], "ghcr.io")
        await store.answered_blob(REPOSITORY, first, "ghcr.io", None)
    _delete(tmp_path / "index")

    async with store_of(tmp_path) as store:
        answered = await store.facts.link(REPOSITORY, first, LinkKind.BLOB)
        described = await store.facts.link(REPOSITORY, second, LinkKind.BLOB)
        assert answered is not None
        assert described is not None
        assert (answered.answered_at > 0, described.answered_at > 0) == (True, False)
        assert answered.size_bytes == pulled.layers[0].size_bytes
        assert answered.media_type == pulled.layers[0].media_type


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
        _delete(tmp_path / "cache" / "index")

        async with mirror_of(tmp_path / "cache", upstreams) as mirror:
            assert (await mirror.get(f"/v2/evil/app/{path}")).status == 404
            private.clear()
            assert (await mirror.get(f"/v2/private.example/team/app/{path}")).status == 200
            assert private.requests == []


# --- what is left over -----------------------------------------------------------------------


async def test_what_nothing_refers_to_is_for_nobody_and_goes_first(
    tmp_path: Path, log_lines: io.StringIO
) -> None:
    wanted, orphan = blob(1000, 1), blob(1000, 2)
    async with store_of(tmp_path) as store:
        await commit(store, wanted)
        await commit(store, orphan)
        store.refs.drop(REPOSITORY, Digest.parse(orphan.digest))
    _delete(tmp_path / "index")

    async with store_of(tmp_path, 2500) as store:
        assert store.space.used_bytes == 2000  # it takes room, so it counts
        assert await is_here(store, wanted)
        assert not await is_here(store, orphan)
        await commit(store, blob(1000, 3))
        assert set(files(tmp_path)) == {wanted.digest, blob(1000, 3).digest}
    assert lines(log_lines, "the index was built anew")[0]["unreferenced"] == 1


async def test_what_a_confirmed_tag_leads_to_is_the_last_to_go(tmp_path: Path) -> None:
    old, new = image(1, layers=1), image(2, layers=1)
    async with store_of(tmp_path) as store:
        for pulled in (new, old):
            await keep(store, pulled)
            for each in pulled.blobs:
                await commit(store, each)
        now = 4e9  # later than any file was written
        row = await store.facts.tag(REPOSITORY, Tag("v1"))
        assert row is None
    tag_file = tmp_path / "refs/docker.io/library/alpine/_tags/v1"
    tag_file.parent.mkdir()
    tag_file.write_text(
        json.dumps({"digest": new.digest, "seen_at": now, "confirmed_at": now}), encoding="ascii"
    )
    _delete(tmp_path / "index")

    async with store_of(tmp_path) as store:
        first = [old.digest, *(each.digest for each in old.blobs)]
        await store.changes.evict(1)
        gone = [each for each in first if not await store.has(Digest.parse(each), ANONYMOUS_SCOPE)]
        assert gone == first  # whole
        for each in (new, *new.blobs):
            row_now = await store.facts.object(Digest.parse(each.digest))
            assert row_now is not None
            assert row_now.used_at == now


async def test_half_written_refs_and_foreign_files_do_no_harm(tmp_path: Path) -> None:
    pulled = image(layers=1)
    async with store_of(tmp_path) as store:
        await keep(store, pulled)
        await commit(store, pulled.layers[0])
    refs = tmp_path / "refs/docker.io/library/alpine"
    (refs / "_tags").mkdir(exist_ok=True)
    (refs / "_tags/half").write_bytes(b'{"digest": "sha')
    (refs / "_tags/~v1").write_bytes(b"")
    (refs / "_tags/lost").write_text(
        json.dumps({"digest": "sha256:" + "0" * 64, "seen_at": 1, "confirmed_at": 1}), "ascii"
    )
    (refs / "_tags/nonsense").write_text(
        json.dumps({"digest": "../../VERSION", "seen_at": 1, "confirmed_at": 1}), "ascii"
    )
    for name in ("sha256:" + "1" * 64, "sha256:half", "~" + pulled.digest):
        (refs / "_manifests" / name).write_bytes(b'{"media_type": "x", "sc')
    (tmp_path / "blobs/README").write_bytes(b"hello")
    (tmp_path / "refs/README").write_bytes(b"hello")
    (tmp_path / "blobs/sha256/zz").mkdir()
    (tmp_path / "blobs/sha256/zz/file").write_bytes(b"hello")
    _delete(tmp_path / "index")

    async with store_of(tmp_path) as store:
        assert await store.manifest(REPOSITORY, Digest.parse(pulled.digest), ANONYMOUS_SCOPE)
        assert await is_here(store, pulled.layers[0])
        assert store._index.totals.blobs == store._index.totals.manifests == 1
    assert (tmp_path / "blobs/README").exists()


async def test_a_manifest_that_is_not_right_any_more_is_removed(tmp_path: Path) -> None:
    right, wrong = image(1), image(2)
    async with store_of(tmp_path) as store:
        await keep(store, right)
        await keep(store, wrong)
    hexes = wrong.digest.removeprefix("sha256:")
    (tmp_path / f"blobs/sha256/{hexes[:2]}/{hexes}").write_bytes(right.content)
    _delete(tmp_path / "index")

    async with store_of(tmp_path) as store:
        assert await store.manifest(REPOSITORY, Digest.parse(right.digest), ANONYMOUS_SCOPE)
        assert not await is_here(store, wrong)
        assert set(files(tmp_path)) == {right.digest}


async def test_a_blob_that_is_shorter_than_all_say_is_removed(tmp_path: Path) -> None:
    pulled = image(layers=2)
    async with store_of(tmp_path) as store:
        await keep(store, pulled)
        for each in pulled.blobs:
            await commit(store, each)
    hexes = pulled.layers[0].digest.removeprefix("sha256:")
    (tmp_path / f"blobs/sha256/{hexes[:2]}/{hexes}").write_bytes(b"short")
    _delete(tmp_path / "index")

    async with store_of(tmp_path) as store:
        here = [await is_here(store, each) for each in pulled.blobs]
        assert here == [True, False, True]


async def test_evicting_a_recovered_object_removes_what_says_that_it_is_here(
    tmp_path: Path,
) -> None:
    pulled = image(layers=1)
    async with store_of(tmp_path) as store:
        await keep(store, pulled)
        await commit(store, pulled.layers[0], "ghcr.io")
    _delete(tmp_path / "index")

    async with store_of(tmp_path) as store:
        await store.changes.evict(1 << 20)
        assert files(tmp_path) == {}
        assert store.space.used_bytes == 0
    left = [path.name for path in (tmp_path / "refs").rglob("*") if path.is_file()]
    assert left == []


async def test_an_index_that_cannot_be_opened_is_explained_and_left_alone(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    (tmp_path / "index/cache.db").mkdir(parents=True)
    (tmp_path / "index/cache.db/kept").touch()

    with pytest.raises(LayoutError, match="no other mirror"):
        async with running(mirror_settings(tmp_path, {"docker.io": upstream})):
            pass
    assert (tmp_path / "index/cache.db/kept").exists()


def test_objects_are_rows_of_the_index(tmp_path: Path) -> None:
    made = Index(tmp_path)
    made.commit(Commit("sha256:1", ObjectRow(1, "blob", (), 0.0)))
    found = made.get(object_key("sha256:1"), ObjectRow)

    assert found is not None
    assert not found.visible_in(ANONYMOUS_SCOPE)
    made.close()
