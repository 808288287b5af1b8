"""The index: no pickle goes in or out, totals are exact, the order is that of last use."""

import random
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diskcache
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.store.disk import NoPickleDisk, PickleForbiddenError
from mirror.store.index import Demand, Index, IndexBrokenError, object_key
from mirror.store.rows import Commit, LinkRow, ObjectKind, ObjectRow, Removal, TagRow, Totals


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with_nothing = Index(tmp_path)
    yield with_nothing
    with_nothing.close()


class Bomb:
    """Whoever unpickles this fails the test."""

    def __reduce__(self) -> tuple[object, ...]:
        return pytest.fail, ("a pickle was loaded",)


def row(size: int = 10, used_at: float = 1.0, *scopes: str) -> ObjectRow:
    return ObjectRow(size, "blob", scopes or ("_",), used_at)


def add(index: Index, name: str, seen: ObjectRow, *children: str) -> int:
    """Add an object and return by how much the total grew."""
    return sum(index.commit(Commit(name, seen, children=children))[1].values())


def seen(index: Index, name: str) -> ObjectRow | None:
    """Return a row without its place."""
    found = index.get(object_key(name), ObjectRow)
    return None if found is None else msgspec.structs.replace(found, place="")


@dataclass
class Keeper:
    """Keeps some; the others go, with what they link."""

    keep: Callable[[str], bool] = lambda _: False
    children: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def condemn(self, digest: str, _row: ObjectRow) -> Sequence[str] | None:
        return None if self.keep(digest) else self.children.get(digest, ())


def evict(index: Index, need: int, keeper: Keeper | None = None, **how: Any) -> list[str]:  # noqa: ANN401 -- fields of Demand
    """Evict in as many steps as it takes, and return what went, in order."""
    gone: list[str] = []
    freed, kept = 0, set[str]()
    has_orphans = False
    while freed < need or has_orphans:
        demand = Demand(need - freed, 10_000, kept=kept, has_orphans=has_orphans, **how)
        step = index.evict(demand, keeper or Keeper())
        has_orphans = step.has_orphans
        assert len(step.victims) <= 100
        gone += [digest for _, digest, _ in step.victims]
        index.settled([entry for entry, _, _ in step.victims])
        freed, kept = freed + step.freed_bytes, step.kept
        if step.is_exhausted:
            break
    return gone


# --- no pickle -------------------------------------------------------------------------------


def test_what_the_default_disk_has_pickled_is_as_good_as_nothing(tmp_path: Path) -> None:
    with diskcache.Cache(str(tmp_path)) as foreign:
        foreign.set("o:evil", Bomb())
        foreign.set(("a", "pickled", "key"), b"")
        foreign.set("q0:|-000000000100000", Bomb())
        foreign.set("totals", {"a": Bomb()})
    index = Index(tmp_path)

    assert index.totals == Totals()
    assert index.get("o:evil", ObjectRow) is None
    assert index.oldest_use() is None
    add(index, "evil", row(5, 2))  # what is written over it can be read
    assert seen(index, "evil") == row(5, 2)
    assert evict(index, 1) == ["evil"]
    index.close()


def test_keys_and_values_that_would_be_pickled_are_refused(index: Index) -> None:
    for key, value in [("a", {"a": 1}), (("a",), b""), (1, b""), ("a", "text"), ("a", None)]:
        with pytest.raises(PickleForbiddenError):
            index._cache.set(key, value)


@pytest.mark.parametrize("mode", [2, 3, 4])
def test_values_in_other_files_are_not_read(tmp_path: Path, mode: int) -> None:
    with pytest.raises(PickleForbiddenError):
        NoPickleDisk(str(tmp_path)).fetch(mode, "../../../etc/passwd", b"", read=False)


@pytest.mark.parametrize("key", [b"pickled", 1])
def test_keys_of_others_are_not_read(tmp_path: Path, key: object) -> None:
    with pytest.raises(PickleForbiddenError):
        NoPickleDisk(str(tmp_path)).get(key, raw=key != b"pickled")


# --- rows that are not right -----------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x93\x01", b"\x94\xa1x\xa1y\x90\xc0", b"junk" * 9]
)
def test_a_row_that_does_not_decode_is_as_good_as_none(index: Index, data: bytes) -> None:
    index._cache.set("l:x", data)
    index._cache.set(object_key("x"), data)

    assert index.get("l:x", LinkRow) is None
    assert index.get(object_key("x"), ObjectRow) is None


def test_a_row_of_another_kind_is_as_good_as_none(index: Index) -> None:
    index.put("t:x", TagRow("sha256:1", 1, 1))

    assert index.get("t:x", LinkRow) is None


