"""What is written can be taken back: the same bytes, owners, times, links and directories."""

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.clients import installing
from mirror.clients.installing import ChangedSinceError, Installation
from mirror.clients.plan import CannotMergeError, Plan

LEDGER = "/etc/client/.mirror"
PATHS = ("/etc/client/a.conf", "/etc/client/deep/er/b.conf", "/etc/other/c.conf")
State = dict[str, tuple[object, ...]]


def state(root: Path) -> State:
    """Return everything below a directory that one could tell apart."""
    found: State = {}
    for path in sorted(root.rglob("*")):
        facts = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        link = str(path.readlink()) if path.is_symlink() else ""
        times = 0 if path.is_dir() and not path.is_symlink() else facts.st_mtime_ns
        found[str(path.relative_to(root))] = (facts.st_mode, facts.st_uid, content, link, times)
    return found


def plan(*texts: str | None, owned: str | None = None) -> Plan:
    files = {path: text for path, text in zip(PATHS, texts, strict=False) if text is not None}
    return Plan(files, owned=owned)


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody cuts the power here, and each costs milliseconds.
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "etc/client").mkdir(parents=True)
    first = root / PATHS[0][1:]
    first.write_bytes(b"mine, without an end of line")
    first.chmod(0o640)
    os.utime(first, ns=(10**18, 10**18))
    return root


def test_what_is_written_is_taken_back_without_a_trace(root: Path) -> None:
    before = state(root)
    there = Installation(root, LEDGER)
    assert there.install(plan("one\n", "two\n", "three\n")) == list(PATHS)
    assert (root / PATHS[0][1:]).read_text() == "one\n"
    assert (root / PATHS[0][1:]).stat().st_mode & 0o777 == 0o640
    assert (root / PATHS[1][1:]).stat().st_mode & 0o777 == 0o644
    again = Installation(root, LEDGER)
    assert again.install(plan("one\n", "two\n", "three\n")) == []
    assert again.read(PATHS[0]) == "mine, without an end of line"
    assert again.read(PATHS[1]) is None
    assert sorted(Installation(root, LEDGER).undo()) == sorted(PATHS)
    assert state(root) == before
    assert Installation(root, LEDGER).undo() == []


def test_what_was_forced_comes_again_after_it_was_taken_back_for_a_while(root: Path) -> None:
    """A node agent takes its files back while the mirror is away."""
    path = root / PATHS[0][1:]
    Installation(root, LEDGER).install(plan("one"))
    path.write_text("theirs")
    Installation(root, LEDGER).install(plan("theirs and one"), force=True)
    for _ in range(2):
        with pytest.raises(ChangedSinceError):
            Installation(root, LEDGER).undo()
        assert path.read_text() == "theirs"
        Installation(root, LEDGER).install(plan("theirs and one"))
        assert path.read_text() == "theirs and one"
    with pytest.raises(ChangedSinceError):
        Installation(root, LEDGER).undo()
    path.write_text("theirs, once more")
    with pytest.raises(ChangedSinceError):
        Installation(root, LEDGER).install(plan("one"))
    assert path.read_text() == "theirs, once more"


def test_what_a_later_plan_leaves_out_goes_back(root: Path) -> None:
    before = state(root)
    Installation(root, LEDGER).install(plan("one", "two", "three"))
    kept = Installation(root, LEDGER).install(plan(None, "new", owned="/etc/client"))
    assert sorted(kept) == list(PATHS[:2])
    assert (root / PATHS[0][1:]).read_text().startswith("mine")
    assert (root / PATHS[2][1:]).read_text() == "three"
    Installation(root, LEDGER).undo()
    assert state(root) == before


def test_what_is_so_already_is_not_ours(root: Path) -> None:
    before = state(root)
    there = Installation(root, LEDGER)
    assert there.install(plan("mine, without an end of line")) == []
    assert state(root) == before
    there.install(plan("one"))
    there.install(plan("mine, without an end of line"))
    assert state(root) == before


def test_what_somebody_changed_since_is_left_alone_unless_forced(root: Path) -> None:
    before = state(root)
    Installation(root, LEDGER).install(plan("one", "two"))
    (root / PATHS[0][1:]).write_text("theirs")
    with pytest.raises(ChangedSinceError) as caught:
        Installation(root, LEDGER).install(plan("new", "new"))
    assert caught.value.paths == [PATHS[0]]
    assert (root / PATHS[1][1:]).read_text() == "new"
    with pytest.raises(ChangedSinceError):
        Installation(root, LEDGER).undo()
    assert not (root / PATHS[1][1:]).exists()
    assert (root / PATHS[0][1:]).read_text() == "theirs"
    Installation(root, LEDGER).install(plan("new"), force=True)
    assert (root / PATHS[0][1:]).read_text() == "new"
    Installation(root, LEDGER).undo(force=True)
    assert state(root) == before


