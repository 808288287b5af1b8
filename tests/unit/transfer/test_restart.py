"""A fill that another process began (invariant 4); no other cache goes on with it."""

import os
import time
from pathlib import Path

import msgspec
import pytest

from mirror.domain.names import ANONYMOUS_SCOPE, Digest
from mirror.runtime.clock import Clock
from mirror.settings.units import SizeOrShare
from mirror.store import partial as partial_module
from mirror.store.layout import Layout
from mirror.store.partial import Partial
from mirror.store.partials import Partials
from mirror.store.sidecar import Sidecar, boot_id, read_sidecar, sidecar_path
from tests.fakes import faults
from tests.fakes.clients import Ended
from tests.fakes.content import Blob, blob
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, Mirror, mirror_of
from tests.unit.transfer.helpers import REPOSITORY, path

PUSHED = blob(3 * MIB, 7)
OWNER = f"docker.io/{REPOSITORY}"


def leave(directory: Path, content: bytes, pushed: Blob = PUSHED, **sidecar: object) -> Path:
    """Leave a partial behind, as a process does that is killed."""
    layout = Layout(directory)
    layout.prepare()
    found = layout.partial(ANONYMOUS_SCOPE, Digest.parse(pushed.digest))
    found.write_bytes(content)
    facts = Sidecar(pushed.size_bytes, (OWNER,), "http://somewhere", 0, boot_id())
    told = {**msgspec.structs.asdict(facts), **sidecar}
    sidecar_path(found).write_bytes(msgspec.json.encode(told))
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def registry(upstream: FakeRegistry) -> FakeRegistry:
    upstream.push_blob(REPOSITORY, PUSHED)
    return upstream


async def pulled(mirror: Mirror) -> None:
    """Pull the blob, whole and right, and see it kept with nothing left over."""
    assert (await mirror.get(path(PUSHED.digest))).body == PUSHED.content
    await mirror.settled()
    assert mirror.stored(PUSHED.digest).read_bytes() == PUSHED.content
    assert not list((mirror.directory / "partial").iterdir())
    space = mirror.up.store.space
    assert (space.used_bytes, space.reserved_bytes) == (3 * MIB, 0)


async def test_a_partial_goes_on_where_it_was(directory: Path, registry: FakeRegistry) -> None:
    leave(directory, PUSHED.content[:MIB])
    async with mirror_of(directory, {"docker.io": registry}) as mirror:
        assert mirror.up.store.space.used_bytes == MIB
        await pulled(mirror)

        assert [each.header("Range") for each in registry.requests] == [f"bytes={MIB}-"]
        assert await mirror.total("mirror_upstream_bytes_total") == 2 * MIB


async def test_readers_have_what_is_there_before_more_comes(
    directory: Path, registry: FakeRegistry
) -> None:
    leave(directory, PUSHED.content[: 2 * MIB])
    gate = registry.hold_body(PUSHED.digest, after_bytes=0)
    async with mirror_of(directory, {"docker.io": registry}) as mirror:
        async with mirror.session.get(mirror.url + path(PUSHED.digest)) as response:
            assert await response.content.readexactly(MIB) == PUSHED.content[:MIB]
            gate.release()
            assert await response.read() == PUSHED.content[MIB:]
        await mirror.settled()


async def test_what_only_lacked_its_name_needs_no_upstream(
    directory: Path, registry: FakeRegistry
) -> None:
    leave(directory, PUSHED.content)
    async with mirror_of(directory, {"docker.io": registry}) as mirror:
        await pulled(mirror)
        assert registry.count("GET", "blob") == 0
        assert registry.count("HEAD", "blob") == 1  # whether this repository has it


async def test_what_was_not_synced_before_another_boot_is_fetched_again(
    directory: Path, registry: FakeRegistry
) -> None:
    """After a power failure the length of a file may cover blocks that were never written."""
    content = PUSHED.content[:MIB] + bytes(MIB)
    leave(directory, content, synced_bytes=MIB, boot_id="another")
    async with mirror_of(directory, {"docker.io": registry}) as mirror:
        await pulled(mirror)
        assert registry.requests[-1].header("Range") == f"bytes={MIB}-"


