"""What the main process does with the questions of a worker that leaves in the midst of them."""

import asyncio
import io
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from mirror.domain.names import Digest, Repository
from mirror.domain.ranges import Span
from mirror.observe.metrics import Metrics, Result
from mirror.observe.traffic import Meter
from mirror.service.served import Served
from mirror.transfer.parts import FilePart
from mirror.workers import messages
from mirror.workers.channel import Channel
from mirror.workers.desk import Desk, Floor

ASKER = messages.Asker("", None)
ASK = messages.AskBlob(1, ASKER, Repository("docker.io", "library/alpine"), Digest.of(b"x"))


class Coming:
    """A blob on its way, and how many read it."""

    size_bytes = 1000

    def __init__(self) -> None:
        self.readers = 0
        self.is_stubborn = False
        self.asked = asyncio.Event()
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, _repository: Repository, _digest: Digest) -> "tuple[Coming, Served]":
        self.asked.set()
        try:
            await self.answer
        except asyncio.CancelledError:
            if not self.is_stubborn:
                raise
        self.readers += 1
        return self, Served(Result.MISS)

    async def parts(self, _span: Span | None) -> AsyncGenerator[FilePart | bytes, None]:
        while True:
            yield b"x"

    async def close(self) -> None:
        self.readers -= 1


@dataclass
class Office:
    """A desk, what it has, and the worker's end."""

    desk: Desk
    blob: Coming
    worker: Channel
    told: list[messages.ToWorker]

    def ask(self, *asked: messages.FromWorker) -> None:
        for each in asked:
            self.worker.send(messages.encode(each))

    async def is_answered(self, kind: type[messages.ToWorker]) -> None:
        await until(lambda: any(isinstance(each, kind) for each in self.told))


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    ours, theirs = socket.socketpair()
    blob, metrics = Coming(), Metrics(CollectorRegistry())
    floor = cast("Floor", _Floor(blob, metrics, Meter()))
    told: list[messages.ToWorker] = []

    def heard(message: bytes, _file: int | None) -> None:
        told.append(messages.read_to_worker(message))

    desk = Desk(ours, floor, lambda: 0)
    yield Office(desk, blob, Channel(theirs, heard, lambda: None), told)
    await desk.close()


@dataclass
class _Floor:
    """As much of a floor as a desk has questions for here."""

    blobs: Coming
    metrics: Metrics
    meter: Meter


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not happened():  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0)


@pytest.mark.parametrize("is_stubborn", [False, True], ids=["gives up", "goes on"])
async def test_who_leaves_as_the_answer_comes_leaves_nothing_open(
    office: Office, *, is_stubborn: bool
) -> None:
    blob = office.blob
    blob.is_stubborn = is_stubborn
    office.ask(ASK)
    await blob.asked.wait()

    asyncio.get_running_loop().call_soon(blob.answer.set_result, None)
    office.ask(messages.Leave(1))  # read right after that, before the question's task goes on
    await until(lambda: not office.desk._tasks)
    while office.desk._leaving:
        await asyncio.wait(office.desk._leaving)

    assert blob.readers == 0
    assert not office.desk._open


async def test_who_asks_for_a_part_and_leaves_at_once_is_no_error(
    office: Office, log_lines: io.StringIO
) -> None:
    blob = office.blob
    blob.answer.set_result(None)
    office.ask(ASK)
    await office.is_answered(messages.FoundBlob)
    assert blob.readers == 1

    office.ask(messages.AskPart(1, None), messages.Leave(1))
    await until(lambda: blob.readers == 0)

    assert not office.desk._open
    assert not office.desk._tasks
    assert "failed unexpectedly" not in log_lines.getvalue()
    assert not any(isinstance(each, messages.Failure) for each in office.told)
