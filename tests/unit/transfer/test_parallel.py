"""A large blob over several connections, where the operator wants that."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.domain.errors import UpstreamTroubleError
from mirror.domain.names import Digest, Repository
from mirror.settings import Fill
from mirror.transfer import parallel
from mirror.transfer.download import Span
from mirror.transfer.parallel import ParallelSource
from mirror.upstream.receiving import Batch
from tests.fakes import faults
from tests.fakes.content import blob
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, Mirror, mirror_of
from tests.unit.transfer.helpers import PATIENT, REPOSITORY, path

PUSHED = blob(9 * MIB + 5, 5)


@pytest.fixture
async def mirror(
    tmp_path: Path, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Mirror]:
    source = ParallelSource.__init__.__defaults__
    monkeypatch.setattr(ParallelSource.__init__, "__defaults__", (MIB,))
    upstream.push_blob(REPOSITORY, PUSHED)
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, policy=PATIENT, fill=Fill(parallel_ranges=4)
    ) as up:
        yield up
    assert source == (parallel.SEGMENT_BYTES,)


def ranges(upstream: FakeRegistry) -> list[str | None]:
    return [request.header("Range") for request in upstream.requests]


async def test_segments_come_over_several_connections_and_in_order(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    answers = await asyncio.gather(*(mirror.get(path(PUSHED.digest)) for _ in range(3)))
    assert all(answer.body == PUSHED.content for answer in answers)
    await mirror.settled()
    assert mirror.stored(PUSHED.digest).read_bytes() == PUSHED.content
    assert sorted(filter(None, ranges(upstream))) == [
        f"bytes={number * MIB}-{min((number + 1) * MIB, PUSHED.size_bytes) - 1}"
        for number in range(1, 10)
    ]


async def test_an_upstream_without_ranges_is_asked_over_one(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.options.ranges = False
    assert (await mirror.get(path(PUSHED.digest))).body == PUSHED.content


async def test_a_segment_that_breaks_is_gone_on_with(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    for number, fault in enumerate((faults.cut(MIB // 2), faults.status(500), faults.cut(10))):
        upstream.fail(fault, skip=1 + number, times=1)
    assert (await mirror.get(path(PUSHED.digest))).body == PUSHED.content
    await mirror.settled()
    assert mirror.stored(PUSHED.digest).read_bytes() == PUSHED.content


async def test_small_blobs_are_not_split(mirror: Mirror, upstream: FakeRegistry) -> None:
    small = blob(MIB + MIB // 2, 3)
    upstream.push_blob(REPOSITORY, small)
    assert (await mirror.get(path(small.digest))).body == small.content
    assert ranges(upstream) == [None]


# --- without sockets ------------------------------------------------------------------------


_BROKEN = UpstreamTroubleError("the line broke")


class Piecewise:
    """A source whose streams come in pieces of so many bytes, and break as they are told."""

    def __init__(
        self,
        content: bytes,
        piece_bytes: int,
        breaks: dict[int, int],
        fault: Exception | None = _BROKEN,
    ) -> None:
        self.content = content
        self._fault = fault
        self.open_streams = 0
        self._piece_bytes = piece_bytes
        self._breaks = breaks

    @asynccontextmanager
    async def open(
        self, _repository: Repository, _digest: Digest, span: Span, _avoid: Collection[str]
    ) -> AsyncIterator["Stream"]:
        start, stop = span
        self.open_streams += 1
        try:
            yield Stream(
                self.content[:stop],
                start,
                len(self.content),
                self._piece_bytes,
                self._breaks.get(start),
                self._fault,
            )
        finally:
            self.open_streams -= 1

    def endpoints(self, _repository: Repository) -> tuple[str, ...]:
        return ()

    def suspects(self, _digest: Digest) -> Collection[str]:
        return ()

    def suspect(self, *_: object) -> None:
        raise AssertionError


class Stream:
    """One answer of it."""

    endpoint = "http://piecewise"

    def __init__(
        self,
        content: bytes,
        start: int,
        size_bytes: int,
        piece_bytes: int,
        breaks: int | None,
        fault: Exception | None,
    ) -> None:
        self._fault = fault
        self.offset = start
        self.size_bytes: int | None = size_bytes
        self._content = content
        self._piece_bytes = piece_bytes
        self._breaks = breaks

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        for number, at in enumerate(range(self.offset, len(self._content), self._piece_bytes)):
            await asyncio.sleep(0)
            if number == self._breaks:
                if self._fault is None:
                    return
                raise self._fault
            yield self._content[at : at + self._piece_bytes]

    async def batches(self) -> AsyncGenerator[Batch, None]:
        async for chunk in self.chunks():
            yield Batch.of(chunk)

    def close(self) -> None:
        pass


@given(
    size_bytes=st.integers(0, 300),
    start=st.integers(0, 50),
    segment_bytes=st.integers(1, 80),
    piece_bytes=st.integers(1, 100),
    connections=st.integers(2, 6),
    breaks=st.dictionaries(st.integers(0, 300), st.integers(0, 3), max_size=4),
)
def test_what_comes_is_a_prefix_in_order_and_all_of_it_unless_it_breaks(
    size_bytes: int,
    start: int,
    segment_bytes: int,
    piece_bytes: int,
    connections: int,
    breaks: dict[int, int],
) -> None:
    content = bytes(number % 251 for number in range(size_bytes))
    source = Piecewise(content, piece_bytes, breaks)

    async def received() -> tuple[bytes, bool]:
        wide = ParallelSource(source, connections, segment_bytes)
        opening = wide.open(Repository("docker.io", "a/b"), _DIGEST, (start, None), ())
        got = bytearray()
        try:
            async with opening as stream:
                async for chunk in stream.chunks():
                    got += chunk
        except UpstreamTroubleError:
            return bytes(got), False
        return bytes(got), True

    got, is_whole = asyncio.run(received())
    assert content[start:].startswith(got)
    assert not is_whole or got == content[start:]
    assert is_whole or breaks
    assert source.open_streams == 0


@pytest.mark.parametrize("fault", [None, RuntimeError("a bug")], ids=["ends", "a bug"])
@pytest.mark.parametrize("at", [0, 200, 300])
async def test_nothing_follows_a_gap(at: int, fault: Exception | None) -> None:
    """A 206 may bring less than it was asked for, and whatever else breaks must not hide it."""
    content = bytes(number % 251 for number in range(1000))
    source = Piecewise(content, 10, {at: 2}, fault)
    wide = ParallelSource(source, 3, 100)
    got = bytearray()
    opening = wide.open(Repository("docker.io", "a/b"), _DIGEST, (0, None), ())

    async def receive() -> None:
        async with opening as stream:
            async for chunk in stream.chunks():
                got.extend(chunk)

    with pytest.raises((UpstreamTroubleError, RuntimeError)):
        await receive()
    assert bytes(got) == content[: at + 20]
    assert source.open_streams == 0


_DIGEST = Digest.parse("sha256:" + "0" * 64)