def test_entries_of_the_queue_that_mean_nothing_are_dropped(index: Index) -> None:
    add(index, "a", row())
    index._cache.set("q0:|-000000000000001", b"\xff\xfe not text")
    index._cache.set("q0:|-00000junk000001", b"gone")
    index._cache.set("q0:|-000000000000002", b"a")  # not its place

    assert evict(index, 1) == ["a"]


# --- totals and order ------------------------------------------------------------------------

_NAMES = st.integers(0, 5)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), _NAMES, st.integers(0, 50)),
        st.tuples(st.just("touch"), _NAMES, st.integers(0, 50)),
        st.tuples(st.just("drop"), _NAMES, st.just(0)),
        st.tuples(st.just("evict"), st.integers(0, 60), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0), st.just(0)),
    ),
    max_size=20,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=_STEPS)
def test_totals_are_sums_and_eviction_follows_last_use(  # noqa: C901 -- a branch for each step
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    directory = tmp_path_factory.mktemp("index")
    index = Index(directory)
    model: dict[str, ObjectRow] = {}
    for step, number, at in steps:
        name = str(number)
        if step == "add":
            # Sizes are powers of two, so that two sums are equal only if their parts are.
            new = ObjectRow(1 << number, "blob" if number % 2 else "manifest", ("_",), float(at))
            assert add(index, name, new) == (0 if name in model else new.size_bytes)
            model[name] = model[name].merged(new) if name in model else new
        elif step == "touch":
            index.touch([(name, float(at))])
            if name in model and model[name].used_at < at:
                model[name] = row_at(model[name], float(at))
        elif step == "drop":
            dropped = index.drop_object(name)
            assert (dropped is None) == (model.pop(name, None) is None)
        elif step == "evict":
            gone = evict(index, number)
            freed, expected = 0, []
            # Nothing links these blobs, so they go before the manifests.
            for each in sorted(
                model, key=lambda each: (not model[each].is_blob, model[each].used_at)
            ):
                if freed < number:
                    freed += model[each].size_bytes
                    expected.append(each)
            if len({model[each].used_at for each in model}) == len(model):
                assert gone == expected
            for each in gone:
                del model[each]
        else:
            index.close()
            index = Index(directory)
        totals = index.totals
        assert (totals.size_bytes, totals.blobs, totals.manifests) == (
            sum(each.size_bytes for each in model.values()),
            sum(each.kind == "blob" for each in model.values()),
            sum(each.kind == "manifest" for each in model.values()),
        )
        assert {name: seen(index, name) for name in model} == model
    index.close()


def order(of: ObjectRow) -> tuple[bool, float]:
    return not of.is_blob, of.used_at


def row_at(before: ObjectRow, used_at: float) -> ObjectRow:
    return msgspec.structs.replace(before, used_at=used_at)


def test_more_objects_than_one_transaction_takes(index: Index) -> None:
    names = [f"{number:04}" for number in range(1200)]
    index.commit_all(Commit(name, row(1, float(number))) for number, name in enumerate(names))
    index.touch([(name, 5000.0) for name in names[:600]])
    gone = evict(index, 1200)

    assert gone[:600] == names[600:]
    assert sorted(gone[600:]) == names[:600]
    assert index.totals.size_bytes == index.totals.blobs == 0


def test_what_is_kept_does_not_hide_what_is_behind_it(index: Index) -> None:
    names = [f"{number:04}" for number in range(700)]
    index.commit_all(Commit(name, row(1, float(number))) for number, name in enumerate(names))

    assert evict(index, 1, Keeper(lambda name: name < "0690")) == ["0690"]
    assert evict(index, 700, Keeper(lambda name: name < "0690")) == names[691:]
    assert evict(index, 1) == ["0000"]


def test_when_all_is_kept_nothing_goes_and_it_ends(index: Index) -> None:
    index.commit_all(Commit(str(number), row(1, 1.0)) for number in range(1500))

    assert evict(index, 1, Keeper(lambda _: True)) == []
    assert index.totals.blobs == 1500


def test_a_crowded_second_overflows_into_the_next(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.store.order._PLACES_PER_SECOND", 2)
    for name in "abcde":
        add(index, name, row(1, 100.0))

    assert evict(index, 9) == [*"abcde"]


def test_a_clock_from_the_far_future_does_no_harm(index: Index) -> None:
    add(index, "a", row(1, 1e15))

    assert evict(index, 1) == ["a"]


def test_an_eviction_that_fails_changes_nothing(index: Index) -> None:
    add(index, "a", row(1, 1))
    add(index, "b", row(2, 2))

    def keep(digest: str) -> bool:
        if digest == "b":
            raise OSError(5, "the disk is broken")
        return False

    with pytest.raises(OSError, match="broken"):
        evict(index, 3, Keeper(keep))
    assert index.totals.size_bytes == 3
    assert evict(index, 3) == ["a", "b"]


def test_a_row_goes_only_if_it_is_so(index: Index) -> None:
    add(index, "a", row(1, 1))

    assert index.drop_object("a", if_so=lambda: False) is None
    assert index.totals.size_bytes == 1
    assert index.drop_object("a") is not None
    assert index.drop_object("a") is None
    assert evict(index, 1) == []


# --- whole images ----------------------------------------------------------------------------


def manifest(used_at: float, kind: ObjectKind = "manifest") -> ObjectRow:
    return ObjectRow(1, kind, ("_",), used_at)


def test_what_nothing_links_goes_first_then_whole_images(index: Index) -> None:
    add(index, "old image", manifest(10), "old layer", "shared")
    add(index, "new image", manifest(20), "new layer", "shared")
    for name, used_at in (("old layer", 10), ("new layer", 20), ("shared", 20), ("alone", 90)):
        add(index, name, row(1, used_at))
    linked = {
        "old image": ("old layer", "shared"),
        "new image": ("new layer", "shared"),
    }

    assert evict(index, 1) == ["alone"]
    assert evict(index, 2, Keeper(children=linked)) == ["old image", "old layer"]
    gone = evict(index, 1, Keeper(children=linked))
    assert (gone[0], sorted(gone[1:])) == ("new image", ["new layer", "shared"])
    assert index.links_of("shared") == 0


def test_a_blob_that_loses_its_last_manifest_goes_before_older_images(index: Index) -> None:
    add(index, "image", manifest(50), "layer")
    add(index, "layer", row(1, 60))
    add(index, "older", manifest(20))
    index.drop_object("image", ["layer"])

    assert evict(index, 1) == ["layer"]


def test_an_upstream_is_evicted_on_its_own(index: Index) -> None:
    for number, upstream in enumerate(["a", "a-5", "b", "a", "a-5", "b"]):
        seen = ObjectRow(1, "blob", ("_",), float(number), (), upstream)
        add(index, f"{upstream} {number}", seen)

    assert evict(index, 9, upstream="a") == ["a 0", "a 3"]
    assert evict(index, 1, upstream="b") == ["b 2"]
    assert index.totals.upstreams == {"a": 0, "a-5": 2, "b": 1}
    assert evict(index, 9) == ["a-5 1", "a-5 4", "b 5"]


_UPSTREAMS = st.sampled_from(["", "a", "b"])
_OWNED = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "drop", "evict", "reopen"]),
        st.integers(0, 4),
        _UPSTREAMS,
        st.sampled_from(["blob", "manifest"]),
    ),
    max_size=20,
)