def test_what_somebody_made_of_a_file_outlives_what_is_written_by_force(root: Path) -> None:
    before, path = state(root), root / PATHS[0][1:]
    Installation(root, LEDGER).install(plan("one", "two"))
    path.write_text("theirs")
    theirs = path.lstat().st_mtime_ns
    Installation(root, LEDGER).install(plan("theirs and one", "two"), force=True)
    there = Installation(root, LEDGER)
    assert there.read(PATHS[0]) == "theirs"  # what the next merge begins with
    there.install(plan("theirs and three", "two"))
    assert path.read_text() == "theirs and three"
    assert Installation(root, LEDGER).before() == {PATHS[0]: b"theirs", PATHS[1]: None}
    with pytest.raises(ChangedSinceError) as caught:
        Installation(root, LEDGER).undo()
    assert caught.value.paths == [PATHS[0]]
    assert (path.read_text(), path.lstat().st_mtime_ns) == ("theirs", theirs)
    assert not (root / PATHS[1][1:]).exists()
    with pytest.raises(ChangedSinceError):
        Installation(root, LEDGER).undo()
    assert path.read_text() == "theirs"
    Installation(root, LEDGER).undo(force=True)
    assert state(root) == before


def test_who_puts_a_file_back_himself_finds_it_so(root: Path) -> None:
    before, path = state(root), root / PATHS[0][1:]
    Installation(root, LEDGER).install(plan("one", "two"))
    for each in PATHS[:2]:
        (root / each[1:]).write_text("theirs")
    Installation(root, LEDGER).install(plan("both", "both"), force=True)
    path.write_text("mine, without an end of line")
    (root / PATHS[1][1:]).unlink()
    assert set(Installation(root, LEDGER).undo()) == set(PATHS[:2])
    assert state(root) == before


def test_what_force_would_take_back_can_be_seen_before(root: Path) -> None:
    Installation(root, LEDGER).install(plan("one", "two"))
    for each in PATHS[:2]:
        (root / each[1:]).write_text("theirs")
    there = Installation(root, LEDGER)
    assert there.before() == dict.fromkeys(PATHS[:2], b"theirs")
    first = b"mine, without an end of line"
    assert there.before(force=True) == {PATHS[0]: first, PATHS[1]: None}


def test_what_a_later_plan_leaves_out_goes_back_to_what_somebody_made_of_it(root: Path) -> None:
    before, path = state(root), root / PATHS[0][1:]
    Installation(root, LEDGER).install(plan("one"))
    path.write_text("theirs")
    Installation(root, LEDGER).install(plan("theirs and one"), force=True)
    Installation(root, LEDGER).install(plan(None))
    assert path.read_text() == "theirs"
    Installation(root, LEDGER).undo(force=True)
    assert state(root) == before


def test_what_somebody_removed_since_comes_back_when_it_was_there_before(root: Path) -> None:
    before = state(root)
    Installation(root, LEDGER).install(plan("one", "two"))
    for path in PATHS[:2]:
        (root / path[1:]).unlink()
    with pytest.raises(ChangedSinceError) as caught:
        Installation(root, LEDGER).undo()
    assert caught.value.paths == [PATHS[0]]
    Installation(root, LEDGER).undo(force=True)
    assert state(root) == before


def test_a_link_stays_a_link(root: Path) -> None:
    (root / "real").write_text("mine")
    path = root / PATHS[0][1:]
    path.unlink()
    path.symlink_to(root / "real")
    before = state(root)
    Installation(root, LEDGER).install(plan("one"))
    assert (root / "real").read_text() == "mine"
    Installation(root, LEDGER).undo()
    assert state(root) == before


@pytest.mark.parametrize("is_there", [True, False])
def test_a_relative_link_is_looked_at_from_where_it_was(root: Path, *, is_there: bool) -> None:
    shared, path = root / "etc/shared.conf", root / PATHS[0][1:]
    if is_there:
        shared.write_text("mine")
    path.unlink()
    path.symlink_to("../shared.conf")
    before = state(root)
    Installation(root, LEDGER).install(plan("one"))
    there = Installation(root, LEDGER)
    assert there.read(PATHS[0]) == ("mine" if is_there else None)
    assert there.before() == {PATHS[0]: b"mine" if is_there else None}
    path.write_text("one, and theirs")
    with pytest.raises(ChangedSinceError):
        Installation(root, LEDGER).undo()
    assert path.read_text() == "one, and theirs"
    Installation(root, LEDGER).undo(force=True)
    assert state(root) == before


def test_what_was_written_is_not_taken_for_what_was_there(root: Path) -> None:
    Installation(root, LEDGER).install(plan("one", "two", "three"))
    there = Installation(root, LEDGER)
    assert there.names("/etc") == ["client"]
    assert there.names("/etc/client/") == ["a.conf"]
    (root / "etc/client/deep/er/theirs").touch()
    assert there.names("/etc/client") == ["a.conf", "deep"]
    assert there.names("/etc/client/deep/er") == ["theirs"]


def test_what_is_not_text_is_left_alone(root: Path) -> None:
    (root / PATHS[0][1:]).write_bytes(b"\xff")
    with pytest.raises(CannotMergeError, match="UTF-8"):
        Installation(root, LEDGER).read(PATHS[0])


