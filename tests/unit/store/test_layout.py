"""Where things stand: modes, versions, names, leftovers, durability."""

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.domain.errors import MirrorError
from mirror.domain.names import Digest, Repository, Tag
from mirror.store.layout import VERSION, Layout, LayoutError
from mirror.store.refs import BlobRef, ManifestRef, Refs, TagRef

REPOSITORY = Repository("docker.io", "library/alpine")
DIGEST = Digest.of(b"")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "cache")
    made.prepare()
    return made


@pytest.fixture
def refs(layout: Layout) -> Refs:
    return Refs(layout)


# --- the directory ---------------------------------------------------------------------------


def test_nobody_else_can_look_in(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        layout = Layout(tmp_path / "deep" / "cache")
        layout.prepare()
        Refs(layout).put_tag(REPOSITORY, Tag("v1"), TagRef("d", 1, 1))
    finally:
        os.umask(before)

    for path in (layout.root, *layout.root.rglob("*")):
        if path.is_dir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    assert (layout.root / "VERSION").read_text(encoding="ascii") == f"{VERSION}\n"


def test_a_directory_of_ours_that_was_opened_up_is_closed_again(layout: Layout) -> None:
    layout.root.chmod(0o755)
    layout.prepare()

    assert stat.S_IMODE(layout.root.stat().st_mode) == 0o700


def test_a_directory_that_was_there_keeps_its_mode_at_first(tmp_path: Path) -> None:
    (tmp_path / "something else").touch()
    tmp_path.chmod(0o755)
    Layout(tmp_path).prepare()

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert (tmp_path / "something else").exists()


@pytest.mark.parametrize("version", ["999\n", "\x00\xff", "1 or so"])
def test_another_layout_is_refused(tmp_path: Path, version: str) -> None:
    (tmp_path / "VERSION").write_text(version, encoding="latin-1")

    with pytest.raises(LayoutError, match="layout"):
        Layout(tmp_path).prepare()


def test_a_version_that_was_never_written_to_its_end_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "VERSION").touch()
    Layout(tmp_path).prepare()

    assert (tmp_path / "VERSION").read_text(encoding="ascii") == f"{VERSION}\n"


def test_a_directory_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(LayoutError, match=r"cache\.directory"):
        Layout(tmp_path / "file" / "cache").prepare()


def test_a_directory_serves_one_mirror(layout: Layout) -> None:
    with layout.lock(), pytest.raises(LayoutError, match="another mirror"):
        layout.lock()
    layout.lock().close()


# --- names -----------------------------------------------------------------------------------

_TEXT = st.one_of(
    st.text(max_size=30),
    st.text("./~_-%\\\0:aA0", max_size=30),
    st.sampled_from(["..", "../..", "/etc/passwd", "a/../../b", "_tags", "a/_tags/b", "~a", "."]),
)


@given(name=_TEXT, tag=_TEXT, digest=_TEXT, algorithm=_TEXT)
def test_no_name_leads_out_of_its_place(name: str, tag: str, digest: str, algorithm: str) -> None:
    root = Path("/cache")
    layout = Layout(root)
    made: list[tuple[Callable[[], Path], Path]] = [
        (lambda: layout.tags(Repository("docker.io", name)), root / "refs/docker.io"),
        (lambda: layout.tag(REPOSITORY, Tag(tag)), layout.tags(REPOSITORY)),
        (lambda: layout.blob(Digest(algorithm, digest)), root / "blobs"),
        (lambda: layout.partial("_", Digest(algorithm, digest)), root / "partial"),
    ]
    for make, below in made:
        try:
            path = make()
        except MirrorError:
            continue
        assert Path(os.path.normpath(path)) == path
        assert path.is_relative_to(below)
        assert path != below


def test_only_files_that_are_named_right_are_objects(layout: Layout) -> None:
    hexes = ["ab" + "0" * 62, "cd" + "1" * 62]
    for path in (
        f"sha256/ab/{hexes[0]}",
        f"sha256/ab/{hexes[1]}",  # in the wrong place
        f"sha512/ab/{hexes[0]}",  # of the wrong length
        f"md5/ab/{hexes[0]}",
        "sha256/ab/README",
        f"sha256/ab/~{hexes[0]}",
    ):
        file = layout.root / "blobs" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (layout.root / "blobs/sha256/cd").mkdir()
    (layout.root / f"blobs/sha256/cd/{hexes[1]}").symlink_to(layout.root / "VERSION")

    assert [str(digest) for digest, _ in layout.objects()] == [f"sha256:{hexes[0]}"]


# --- small files -----------------------------------------------------------------------------