@settings(max_examples=40, deadline=None)
@given(steps=_OWNED)
def test_each_upstream_has_what_a_recount_gives(
    steps: list[tuple[str, int, str, ObjectKind]],
) -> None:
    """Also when what was nobody's becomes that of an upstream, and goes with its objects."""
    with tempfile.TemporaryDirectory() as directory:
        index, told = Index(Path(directory)), Counter[str]()
        for at, (what, number, upstream, kind) in enumerate(steps):
            if what == "add":
                new = ObjectRow(1 << number, kind, ("_",), float(at), (), upstream)
                told.update(index.commit(Commit(str(number), new))[1])
            elif what == "drop":
                dropped = index.drop_object(str(number))
                told.subtract({dropped.upstream: dropped.size_bytes} if dropped else {})
            elif what == "evict":
                gone = evict(index, 1 << number, upstream=upstream)
                told.subtract({upstream: sum(1 << int(each) for each in gone)})
            else:
                index.close()
                index = Index(Path(directory))
            counted = Counter[str]()
            for each in stored(index):
                counted[each.upstream] += each.size_bytes
            assert Counter(index.totals.upstreams) == told == counted
            assert places(index) == {each.place for each in stored(index)}
            for each in stored(index):
                assert each.place.partition(":")[2].partition("|")[0] == each.upstream
        index.close()


def stored(index: Index) -> list[ObjectRow]:
    rows = [index.get(key, ObjectRow) for key in index.all_keys() if key.startswith("o:")]
    return [each for each in rows if each is not None]


def places(index: Index) -> set[str]:
    return {key for key in index.all_keys() if key.startswith(("q0:", "q1:"))}


def test_what_was_used_since_does_not_expire(index: Index) -> None:
    for number in range(6):
        add(index, str(number), row(1, float(number)))
    add(index, "image", manifest(2))
    index.touch([("1", 9.0)])

    assert evict(index, 1 << 62, unused_since=3.0) == ["0", "2", "image"]