@pytest.mark.parametrize("length", [MIB, 3 * MIB], ids=["a part", "all"])
async def test_a_partial_that_is_wrong_is_fetched_from_zero_and_nobody_is_blamed(
    directory: Path, registry: FakeRegistry, length: int
) -> None:
    leave(directory, b"x" + PUSHED.content[1:length])
    async with mirror_of(directory, {"docker.io": registry}) as mirror:
        got = await mirror.raw(path(PUSHED.digest))
        assert got.body == PUSHED.content or got.ended is Ended.FIN
        await pulled(mirror)
        assert await mirror.total("mirror_digest_mismatches_total") == 0
        assert registry.requests[-1].header("Range") is None
        if length == 3 * MIB:  # it was found to be wrong before anybody had it
            assert (got.ended, got.body) == (Ended.COMPLETE, PUSHED.content)
            assert registry.count("GET", "blob") == 1


@pytest.mark.parametrize(
    ("content", "sidecar"),
    [(b"", None), (b"bytes", None), (b"bytes", b"{"), (b"bytes", b'{"size_bytes": "1"}')],
)
async def test_a_partial_that_nothing_speaks_for_is_removed(
    directory: Path, registry: FakeRegistry, content: bytes, sidecar: bytes | None
) -> None:
    left = leave(directory, content)
    sidecar_path(left).unlink()
    if sidecar is not None:
        sidecar_path(left).write_bytes(sidecar)
    async with mirror_of(directory, {"docker.io": registry}) as mirror:
        assert not list((directory / "partial").iterdir())
        await pulled(mirror)
        assert registry.requests[-1].header("Range") is None


async def test_an_upstream_that_ignores_ranges_is_read_over(
    directory: Path, registry: FakeRegistry
) -> None:
    leave(directory, PUSHED.content[:MIB])
    registry.fail(faults.ignore_range(), kind="blob")
    async with mirror_of(directory, {"docker.io": registry}) as mirror:
        await pulled(mirror)


async def test_another_length_than_before_is_fetched_from_zero(
    directory: Path, registry: FakeRegistry
) -> None:
    leave(directory, PUSHED.content[:MIB], size_bytes=5 * MIB)
    async with mirror_of(directory, {"docker.io": registry}) as mirror:
        await pulled(mirror)
        assert [each.header("Range") for each in registry.requests] == [f"bytes={MIB}-", None]


async def test_without_upstream_a_partial_waits(directory: Path, registry: FakeRegistry) -> None:
    leave(directory, PUSHED.content[:MIB])
    async with mirror_of(directory, {"docker.io": registry}) as mirror:
        registry.fail(faults.status(503), kind="blob", times=1)
        assert (await mirror.get(path(PUSHED.digest))).status == 502
        await mirror.settled()
        assert mirror.up.store.partials.idle_bytes == MIB
        await pulled(mirror)
        assert registry.requests[-1].header("Range") == f"bytes={MIB}-"


async def test_a_repository_that_lacks_the_blob_does_not_cost_another_its_partial(
    directory: Path, registry: FakeRegistry
) -> None:
    leave(directory, PUSHED.content[:MIB])
    async with mirror_of(directory, {"docker.io": registry}) as mirror:
        assert (await mirror.get(path(PUSHED.digest, "library/other"))).status == 404
        await mirror.settled()
        assert mirror.up.store.partials.idle_bytes == MIB
        await pulled(mirror)


async def test_partials_make_room_the_oldest_first(directory: Path, registry: FakeRegistry) -> None:
    old, new = blob(2 * MIB, 1), blob(2 * MIB, 2)
    hour_ago = time.time() - 3600
    os.utime(leave(directory, old.content[:MIB], old), (hour_ago, hour_ago))
    kept = leave(directory, new.content[:MIB], new)
    room = {"max_size": SizeOrShare(size_bytes=4 * MIB)}
    async with mirror_of(directory, {"docker.io": registry}, cache=room) as mirror:
        assert (await mirror.get(path(PUSHED.digest))).body == PUSHED.content
        await mirror.settled()

        assert set((directory / "partial").iterdir()) == {kept, sidecar_path(kept)}
        assert mirror.up.store.space.used_bytes == 4 * MIB