def test_refs_are_what_they_were(refs: Refs) -> None:
    tag = TagRef("sha256:1", 1.5, 2.5, (("sha256:0", 0.5),))
    manifest = ManifestRef("type", "_", 5, 1.0, 2.0)
    blob = BlobRef("ghcr.io", None, 3.0, fetched=True)
    refs.put_tag(REPOSITORY, Tag("v1"), tag)
    refs.put_manifest(REPOSITORY, DIGEST, manifest)
    refs.put_blob(REPOSITORY, DIGEST, blob)

    assert list(refs.all_tags(REPOSITORY)) == [(Tag("v1"), tag)]
    assert list(refs.all_manifests(REPOSITORY)) == [(DIGEST, manifest)]
    assert list(refs.all_blobs(REPOSITORY)) == [(DIGEST, blob)]
    refs.drop(REPOSITORY, DIGEST)
    refs.drop(REPOSITORY, DIGEST)
    assert not [*refs.all_manifests(REPOSITORY), *refs.all_blobs(REPOSITORY)]
    assert refs.tags(REPOSITORY) == ["v1"]


def test_what_cannot_be_read_is_skipped(layout: Layout, refs: Refs) -> None:
    refs.put_tag(REPOSITORY, Tag("good"), TagRef("sha256:1", 1, 1))
    tags = layout.tags(REPOSITORY)
    for name, content in {
        "empty": b"",
        "half": b'{"digest": "sha25',
        "typed": b'{"digest": 5, "seen_at": 1, "confirmed_at": 1}',
        "~half": b"{",
        ".hidden": b"{}",
        "no tag": b"{}",
    }.items():
        (tags / name).write_bytes(content)
    (tags / "directory").mkdir()
    manifests = layout.manifest_ref(REPOSITORY, DIGEST).parent
    manifests.mkdir()
    for name in (str(DIGEST), "sha256:short", f"~{DIGEST}", "README"):
        (manifests / name).write_bytes(b'{"media')

    assert [str(tag) for tag, _ in refs.all_tags(REPOSITORY)] == ["good"]
    assert refs.tags(REPOSITORY) == ["directory", "empty", "good", "half", "typed"]
    assert list(refs.all_manifests(REPOSITORY)) == []


def test_repositories_are_found_wherever_they_stand(layout: Layout, refs: Refs) -> None:
    names = ["a", "a/b", "library/alpine", "x/y/z"]
    for name in names:
        refs.put_tag(Repository("docker.io", name), Tag("_v1"), TagRef("d", 1, 1))
    refs.put_blob(Repository("localhost:5000", "only/blobs"), DIGEST, BlobRef("_", 1, 1))
    (layout.root / "refs/_stray").mkdir()
    (layout.root / "refs/docker.io/UPPER/_tags").mkdir(parents=True)
    (layout.root / "refs/docker.io/_tags").mkdir()

    assert [str(each) for each in refs.repositories()] == [
        *(f"docker.io/{name}" for name in names),
        "localhost:5000/only/blobs",
    ]


def test_a_confirmation_is_written_once_an_hour(layout: Layout, refs: Refs) -> None:
    tag, path = Tag("v1"), layout.tag(REPOSITORY, Tag("v1"))

    def confirmed_at(at: float, digest: str = "sha256:1") -> float:
        refs.confirm_tag(REPOSITORY, tag, TagRef(digest, 0, at))
        return next(ref.confirmed_at for _, ref in refs.all_tags(REPOSITORY))

    assert confirmed_at(0) == 0
    assert confirmed_at(3599) == 0
    assert confirmed_at(3600) == 3600
    assert confirmed_at(3601, "sha256:2") == 3601
    path.write_bytes(b"{")
    assert confirmed_at(3602, "sha256:2") == 3602


class Durability:
    """Remembers in which order files were synced and named."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        real_sync, real_replace = os.fsync, Path.replace

        def fsync(descriptor: int) -> None:
            self.events.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
            real_sync(descriptor)

        def replace(path: Path, target: Path) -> Path:
            named = real_replace(path, target)
            self.events.append(f"name {target.name}")
            return named

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(Path, "replace", replace)


def test_a_small_file_outlasts_a_power_failure(refs: Refs, monkeypatch: pytest.MonkeyPatch) -> None:
    durability = Durability(monkeypatch)
    refs.put_tag(REPOSITORY, Tag("v1"), TagRef("d", 1, 1))

    content, *directories, name, place = durability.events
    assert content.startswith("sync ~")
    assert directories == [f"sync {each}" for each in ("refs", "docker.io", "library", "alpine")]
    assert (name, place) == ("name v1", "sync _tags")


def test_a_small_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(
    layout: Layout, refs: Refs, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs.put_tag(REPOSITORY, Tag("v1"), TagRef("old", 1, 1))

    def fsync(_descriptor: int) -> None:
        raise OSError(28, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="no space"):
            refs.put_tag(REPOSITORY, Tag("v1"), TagRef("new", 1, 1))

    assert [ref.digest for _, ref in refs.all_tags(REPOSITORY)] == ["old"]
    assert not list(layout.partials.iterdir())


def test_many_writers_of_one_name_do_not_spoil_it(layout: Layout) -> None:
    path = layout.tag(REPOSITORY, Tag("v1"))
    contents = [bytes([65 + number]) * 50_000 for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: layout.replace_file(path, content), contents * 2))

    assert path.read_bytes() in contents
    assert not list(layout.partials.iterdir())


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)
