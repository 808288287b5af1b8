"""The index: no pickle goes in or out, totals are exact, the order is that of last use."""

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import diskcache
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.store.disk import NoPickleDisk, PickleForbiddenError
from mirror.store.index import Index, IndexBrokenError, object_key
from mirror.store.rows import LinkRow, ObjectRow, TagRow, Totals


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


# --- no pickle -------------------------------------------------------------------------------


def test_what_the_default_disk_has_pickled_is_as_good_as_nothing(tmp_path: Path) -> None:
    with diskcache.Cache(str(tmp_path)) as foreign:
        foreign.set("o:evil", Bomb())
        foreign.set(("a", "pickled", "key"), b"")
        foreign.set("lru-000000000100000", Bomb())
        foreign.set("totals", {"a": Bomb()})
    index = Index(tmp_path)

    assert index.totals == Totals()
    assert index.get("o:evil", ObjectRow) is None
    assert index.oldest_use() is None
    index.add_object("evil", row(5, 2))  # what is written over it can be read
    assert index.get("o:evil", ObjectRow) == row(5, 2)
    assert [digest for digest, _ in index.evict(1, lambda _: False, lambda *_: None)] == ["evil"]
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
    index._cache.set("lru-000000000000001", b"\xff\xfe not text")
    index._cache.set("lru-00000junk000001", b"gone")
    index.add_object("a", row())

    assert [digest for digest, _ in index.evict(1, lambda _: False, lambda *_: None)] == ["a"]


# --- totals and order ------------------------------------------------------------------------

_NAMES = st.integers(0, 5)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), _NAMES, st.integers(0, 50)),
        st.tuples(st.just("touch"), _NAMES, st.integers(0, 50)),
        st.tuples(st.just("drop"), _NAMES, st.just(0)),
        st.tuples(st.just("evict"), st.integers(0, 60), _NAMES),
        st.tuples(st.just("reopen"), st.just(0), st.just(0)),
    ),
    max_size=20,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=_STEPS)
def test_totals_are_sums_and_eviction_follows_last_use(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    directory = tmp_path_factory.mktemp("index")
    index = Index(directory)
    model: dict[str, ObjectRow] = {}
    for step, number, at in steps:
        name = str(number)
        if step == "add":
            # Sizes are powers of two, so that two sums are equal only if their parts are.
            seen = ObjectRow(1 << number, "blob" if number % 2 else "manifest", ("_",), float(at))
            grown = index.add_object(name, seen)[1]
            assert grown == (0 if name in model else seen.size_bytes)
            model[name] = model[name].merged(seen) if name in model else seen
        elif step == "touch":
            index.touch([(name, float(at))])
            if name in model and model[name].used_at < at:
                model[name] = row_at(model[name], float(at))
        elif step == "drop":
            assert index.drop_object(name) == model.pop(name, None)
        elif step == "evict":
            gone = index.evict(number, lambda kept: kept == str(at), lambda *_: None)  # noqa: B023 -- called now
            freed, expected = 0, []
            for each in sorted(model, key=lambda each: model[each].used_at):
                if freed < number and each != str(at):
                    freed += model[each].size_bytes
                    expected.append(each)
            assert sorted(model[each].used_at for each, _ in gone) == [
                model[each].used_at for each in expected
            ]
            for each, _ in gone:
                del model[each]
        else:
            index.close()
            index = Index(directory)
        assert index.totals == Totals(
            sum(each.size_bytes for each in model.values()),
            sum(each.kind == "blob" for each in model.values()),
            sum(each.kind == "manifest" for each in model.values()),
        )
        assert {name: index.get(object_key(name), ObjectRow) for name in model} == model
    index.close()


def row_at(before: ObjectRow, used_at: float) -> ObjectRow:
    return ObjectRow(before.size_bytes, before.kind, before.scopes, used_at, before.repositories)


def test_more_objects_than_one_transaction_takes(index: Index) -> None:
    names = [f"{number:04}" for number in range(1200)]
    index.add_objects((name, row(1, float(number))) for number, name in enumerate(names))
    index.touch([(name, 5000.0) for name in names[:600]])
    gone = []
    while batch := index.evict(1200, lambda _: False, lambda *_: None):
        assert len(batch) <= 500
        gone += [digest for digest, _ in batch]

    assert gone[:600] == names[600:]
    assert sorted(gone[600:]) == names[:600]
    assert index.totals == Totals()


def test_what_is_kept_does_not_hide_what_is_behind_it(index: Index) -> None:
    names = [f"{number:04}" for number in range(700)]
    index.add_objects((name, row(1, float(number))) for number, name in enumerate(names))

    gone = index.evict(1, lambda name: name < "0690", lambda *_: None)
    assert [digest for digest, _ in gone] == ["0690"]
    gone = index.evict(1, lambda _: False, lambda *_: None)
    assert [digest for digest, _ in gone] == ["0000"]  # what was kept is in its place again


def test_a_crowded_second_overflows_into_the_next(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "randrange", lambda _: 7)
    for name in "abc":
        index.add_object(name, row(1, 100.0))

    assert [digest for digest, _ in index.evict(9, lambda _: False, lambda *_: None)] == [*"abc"]


def test_a_clock_from_the_far_future_does_no_harm(index: Index) -> None:
    index.add_object("a", row(1, 1e15))

    assert [digest for digest, _ in index.evict(1, lambda _: False, lambda *_: None)] == ["a"]


def test_an_eviction_that_fails_changes_nothing(index: Index) -> None:
    index.add_object("a", row(1, 1))
    index.add_object("b", row(2, 2))

    def remove(digest: str, _row: ObjectRow) -> None:
        if digest == "b":
            raise OSError(5, "the disk is broken")

    with pytest.raises(OSError, match="broken"):
        index.evict(3, lambda _: False, remove)
    assert index.totals.size_bytes == 3
    gone = index.evict(3, lambda _: False, lambda *_: None)
    assert [digest for digest, _ in gone] == ["a", "b"]


def test_a_row_goes_only_if_it_is_so(index: Index) -> None:
    index.add_object("a", row(1, 1))

    assert index.drop_object("a", if_so=lambda: False) is None
    assert index.totals.size_bytes == 1
    assert index.drop_object("a") == row(1, 1)
    assert index.drop_object("a") is None


def test_a_link_that_upstream_vouched_for_is_not_overwritten_by_a_manifests(index: Index) -> None:
    answered, described = LinkRow(5, None, 7.0), LinkRow(5, "type", 0)
    index.put("l:a", answered)

    assert index.add_links([("l:a", described), ("l:b", described)]) == [("l:b", described)]
    assert index.get("l:a", LinkRow) == answered


# --- a database that breaks ------------------------------------------------------------------


def test_a_locked_database_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.add_object("a", row(1, 1))
    index._cache._timeout = 0.05
    index.close()  # the next connection has the short time limit
    other = sqlite3.connect(tmp_path / "cache.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(IndexBrokenError, match="locked"):
        index.add_object("b", row(1, 1))
    other.execute("ROLLBACK")
    other.close()
    assert index.add_object("b", row(1, 1))[1] == 1
    assert index.totals.size_bytes == 2
    index.close()


def test_damage_is_a_miss_now_and_remembered_for_the_next_start(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.complete()
    index.add_objects((f"{number:04}", row(1, float(number))) for number in range(2000))
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