async def test_a_partial_that_nobody_wants_any_more_goes(
    directory: Path, registry: FakeRegistry
) -> None:
    day_ago = time.time() - 25 * 3600
    os.utime(leave(directory, PUSHED.content[:MIB]), (day_ago, day_ago))
    async with mirror_of(directory, {"docker.io": registry}):
        assert not list((directory / "partial").iterdir())


def test_two_do_not_write_one_partial(directory: Path) -> None:
    layout = Layout(directory)
    layout.prepare()
    digest = Digest.parse(PUSHED.digest)
    target, found = layout.blob(digest), layout.partial("_", digest)
    first = Partial(digest, found, target, layout.replace_file)
    with pytest.raises(BlockingIOError):
        Partial(digest, found, target, layout.replace_file)
    first.rest()
    Partial(digest, found, target, layout.replace_file).close()
    first.close()


# --- small ones: what they are is said when it may be needed ----------------------------------


def begun(directory: Path, pushed: Blob, length: int) -> tuple[Partials, Partial]:
    """Begin a download as the writer of a fill does."""
    layout = Layout(directory)
    layout.prepare()
    partials = Partials(layout, 3600, Clock())
    partial = partials.take(Digest.parse(pushed.digest), ANONYMOUS_SCOPE)
    partial.describe(pushed.size_bytes, OWNER, "http://somewhere")
    partial.hash([pushed.content[:length]])
    partial.write([pushed.content[:length]])
    return partials, partial


SMALL = blob(MIB, 8)


@pytest.mark.parametrize("length", [MIB // 2, MIB], ids=["a part", "all"])
def test_a_small_one_that_is_quick_leaves_no_word(directory: Path, length: int) -> None:
    _, partial = begun(directory, SMALL, length)
    assert [each.name for each in (directory / "partial").iterdir()] == [partial.path.name]
    partial.hash([SMALL.content[length:]])
    partial.write([SMALL.content[length:]])
    partial.publish()
    partial.close()

    assert partial.is_right()
    assert not list((directory / "partial").iterdir())


def test_a_small_one_that_takes_its_time_outlasts_a_kill(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, partial = begun(directory, SMALL, MIB // 4)
    monkeypatch.setattr(partial_module, "_QUICK_SECONDS", 0)
    partial.hash([SMALL.content[MIB // 4 : MIB // 2]])
    partial.write([SMALL.content[MIB // 4 : MIB // 2]])
    partial.close()

    word = read_sidecar(partial.path)
    assert word is not None
    assert (word.size_bytes, word.repositories) == (MIB, (OWNER,))


def test_a_small_one_that_breaks_off_waits_to_go_on(directory: Path) -> None:
    partials, partial = begun(directory, SMALL, MIB // 2)
    partials.rest(partial)
    partial.close()
    assert partials.idle_bytes == MIB // 2

    again = partials.take(Digest.parse(SMALL.digest), ANONYMOUS_SCOPE)
    assert again.resumed_bytes == MIB // 2
    assert again.rebuild()
    again.hash([SMALL.content[MIB // 2 :]])
    again.write([SMALL.content[MIB // 2 :]])
    assert again.is_right()
    again.publish()
    again.close()
    assert not list((directory / "partial").iterdir())


async def test_a_small_one_that_was_killed_is_fetched_from_zero(
    directory: Path, upstream: FakeRegistry
) -> None:
    upstream.push_blob(REPOSITORY, SMALL)
    _, partial = begun(directory, SMALL, MIB // 2)
    partial.close()
    async with mirror_of(directory, {"docker.io": upstream}) as mirror:
        assert (await mirror.get(path(SMALL.digest))).body == SMALL.content
        await mirror.settled()
    assert upstream.requests[-1].header("Range") is None


def test_what_was_left_is_hashed_in_turns(directory: Path) -> None:
    """A large one would keep a thread from all others for seconds."""
    partials, partial = begun(directory, SMALL, MIB // 2)
    partials.rest(partial)
    partial.close()

    again = partials.take(Digest.parse(SMALL.digest), ANONYMOUS_SCOPE)
    turns = [again.rebuild(MIB // 5) for _ in range(3)]
    assert turns == [False, False, True]
    again.hash([SMALL.content[MIB // 2 :]])
    assert again.is_right()
    again.close()
