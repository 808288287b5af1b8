"""A worker's line to the main process: questions, and the answers to them."""

import asyncio
import os
import socket
from collections.abc import Callable
from itertools import count
from typing import BinaryIO, Protocol, TypeVar

import msgspec

from mirror.domain.errors import OverloadedError
from mirror.runtime import trail
from mirror.workers import messages
from mirror.workers.channel import LOST, Channel
from mirror.workers.messages import Failure, Found, Part

A = TypeVar("A", bound=Found)
_Answer = tuple["Found | Part | Failure", BinaryIO | None, int]
Told = messages.Configure | messages.Forget | messages.Drain


class MainGoneError(Exception):
    """The main process is not there any more.

    Not a ConnectionError: where clients are answered, that is one of theirs that has ended.
    """


class Asking(Protocol):
    """Makes a question of the number that it gets."""

    def __call__(self, number: int, /) -> "messages.Question":
        """Return the question."""
        ...


class Line:
    """Asks the main process, and hears what it says of its own accord."""

    def __init__(self, end: socket.socket, told: Callable[[Told], None]) -> None:
        """Begin to listen; *told* is called with what is no answer."""
        self._told = told
        self._numbers = count(1)
        self._tellings = 0
        self._waiting: dict[int, asyncio.Future[_Answer]] = {}
        self.ended = asyncio.Event()
        self._channel = Channel(end, self._heard, self._hung_up)

    def tell(self, message: "messages.FromWorker") -> None:
        """Send what needs no answer."""
        self._channel.send(messages.encode(message))

    async def ask(self, asking: Asking, kind: type[A]) -> tuple[A, BinaryIO | None]:
        """Ask a question; returns the answer and the file that came with it.

        Raises:
            MirrorError: what the main process raised.
            OverloadedError: there was no room here for the file that came.
            MainGoneError: there is none.
        """
        number = next(self._numbers)
        found, file = await self.request(number, asking(number))
        if not isinstance(found, kind):
            raise TypeError(f"{type(found).__name__} is no answer to this")
        return found, file

    def _as_of_now(self, found: "Found | Part", tellings: int) -> "Found | Part":
        """Return an answer that is not kept if we were told something since it came."""
        if tellings == self._tellings:
            return found
        if isinstance(found, messages.FoundManifest | messages.FoundBlob):
            return msgspec.structs.replace(found, keep_seconds=0.0)
        return found

    async def request(
        self, number: int, question: "messages.Question | messages.AskPart"
    ) -> "tuple[Found | Part, BinaryIO | None]":
        """Ask a question that has a number already; raises as ``ask`` does."""
        if self.ended.is_set():
            raise MainGoneError("the main process has ended")
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self.tell(question)
        try:
            found, file, tellings = await answer
        except asyncio.CancelledError:
            self._waiting.pop(number, None)
            self.tell(messages.Leave(number))
            if answer.done() and not answer.cancelled() and not answer.exception():
                _close(answer.result()[1])
            raise
        if isinstance(found, Failure):
            note(found.led)
            raise messages.error_of(found)
        return self._as_of_now(found, tellings), file

    def leave(self, number: int) -> None:
        """Say that a body is not needed any more."""
        self.tell(messages.Leave(number))

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    # --- hearing -----------------------------------------------------------------------------

    def _heard(self, message: bytes, descriptor: int | None) -> None:
        is_lost = descriptor == LOST
        file = None if descriptor is None or is_lost else os.fdopen(descriptor, "rb", buffering=0)
        match messages.read_to_worker(message):
            case messages.Configure() | messages.Forget() | messages.Drain() as told:
                self._tellings += 1
                self._told(told)
            case found:
                answer = self._waiting.pop(found.number, None)
                if answer is None or answer.done():
                    _close(file)
                elif is_lost:
                    answer.set_exception(OverloadedError("a worker has too many open files"))
                else:
                    answer.set_result((found, file, self._tellings))

    def _hung_up(self) -> None:
        self.ended.set()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(MainGoneError("the main process has ended"))
        self._waiting.clear()


def _close(file: BinaryIO | None) -> None:
    if file is not None:
        file.close()


def note(led: messages.Led) -> None:
    """Write to the trail of the request that asked where its question has led."""
    if led.endpoint:
        trail.asked(led.endpoint)
    for _ in range(led.pulls):
        trail.paid()
