"""One deadline over all that comes before an answer, shared out among the endpoints."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Final

from mirror.domain.errors import UpstreamTimeoutError

_ends_at: Final[ContextVar[float | None]] = ContextVar("deadline_ends_at", default=None)


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """Bound what is done in this context.

    Raises:
        UpstreamTimeoutError: the time is over.
    """
    ends_at = asyncio.get_running_loop().time() + seconds
    before = _ends_at.set(ends_at)
    try:
        async with asyncio.timeout_at(ends_at):
            yield
    except TimeoutError:
        raise UpstreamTimeoutError("no answer in time") from None
    finally:
        _ends_at.reset(before)


@asynccontextmanager
async def share(endpoints_left: int, seconds: float) -> AsyncIterator[None]:
    """Bound what one of several endpoints may take, so that those after it get their turn.

    The last one may take all that is left. Without a deadline *seconds* are shared out: a
    download has none, since a slow head is better than none once its clients have left.

    Raises:
        UpstreamTimeoutError: the endpoint's time is over.
    """
    if endpoints_left <= 1:
        yield
        return
    ends_at = _ends_at.get()
    left = seconds if ends_at is None else ends_at - asyncio.get_running_loop().time()
    # A task that outlives the deadline of who began it has all its time.
    left = left if left > 0 else seconds
    try:
        async with asyncio.timeout(left / endpoints_left):
            yield
    except TimeoutError:
        raise UpstreamTimeoutError("no answer in its share of the time") from None
