"""What an operator asks of the cache of a running mirror: look, remove, collect, verify, pin."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.domain.names import ANONYMOUS_SCOPE
from mirror.service.cache_admin import CacheAdmin
from mirror.service.refusals import RefusalCode, RefusedError
from mirror.store.checking import Fault, Finding, Verdict
from mirror.store.sweep import Leftover
from tests.fakes.clock import FakeClock
from tests.fakes.content import Blob, image, index
from tests.fakes.registry import FakeRegistry
from tests.harness import Mirror, mirror_of, parse
from tests.unit.web.wire import REPOSITORY, blob_path, manifest_path

ONE, TWO = image(1), image(2, architecture="arm64")
BOTH = index([ONE, TWO])
NAME = f"docker.io/{REPOSITORY}"
DAY_SECONDS = 86400


@pytest.fixture
async def mirror(tmp_path: Path, upstream: FakeRegistry, clock: FakeClock) -> AsyncIterator[Mirror]:
    upstream.push(REPOSITORY, ONE, ["one"])
    upstream.push(REPOSITORY, BOTH, ["both"])
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, clock=clock) as up:
        yield up


async def pull(mirror: Mirror, tag: str = "one", repository: str = REPOSITORY) -> None:
    """Pull an image, or an index and the first of its platforms."""
    await mirror.get(f"/v2/{repository}/manifests/{tag}")
    await mirror.get(f"/v2/{repository}/manifests/{ONE.digest}")
    await mirror.pull_blobs(repository, ONE)


async def checked(cache: CacheAdmin, *, repair: bool = False) -> tuple[list[Finding], Verdict]:
    events = [event async for event in cache.verify(repair=repair)]
    assert isinstance(events[-1], Verdict)
    return [event for event in events if isinstance(event, Finding)], events[-1]


def spoil(mirror: Mirror, which: Blob) -> None:
    """Flip a byte of a stored file; the length stays."""
    content = bytearray(mirror.stored(which.digest).read_bytes())
    content[-1] ^= 1
    mirror.stored(which.digest).write_bytes(content)


def size_of(*stored: Blob) -> int:
    return sum(each.size_bytes for each in stored)


# --- looking ---------------------------------------------------------------------------------


async def test_images_are_listed_with_what_they_link_and_what_is_here(mirror: Mirror) -> None:
    await pull(mirror, "both")
    found = await mirror.up.cache.images()

    assert [(each.repository, each.tag, each.digest) for each in found] == [
        (NAME, "both", BOTH.digest)
    ]
    (both,) = found
    here = size_of(BOTH, ONE, *ONE.blobs)
    assert (both.stored_bytes, both.size_bytes) == (here, here + TWO.size_bytes)
    assert (both.complete, both.platforms, both.pinned) == (True, ("linux/amd64",), False)


async def test_what_lacks_a_layer_is_not_whole(mirror: Mirror) -> None:
    await mirror.get(manifest_path("one"))
    (one,) = await mirror.up.cache.images()
    assert (one.complete, one.platforms) == (False, ())
    assert (one.stored_bytes, one.size_bytes) == (ONE.size_bytes, size_of(ONE, *ONE.blobs))


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("alpine", 2),
        ("alpine:o*", 1),
        ("library/*:both", 1),
        ("docker.io/**", 2),
        (f"**@{ONE.digest}", 1),
        ("ghcr.io/**", 0),
        ("alp", 0),
    ],
)
async def test_globs_may_leave_out_what_names_may(mirror: Mirror, pattern: str, count: int) -> None:
    for tag in ("one", "both"):
        await mirror.get(manifest_path(tag))
    assert len(await mirror.up.cache.images([pattern])) == count


async def test_untagged_manifests_are_listed_when_they_are_asked_for(mirror: Mirror) -> None:
    await mirror.get(manifest_path(ONE.digest))
    assert await mirror.up.cache.images() == []
    (one,) = await mirror.up.cache.images(untagged=True)
    assert (one.tag, one.digest) == (None, ONE.digest)


async def test_what_repositories_share_counts_once_in_the_total(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push("library/other", ONE, ["one"])
    await pull(mirror)
    await pull(mirror, repository="library/other")
    usage = await mirror.up.cache.usage()

    size = size_of(ONE, *ONE.blobs)
    assert usage.repositories is not None
    assert {
        each.repository: (each.stored_bytes, each.own_bytes) for each in usage.repositories
    } == {
        NAME: (size, 0),
        "docker.io/library/other": (size, 0),
    }
    assert (usage.stored_bytes, usage.shared_bytes, usage.unlinked_bytes) == (size, size, 0)
    assert (usage.blobs, usage.manifests) == (len(ONE.blobs), 1)


# --- removing --------------------------------------------------------------------------------


async def test_a_dry_run_tells_what_the_removal_then_does(mirror: Mirror) -> None:
    await pull(mirror)
    said = await mirror.up.cache.remove(["alpine:one"], dry_run=True)
    assert mirror.stored(ONE.digest).exists()
    done = await mirror.up.cache.remove(["alpine:one"], dry_run=False)

    assert (said.images, said.tags, said.objects, said.freed_bytes) == (
        done.images,
        done.tags,
        done.objects,
        done.freed_bytes,
    )
    assert done.freed_bytes == size_of(ONE, *ONE.blobs)
    assert not any(mirror.stored(each.digest).exists() for each in (ONE, *ONE.blobs))
    assert await mirror.up.cache.images(untagged=True) == []
    assert mirror.up.store.space.used_bytes == 0


async def test_what_another_image_needs_stays(mirror: Mirror) -> None:
    await pull(mirror, "both")
    await mirror.get(manifest_path("one"))
    removed = await mirror.up.cache.remove(["alpine:both"], dry_run=False)
    assert removed.freed_bytes == BOTH.size_bytes
    assert (await mirror.get(blob_path(ONE.layers[0].digest))).cache_status.startswith(
        "mirror; hit"
    )


async def test_what_another_repository_has_stays_there(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push("library/other", ONE, ["one"])
    await pull(mirror)
    await pull(mirror, repository="library/other")
    removed = await mirror.up.cache.remove(["alpine:one"], dry_run=False)
    assert (removed.tags, removed.freed_bytes) == (1, 0)
    upstream.clear()
    assert (await mirror.get(f"/v2/library/other/manifests/{ONE.digest}")).body == ONE.content
    assert not upstream.requests


async def test_a_pin_elsewhere_keeps_the_objects_and_not_the_tag(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push("library/other", ONE, ["one"])
    await pull(mirror, "both")
    await pull(mirror, repository="library/other")
    await mirror.up.cache.pin("alpine:both")
    removed = await mirror.up.cache.remove(["other:one"], dry_run=False)
    assert (removed.images, removed.pinned) == (("docker.io/library/other:one",), ())
    assert (removed.tags, removed.freed_bytes) == (1, 0)
    usage = await mirror.up.cache.usage()
    assert usage.repositories is not None
    assert [each.repository for each in usage.repositories] == [NAME]
    removed = await mirror.up.cache.remove([f"alpine@{BOTH.digest}"], dry_run=False)
    assert removed.pinned == (f"{NAME}@{BOTH.digest}",)
    assert (await mirror.get(manifest_path("both"))).cache_status.startswith("mirror; hit")


async def test_a_repository_forgets_what_it_lost_though_another_one_has_it(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push("library/other", BOTH, ["both"])
    await pull(mirror, "both")
    await pull(mirror, "both", "library/other")
    await mirror.up.cache.remove(["alpine:both"], dry_run=False)
    # The blob first: a manifest that upstream answers for vouches for its blobs again.
    for path in (blob_path(ONE.layers[0].digest), manifest_path(ONE.digest)):
        upstream.clear()
        await mirror.get(path)
        assert upstream.requests, path
    upstream.clear()
    for each in (f"manifests/{ONE.digest}", f"blobs/{ONE.layers[0].digest}"):
        assert (await mirror.get(f"/v2/library/other/{each}")).status == 200
    assert not upstream.requests
    assert (await checked(mirror.up.cache))[0] == []


async def test_what_was_removed_is_fetched_again(mirror: Mirror, upstream: FakeRegistry) -> None:
    await pull(mirror)
    await mirror.up.cache.remove(["alpine:one"], dry_run=False)
    upstream.clear()
    assert (await mirror.get(manifest_path("one"))).body == ONE.content
    assert upstream.requests


async def test_what_is_not_here_is_said(mirror: Mirror) -> None:
    removed = await mirror.up.cache.remove(["alpine:none"], dry_run=False)
    assert (removed.missing, removed.objects) == ((f"{NAME}:none",), 0)


@pytest.mark.parametrize("text", ["UPPER/case", "alpine:", "alpine@sha256:1", "", "a b"])
async def test_a_name_that_is_none_is_refused_with_a_hint(mirror: Mirror, text: str) -> None:
    with pytest.raises(RefusedError) as raised:
        await mirror.up.cache.remove([text], dry_run=False)
    assert raised.value.code is RefusalCode.INVALID
    assert "alpine:3.20" in raised.value.hint


# --- pins ------------------------------------------------------------------------------------


async def test_a_pinned_image_is_not_removed_until_it_is_unpinned(mirror: Mirror) -> None:
    await pull(mirror)
    pin = await mirror.up.cache.pin("alpine:one")
    assert (pin.image, pin.digest, pin.stored) == (f"{NAME}:one", ONE.digest, True)
    assert (await mirror.up.cache.images())[0].pinned
    removed = await mirror.up.cache.remove(["alpine:one"], dry_run=False)
    assert (removed.pinned, removed.objects) == ((f"{NAME}:one",), 0)

    assert await mirror.up.cache.unpin("library/alpine:one") == f"{NAME}:one"
    assert await mirror.up.cache.pins() == []
    assert (await mirror.up.cache.remove(["alpine:one"], dry_run=False)).objects


async def test_what_is_not_pinned_cannot_be_unpinned(mirror: Mirror) -> None:
    with pytest.raises(RefusedError) as raised:
        await mirror.up.cache.unpin("alpine:one")
    assert raised.value.code is RefusalCode.NOT_FOUND


async def test_a_pin_that_another_takes_away_meanwhile_is_refused(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = mirror.up.cache

    async def unpin() -> None:
        monkeypatch.undo()
        await cache.unpin("alpine:one")

    monkeypatch.setattr(cache, "_settled", unpin)  # awaited when the pin is set
    with pytest.raises(RefusedError, match="unpinned again") as raised:
        await cache.pin("alpine:one")
    assert raised.value.code is RefusalCode.NOT_FOUND


async def test_a_pin_of_what_is_not_here_says_so(mirror: Mirror) -> None:
    pin = await mirror.up.cache.pin("alpine:one", ["linux/amd64"])
    assert (pin.stored, pin.digest, pin.platforms) == (False, None, ("linux/amd64",))


# --- verify ----------------------------------------------------------------------------------


async def test_nothing_is_wrong_with_a_cache_that_was_left_alone(mirror: Mirror) -> None:
    await pull(mirror, "both")
    findings, verdict = await checked(mirror.up.cache)
    assert findings == []
    assert verdict.checked_objects == len([BOTH, ONE, *ONE.blobs])
    assert verdict.checked_bytes == size_of(BOTH, ONE, *ONE.blobs)


async def test_a_spoilt_object_is_found_and_with_repair_fetched_again(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    await pull(mirror)
    layer = ONE.layers[0]
    spoil(mirror, layer)
    (finding,), verdict = await checked(mirror.up.cache)
    assert (finding.kind, finding.name) == (Fault.CONTENT, layer.digest)
    assert (finding.repaired, verdict.wrong, verdict.repaired) == (False, 1, 0)
    assert mirror.stored(layer.digest).exists()

    (finding,), verdict = await checked(mirror.up.cache, repair=True)
    assert finding.repaired
    assert verdict.freed_bytes == layer.size_bytes
    upstream.clear()
    assert (await mirror.get(blob_path(layer.digest))).body == layer.content
    assert upstream.requests
    assert (await checked(mirror.up.cache))[0] == []


async def test_what_somebody_reads_is_not_removed(mirror: Mirror) -> None:
    await pull(mirror)
    layer = ONE.layers[0]
    spoil(mirror, layer)
    opened = await mirror.up.store.open(parse(layer.digest), ANONYMOUS_SCOPE)
    assert opened is not None
    with opened.file:
        (finding,), _ = await checked(mirror.up.cache, repair=True)
    assert not finding.repaired
    assert "in use" in finding.detail
    assert mirror.stored(layer.digest).exists()


async def test_a_row_without_a_file_and_a_ref_that_cannot_be_read_are_repaired(
    mirror: Mirror, tmp_path: Path
) -> None:
    await pull(mirror)
    layer = ONE.layers[0]
    mirror.stored(layer.digest).unlink()
    ref = tmp_path / f"cache/refs/{NAME}/_tags/one"
    before = ref.read_bytes()
    ref.write_bytes(b"{")

    kinds = {finding.kind for finding in (await checked(mirror.up.cache))[0]}
    assert kinds == {Fault.NO_FILE, Fault.REF}
    _, verdict = await checked(mirror.up.cache, repair=True)
    assert (verdict.wrong, verdict.repaired) == (2, 2)
    assert ref.read_bytes() == before
    assert (await checked(mirror.up.cache))[0] == []
    assert (await mirror.get(blob_path(layer.digest))).body == layer.content


async def test_a_file_without_a_row_gets_its_row_again(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    await pull(mirror)
    layer = ONE.layers[0]
    index_ = mirror.up.store.parts.index
    await mirror.up.store.parts.pools.index_write.run(index_.drop_object, layer.digest)
    await mirror.up.store.facts.forget_object(layer.digest)
    mirror.up.store.space.stored_by["docker.io"] -= layer.size_bytes
    (finding,), _ = await checked(mirror.up.cache)
    assert (finding.kind, finding.name) == (Fault.NO_ROW, layer.digest)

    (finding,), verdict = await checked(mirror.up.cache, repair=True)
    assert (finding.repaired, verdict.freed_bytes) == (True, 0)
    upstream.clear()
    assert (await mirror.get(blob_path(layer.digest))).body == layer.content
    assert not upstream.requests


async def test_a_foreign_file_is_named_and_left_alone(mirror: Mirror, tmp_path: Path) -> None:
    foreign = tmp_path / "cache/blobs/sha256/notes.txt"
    foreign.parent.mkdir(parents=True, exist_ok=True)
    foreign.write_text("mine")
    (finding,), _ = await checked(mirror.up.cache, repair=True)
    assert (finding.kind, finding.repaired) == (Fault.FOREIGN, False)
    assert foreign.exists()


async def test_only_one_verification_runs_at_a_time(mirror: Mirror) -> None:
    await pull(mirror)
    first = mirror.up.cache.verify(repair=False)
    await anext(first)
    with pytest.raises(RefusedError) as raised:
        await anext(mirror.up.cache.verify(repair=False))
    assert raised.value.code is RefusalCode.BUSY
    await first.aclose()
    await checked(mirror.up.cache)


async def test_pulls_go_on_while_the_cache_is_verified(mirror: Mirror) -> None:
    verified = asyncio.create_task(checked(mirror.up.cache, repair=True))
    await pull(mirror, "both")
    assert (await verified)[0] == []


# --- gc --------------------------------------------------------------------------------------


async def test_nothing_of_a_healthy_cache_is_collected(mirror: Mirror, clock: FakeClock) -> None:
    await pull(mirror, "both")
    await mirror.get(f"/v2/{REPOSITORY}/tags/list")
    await mirror.get(f"/v2/{REPOSITORY}/referrers/{ONE.digest}")
    for _ in range(2):
        swept = await mirror.up.cache.collect(dry_run=False)
        assert swept.counts == {}
        clock.advance(DAY_SECONDS)


async def test_files_and_rows_without_each_other_are_collected(
    mirror: Mirror, tmp_path: Path
) -> None:
    await pull(mirror)
    lone = mirror.stored("sha256:" + "ab" * 32)
    lone.parent.mkdir(parents=True, exist_ok=True)
    lone.write_bytes(b"x" * 1000)
    mirror.stored(ONE.layers[0].digest).unlink()

    said = await mirror.up.cache.collect(dry_run=True)
    assert lone.exists()
    assert said.counts == {Leftover.FILE: 1, Leftover.ROW: 1}
    assert said.freed_bytes == lone.stat().st_size
    done = await mirror.up.cache.collect(dry_run=False)
    assert (done.counts, done.freed_bytes) == (said.counts, said.freed_bytes)
    assert not lone.exists()
    assert (await mirror.get(blob_path(ONE.layers[0].digest))).body == ONE.layers[0].content
    assert (await mirror.up.cache.collect(dry_run=True)).counts == {}


async def test_what_an_old_tag_led_to_is_forgotten_when_it_is_of_no_use(
    mirror: Mirror, clock: FakeClock, tmp_path: Path
) -> None:
    await mirror.get(manifest_path("one"))
    await mirror.up.store.remove(parse(ONE.digest))
    tag = tmp_path / f"cache/refs/{NAME}/_tags/one"
    assert (await mirror.up.cache.collect(dry_run=False)).counts.get(Leftover.TAG) is None
    assert tag.exists()

    clock.advance(60 * DAY_SECONDS)
    swept = await mirror.up.cache.collect(dry_run=False)
    assert swept.counts[Leftover.TAG] == 1
    assert not tag.exists()
    assert (await mirror.get(manifest_path("one"))).body == ONE.content


async def test_pulls_go_on_while_the_cache_is_swept(mirror: Mirror) -> None:
    swept = asyncio.create_task(mirror.up.cache.collect(dry_run=False))
    await pull(mirror, "both")
    assert (await swept).counts == {}
    assert (await checked(mirror.up.cache))[0] == []


async def test_a_pin_of_what_is_no_platform_is_refused(mirror: Mirror) -> None:
    with pytest.raises(RefusedError, match="'amd64' is not a platform"):
        await mirror.up.cache.pin("alpine:one", ("amd64",))
    assert await mirror.up.cache.pins() == []
