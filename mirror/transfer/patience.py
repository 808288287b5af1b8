"""Whether a broken download goes on: progress is the measure.

A download that gains bytes goes on without end. One that has broken has five tries, and eight
seconds, to gain the next byte: a client that waits for it learns soon that it will not come.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

from mirror.domain.backoff import delay_seconds
from mirror.domain.errors import TroubleError, UpstreamTimeoutError
from mirror.observe.metrics import Metrics

_TRIES_WITHOUT_PROGRESS: Final = 5
GAIN_SECONDS: Final = 8.0
_BACKOFF_BASE_SECONDS: Final = 0.2
_BACKOFF_CAP_SECONDS: Final = 5.0


class Patience(Protocol):
    """Decides whether a broken download goes on, and after how long."""

    def attempt(self) -> AbstractAsyncContextManager[None]:
        """Make a try in here; raises UpstreamTimeoutError if it takes too long to bring a byte."""
        ...

    def heard(self) -> None:
        """Note that upstream sends the body."""
        ...

    async def after(self, error: TroubleError, gained_bytes: int) -> None:
        """Wait before the next try, or raise *error* if it was the last."""
        ...


class Retries:
    """Makes progress the measure: a download that gains bytes goes on without end."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._fruitless = 0
        self._until: float | None = None
        self._limit: asyncio.Timeout | None = None

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[None]:
        """Make a try in here; ``heard`` tells that it brings something.

        Raises:
            UpstreamTimeoutError: nothing has come in time.
        """
        try:
            async with asyncio.timeout_at(self._until) as self._limit:
                yield
        except TimeoutError:
            raise UpstreamTimeoutError("no byte in time after the download had broken") from None
        finally:
            self._limit = None

    def heard(self) -> None:
        """Note that upstream sends the body: it may take its time again."""
        self._until = None
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(None)

    async def after(self, error: TroubleError, gained_bytes: int) -> None:
        """Wait before the next try, or raise *error* if it was the last."""
        self._fruitless = 0 if gained_bytes else self._fruitless + 1
        now = asyncio.get_running_loop().time()
        if self._until is None:
            self._until = now + GAIN_SECONDS
        if self._fruitless >= _TRIES_WITHOUT_PROGRESS or now >= self._until:
            raise error
        self._metrics.fill_resumes.labels(type(error).__name__.removesuffix("Error")).inc()
        await asyncio.sleep(
            delay_seconds(
                self._fruitless + 1,
                base=_BACKOFF_BASE_SECONDS,
                cap=_BACKOFF_CAP_SECONDS,
                jitter=random.random,
            )
        )
