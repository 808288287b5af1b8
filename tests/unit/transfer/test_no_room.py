"""When there is no room: past the cache, or cut short, but never wrong and never lost count."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from mirror.settings.units import SizeOrShare
from tests.fakes import faults
from tests.fakes.clients import Ended
from tests.fakes.content import blob, image
from tests.fakes.registry import FakeRegistry
from tests.fakes.script import Fault
from tests.harness import MIB, Mirror, mirror_of
from tests.unit.transfer.helpers import REPOSITORY, boarded, path


def bound(size_bytes: int) -> dict[str, SizeOrShare]:
    return {"max_size": SizeOrShare(size_bytes=size_bytes)}


@pytest.mark.parametrize(
    ("range_header", "start", "stop"),
    [
        (None, 0, None),
        ("bytes=0-", 0, None),
        ("bytes=1000000-1000099", 1_000_000, 1_000_100),
    ],
)
@pytest.mark.parametrize("does_ranges", [True, False])
async def test_a_blob_larger_than_the_cache_passes_it(
    tmp_path: Path,
    upstream: FakeRegistry,
    range_header: str | None,
    start: int,
    stop: int | None,
    does_ranges: bool,  # noqa: FBT001 -- a parameter of the test
) -> None:
    pushed = blob(3 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.options.ranges = does_ranges
    headers = {"Range": range_header} if range_header else {}
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, cache=bound(MIB)) as mirror:
        got = await mirror.get(path(pushed.digest), headers)

        assert got.status == (206 if range_header else 200)
        assert got.body == pushed.content[start:stop]
        assert await mirror.total("mirror_requests_total", result="passthrough") == 1
        assert not mirror.stored(pushed.digest).exists()
        assert not list((tmp_path / "cache/partial").iterdir())
        await upstream.quiet()


async def test_a_blob_that_a_manifest_calls_too_large_is_asked_for_once(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    pulled = image(layers=1, layer_bytes=2 * MIB)
    upstream.push(REPOSITORY, pulled, tags=["v1"])
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, cache=bound(MIB)) as mirror:
        await mirror.get(f"/v2/{REPOSITORY}/manifests/v1")
        got = await mirror.get(path(pulled.layers[0].digest))

        assert got.body == pulled.layers[0].content
        assert upstream.count(kind="blob") == 1


@pytest.mark.parametrize("range_header", [None, "bytes=0-"])
@pytest.mark.parametrize(
    "fault",
    [faults.flip(at_byte=100), faults.body(b"x" * (3 * MIB + 100_000))],
    ids=["flip", "other"],
)
async def test_past_the_cache_nobody_gets_the_whole_of_a_wrong_blob(
    tmp_path: Path, upstream: FakeRegistry, fault: Fault, range_header: str | None
) -> None:
    pushed = blob(3 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(fault, kind="blob")
    headers = [("Range", range_header)] if range_header else []
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, cache=bound(MIB)) as mirror:
        answer = await mirror.raw(path(pushed.digest), headers)

        assert answer.ended is Ended.FIN
        assert len(answer.body) < int(answer.header("Content-Length") or 0)
        assert await mirror.total("mirror_requests_total", result="passthrough") == 1


async def test_past_the_cache_a_broken_body_goes_on(tmp_path: Path, upstream: FakeRegistry) -> None:
    pushed = blob(3 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.cut(MIB), kind="blob", times=3)  # the fill has one
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, cache=bound(MIB)) as mirror:
        answer = await mirror.raw(path(pushed.digest))

        assert (answer.ended, answer.body) == (Ended.COMPLETE, pushed.content)
        ranges = [request.header("Range") for request in upstream.requests]
        assert ranges[-2:] == [f"bytes={MIB}-{3 * MIB - 1}", f"bytes={2 * MIB}-{3 * MIB - 1}"]
        assert await mirror.total("mirror_upstream_bytes_total") == 3 * MIB


async def test_past_the_cache_more_than_the_manifest_says_is_not_taken(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    pulled = image(layers=1, layer_bytes=2 * MIB)
    digest, size = pulled.layers[0].digest, pulled.layers[0].size_bytes
    upstream.push(REPOSITORY, pulled, tags=["v1"])
    longer = pulled.layers[0].content + bytes(MIB)
    upstream.fail(faults.body(longer), faults.chunked(), kind="blob")
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, cache=bound(MIB)) as mirror:
        await mirror.get(f"/v2/{REPOSITORY}/manifests/v1")
        answer = await mirror.raw(path(digest))

        assert answer.header("Content-Length") == str(size)
        assert (answer.ended, answer.body) == (Ended.COMPLETE, pulled.layers[0].content)


async def test_a_blob_of_unknown_length_takes_room_in_steps(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    small, large = blob(MIB, 1), blob(3 * MIB, 2)
    for each in (small, large):
        upstream.push_blob(REPOSITORY, each)
    upstream.fail(faults.chunked(), kind="blob")
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, cache=bound(2 * MIB)
    ) as mirror:
        assert (await mirror.get(path(small.digest))).body == small.content
        await mirror.settled()
        assert mirror.stored(small.digest).exists()
        # The fill outgrows the cache; its reader goes on without it.
        assert (await mirror.get(path(large.digest))).body == large.content
        await mirror.settled()

        assert not mirror.stored(large.digest).exists()
        assert await mirror.total("mirror_requests_total", result="passthrough") == 0
        assert mirror.up.store.space.reserved_bytes == 0
        assert mirror.up.store.space.used_bytes <= 2 * MIB
        # For who comes again it is known not to fit.
        assert (await mirror.get(path(large.digest))).body == large.content
        assert await mirror.total("mirror_requests_total", result="passthrough") == 1


async def test_a_commit_does_not_count_its_object_twice(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    pushed = [blob(6 * MIB, 1), blob(3 * MIB, 2)]
    for each in pushed:
        upstream.push_blob(REPOSITORY, each)
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, cache=bound(10 * MIB)
    ) as mirror:
        space, most = mirror.up.store.space, 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, space.used_bytes)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        got = await asyncio.gather(*(mirror.get(path(each.digest)) for each in pushed))
        await mirror.settled()
        watching.cancel()

        assert [each.body for each in got] == [each.content for each in pushed]
        assert most == space.stored_bytes == 9 * MIB
        assert await mirror.total("mirror_requests_total", result="passthrough") == 0
        assert await mirror.metric("mirror_cache_bytes") == 9 * MIB


class FullDisk:
    """os.pwrite on a disk that has room for so many bytes."""

    def __init__(self, room_bytes: int, number: int = errno.ENOSPC) -> None:
        self.room_bytes = room_bytes
        self._number = number
        self._real = os.pwrite

    def __call__(self, descriptor: int, data: memoryview, offset: int) -> int:
        if self.room_bytes <= 0:
            raise OSError(self._number, os.strerror(self._number))
        written = self._real(descriptor, data[: self.room_bytes], offset)
        self.room_bytes -= written
        return written


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_a_disk_that_fails_in_the_middle_is_gone_on_without(
    mirror: Mirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Each reader goes on from its own offset, with a GET of its own (invariant 5)."""
    pushed = blob(6 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=100, times=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", FullDisk(3 * MIB, number))
        readers = [asyncio.create_task(mirror.raw(path(pushed.digest)))]
        await gate.reached.wait()
        readers.append(asyncio.create_task(mirror.raw(path(pushed.digest))))
        await boarded(mirror, 2)
        gate.release()
        part = [("Range", f"bytes={4 * MIB}-{5 * MIB}")]
        readers.append(asyncio.create_task(mirror.raw(path(pushed.digest), part)))
        answers = await asyncio.gather(*readers)
        await mirror.settled()

    assert [answer.ended for answer in answers] == [Ended.COMPLETE] * 3
    assert [answer.body for answer in answers[:2]] == [pushed.content] * 2
    assert answers[2].body == pushed.content[4 * MIB : 5 * MIB + 1]
    assert await mirror.metric("mirror_fills_total", outcome="disk") >= 1
    ranges = [request.header("Range") for request in upstream.requests if request.header("Range")]
    assert len(ranges) >= 2  # from where they were, not from zero

    space = mirror.up.store.space
    assert (space.reserved_bytes, space.written_bytes, space.stored_bytes) == (0, 0, 0)
    assert not list((mirror.directory / "partial").iterdir())
    assert not mirror.stored(pushed.digest).exists()
    assert (await mirror.get(path(pushed.digest))).body == pushed.content


async def test_a_disk_that_is_full_from_the_start_is_passed_by_what_is_small(
    mirror: Mirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = blob(30_000)
    upstream.push_blob(REPOSITORY, pushed)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", FullDisk(0))
        got = await mirror.get(path(pushed.digest))
        await mirror.settled()

    assert got.body == pushed.content
    assert await mirror.total("mirror_requests_total", result="passthrough") == 1
    assert not list((mirror.directory / "partial").iterdir())


async def test_a_disk_that_fails_at_the_very_end_costs_the_readers_nothing(
    mirror: Mirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = blob(MIB)
    upstream.push_blob(REPOSITORY, pushed)

    def fsync(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        got = await mirror.get(path(pushed.digest))
        await mirror.settled()

    assert got.body == pushed.content
    assert not mirror.stored(pushed.digest).exists()
    assert not list((mirror.directory / "partial").iterdir())
    assert mirror.up.store.space.used_bytes == 0
    assert await mirror.metric("mirror_fills_total", outcome="disk") == 1