def test_what_others_put_into_a_directory_of_ours_stays(root: Path) -> None:
    Installation(root, LEDGER).install(plan(None, "two"))
    beside = (root / PATHS[1][1:]).with_name("theirs")
    beside.write_text("x")
    Installation(root, LEDGER).undo()
    assert beside.read_text() == "x"
    assert not (root / PATHS[1][1:]).exists()


@pytest.mark.parametrize("is_linked", [True, False])
def test_what_only_its_owner_may_read_is_at_no_moment_read_by_others(
    root: Path, monkeypatch: pytest.MonkeyPatch, *, is_linked: bool
) -> None:
    path, modes = root / PATHS[0][1:], set[int]()
    path.chmod(0o600)
    before = state(root)
    original = os.chmod

    def looking(changed: Path, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 -- as in os
        if Path(changed).name != f"ledger.json{installing._TEMPORARY}":
            modes.add(Path(changed).lstat().st_mode & 0o777)
        original(changed, *arguments, **options)

    def elsewhere(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "it is on another file system")

    if not is_linked:
        monkeypatch.setattr(os, "link", elsewhere)
    monkeypatch.setattr(os, "chmod", looking)
    Installation(root, LEDGER).install(plan("a secret"))
    assert path.lstat().st_mode & 0o777 == 0o600
    Installation(root, LEDGER).undo()
    assert modes == {0o600}
    assert state(root) == before


def test_a_link_that_had_to_be_copied_is_a_link_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / PATHS[0][1:]
    path.unlink()
    path.symlink_to("../nowhere")
    before = state(root)

    def elsewhere(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "it is on another file system")

    monkeypatch.setattr(os, "link", elsewhere)
    Installation(root, LEDGER).install(plan("one"))
    Installation(root, LEDGER).undo()
    assert state(root) == before


class _CutError(BaseException):
    """The power is gone."""


@pytest.mark.parametrize("call", ["install", "undo"])
def test_no_moment_loses_what_somebody_made_of_a_file(
    root: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, spare = state(root), root.with_name("spare")
    path = spare / PATHS[0][1:]
    for moments in range(1, 20):
        shutil.copytree(root, spare, symlinks=True)
        Installation(spare, LEDGER).install(plan("one"))
        path.write_text("theirs")
        if call == "undo":
            Installation(spare, LEDGER).install(plan("theirs and one"), force=True)
        with monkeypatch.context() as patch:
            cut = _cut_after(patch, moments)
            with suppress(_CutError, ChangedSinceError):
                there = Installation(spare, LEDGER)
                if call == "undo":
                    there.undo()
                else:
                    there.install(plan("theirs and one"), force=True)
        with suppress(ChangedSinceError):
            Installation(spare, LEDGER).undo()
        assert path.read_text() == "theirs", f"after {moments} changes"
        Installation(spare, LEDGER).undo(force=True)
        assert state(spare) == before, f"after {moments} changes"
        shutil.rmtree(spare)
    assert cut() < moments


@pytest.mark.parametrize("call", ["install", "undo"])
def test_any_moment_may_be_the_last(root: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(root)
    spare = root.with_name("spare")
    moments = 0
    while True:
        moments += 1
        shutil.copytree(root, spare, symlinks=True, dirs_exist_ok=False)
        if call == "undo":
            Installation(spare, LEDGER).install(plan("one", "two"))
        with monkeypatch.context() as patch:
            cut = _cut_after(patch, moments)
            try:
                there = Installation(spare, LEDGER)
                there.undo() if call == "undo" else there.install(plan("one", "two"))
            except _CutError:
                pass
        Installation(spare, LEDGER).undo()
        assert state(spare) == before, f"after {moments} changes"
        shutil.rmtree(spare)
        if cut() < moments:
            break
    assert moments > 5


def _cut_after(patch: pytest.MonkeyPatch, moments: int) -> Callable[[], int]:
    """Let the process end before its n-th change of a directory; returns how many there were."""
    done = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 -- any call of os
            nonlocal done
            done += 1
            if done >= moments:
                raise _CutError
            return original(*arguments, **options)

        return call

    for name in ("replace", "link", "unlink", "rmdir", "mkdir"):
        patch.setattr(os, name, counted(getattr(os, name)))
    return lambda: done


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    there=st.lists(st.sampled_from([None, "mine", ""]), min_size=3, max_size=3),
    plans=st.lists(
        st.lists(st.sampled_from([None, "mine", "x", "y"]), min_size=3, max_size=3), max_size=3
    ),
)
def test_any_plans_in_a_row_are_taken_back(
    there: list[str | None], plans: list[list[str | None]], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for path, text in zip(PATHS, there, strict=True):
        if text is not None:
            (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
            (root / path[1:]).write_text(text)
    before = state(root)
    for each in plans:
        Installation(root, LEDGER).install(plan(*each))
        for path, text in zip(PATHS, each, strict=True):
            if text is not None:
                assert (root / path[1:]).read_text() == text
    Installation(root, LEDGER).undo()
    assert state(root) == before
