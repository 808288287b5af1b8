"""Messages and files between two processes, here between two ends in one."""

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mirror.domain.errors import OverloadedError
from mirror.domain.names import Digest, Repository
from mirror.observe.metrics import Result
from mirror.service.served import Served
from mirror.workers import messages
from mirror.workers.channel import LOST, Channel
from mirror.workers.line import Line


@dataclass
class End:
    """One end, and what it heard."""

    channel: Channel
    ended: asyncio.Event
    heard: list[bytes] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    lost: list[bytes] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.heard) < count:
                self.news.clear()
                await self.news.wait()


def end_of(sock: socket.socket) -> End:
    def heard(message: bytes, file: int | None) -> None:
        end.heard.append(message)
        if file == LOST:
            end.lost.append(message)
        elif file is not None:
            end.contents.append(os.pread(file, 100, 0))
            os.close(file)
        end.news.set()

    ended = asyncio.Event()
    end = End(Channel(sock, heard, ended.set), ended)
    return end


@pytest.fixture
async def ends() -> AsyncIterator[tuple[End, End]]:
    one, other = socket.socketpair()
    pair = end_of(one), end_of(other)
    yield pair
    for each in pair:
        each.channel.close()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_each_message_has_its_own_file_whatever_is_sent_around_it(
    ends: tuple[End, End], tmp_path: Path
) -> None:
    one, other = ends
    before = open_files()
    sizes = (0, 3, 5_000_000, 70_000, 1, 2_000_000)  # far more than the socket holds
    for number, size in enumerate(sizes):
        path = tmp_path / str(number)
        path.write_bytes(b"file %d" % number)
        with path.open("rb") as file:  # closed before the message is out
            one.channel.send(bytes([number]) * size, file.fileno() if number % 2 else None)
    await other.until(len(sizes))
    assert other.heard == [bytes([number]) * size for number, size in enumerate(sizes)]
    assert other.contents == [b"file 1", b"file 3", b"file 5"]
    assert open_files() == before


async def test_who_hangs_up_is_noticed_and_leaves_no_file_open(
    ends: tuple[End, End], tmp_path: Path
) -> None:
    one, other = ends
    before = open_files()
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with path.open("rb") as file:
        for _ in range(3):
            one.channel.send(b"x" * 3_000_000, file.fileno())
    other.channel.close()
    async with asyncio.timeout(5):
        await one.ended.wait()
        await other.ended.wait()
    one.channel.send(b"to nobody")
    assert open_files() == before - 2


@contextmanager
def no_room_for_files() -> Iterator[None]:
    """Let this process open no other file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_file_that_there_is_no_room_for_is_lost_with_its_message_only(
    ends: tuple[End, End], tmp_path: Path
) -> None:
    one, other = ends
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with path.open("rb") as file:
        one.channel.send(b"before")
        one.channel.send(b"lost", file.fileno())
        one.channel.send(b"after")
        with no_room_for_files():
            await other.until(3)
        one.channel.send(b"came", file.fileno())
        await other.until(4)
    assert (other.heard[1:], other.lost) == ([b"lost", b"after", b"came"], [b"lost"])
    assert other.contents == [b"x"]
    assert not other.ended.is_set()


async def test_who_asked_for_a_file_that_got_lost_is_told(
    ends: tuple[End, End], tmp_path: Path
) -> None:
    del ends
    mine, theirs = socket.socketpair()
    line, main = Line(mine, lambda _: None), end_of(theirs)
    path = tmp_path / "file"
    path.write_bytes(b"x")
    wanted = Repository("docker.io", "library/alpine"), Digest.of(b"x")

    async def ask() -> bytes:
        asked = line.ask(
            lambda number: messages.AskBlob(number, messages.Asker("", None), *wanted),
            messages.FoundBlob,
        )
        found, file = await asked
        assert file is not None
        with file:
            assert found.size_bytes == 1
            return file.read()

    def answer(number: int) -> None:
        found = messages.FoundBlob(number, 1, None, Served(Result.HIT), 0.0, messages.Led())
        with path.open("rb") as file:
            main.channel.send(messages.encode(found), file.fileno())

    refused = asyncio.create_task(ask())
    await main.until(1)
    answer(1)
    with no_room_for_files(), pytest.raises(OverloadedError, match="open files"):
        await refused
    served = asyncio.create_task(ask())
    await main.until(2)
    answer(2)
    assert await served == b"x"
    line.close()
    main.channel.close()