_IMAGES = st.lists(
    st.tuples(
        st.sampled_from(["pull", "pull", "use", "use blob", "evict"]),
        st.integers(0, 7),
        st.integers(1, 6),
    ),
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(steps=_IMAGES)
def test_no_image_loses_a_blob_while_its_manifest_stays(steps: list[tuple[str, int, int]]) -> None:
    """Layers are shared; a use of a manifest is one of all that it links (invariant 5)."""
    with tempfile.TemporaryDirectory() as directory:
        index = Index(Path(directory))
        layers = {f"m{number}": [f"b{number % 4}", f"b{number}", "b0"] for number in range(8)}
        whole: set[str] = set()
        for now, (what, number, size) in enumerate(steps, 1):
            name = f"m{number}"
            links = layers[name]
            if what == "pull":
                add(index, name, manifest(now), *links)
                for each in links:
                    add(index, each, row(size, float(now)))
                index.touch([(each, float(now)) for each in (name, *links)])
                whole.add(name)
            elif what == "use" and name in whole:
                index.touch([(each, float(now)) for each in (name, *links)])
            elif what == "use blob":
                index.touch([(f"b{number}", float(now))])
            else:
                whole.difference_update(evict(index, size, Keeper(children=layers)))
            for each in whole:
                assert all(seen(index, part) for part in (each, *layers[each]))
            counts = Counter(
                part for each in layers for part in set(layers[each]) if seen(index, each)
            )
            assert {part: index.links_of(part) for part in counts} == counts
        index.close()


# --- the journal -----------------------------------------------------------------------------


def test_what_is_announced_is_pending_until_it_is_committed(index: Index) -> None:
    new = Commit("a", row(), ("l:own", LinkRow(5, None, 7.0)), (("l:x", LinkRow(1, None, 0)),))
    kept, given_up = index.announce(new), index.announce(Commit("b", row()))
    index.settled([given_up])

    assert index.pending_commit() == (kept, new)
    index.commit(new, kept)
    assert index.pending_commit() is None
    assert index.get("l:own", LinkRow) == LinkRow(5, None, 7.0)
    assert index.get("l:x", LinkRow) == LinkRow(1, None, 0)


def test_what_is_evicted_is_pending_until_its_files_are_gone(index: Index) -> None:
    add(index, "a", ObjectRow(1, "blob", ("_",), 1.0, ("docker.io/x",)))
    step = index.evict(Demand(1, 2), Keeper())
    entry = step.victims[0][0]

    assert index.pending_removal() == (entry, Removal("a", ("docker.io/x",)))
    index.settled([entry])
    assert index.pending_removal() is None


def test_an_entry_of_the_journal_that_is_junk_can_be_settled(index: Index) -> None:
    key = index._cache.push(b"junk", prefix="adding")

    assert index.pending_commit() == (key, None)
    index.settled([key])
    assert index.pending_commit() is None


def test_a_link_that_upstream_vouched_for_is_not_overwritten_by_a_manifests(index: Index) -> None:
    answered, described = LinkRow(5, None, 7.0), LinkRow(5, "type", 0)
    index.put("l:a", answered)

    index.commit(Commit("m", row(), links=(("l:a", described), ("l:b", described))))
    assert index.get("l:b", LinkRow) == described
    assert index.get("l:a", LinkRow) == answered


# --- a database that breaks ------------------------------------------------------------------


def test_a_locked_database_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    index = Index(tmp_path)
    add(index, "a", row(1, 1))
    index._cache._timeout = 0.05
    index.close()  # the next connection has the short time limit
    other = sqlite3.connect(tmp_path / "cache.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(IndexBrokenError, match="locked"):
        add(index, "b", row(1, 1))
    other.execute("ROLLBACK")
    other.close()
    assert add(index, "b", row(1, 1)) == 1
    assert index.totals.size_bytes == 2
    index.close()


def test_damage_is_a_miss_now_and_remembered_for_the_next_start(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.complete()
    index.commit_all(Commit(f"{number:04}", row(1, float(number))) for number in range(2000))
    index.close()
    database = tmp_path / "cache.db"
    whole = database.read_bytes()
    database.write_bytes(whole[: 16 * 4096] + random.Random(0).randbytes(len(whole) - 16 * 4096))

    # Rows that are still in a good place may be read; the others are misses.
    got = [index.get(object_key(f"{number:04}"), ObjectRow) for number in range(2000)]
    assert got.count(None) > 1000
    with pytest.raises(IndexBrokenError):
        index.touch([(f"{number:04}", 1e9) for number in range(2000)])
    index.close()
    assert (tmp_path / "DAMAGED").exists()
    assert not index.is_complete
    index.close()
