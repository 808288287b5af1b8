"""What is fetched without being asked for leaves pulls to those who ask.

A registry such as Docker Hub counts each GET of a manifest. Whoever fetches ahead of time asks
here first, one after the other where pulls are counted, so that none is taken too many.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mirror.domain.errors import RateLimitedError
from mirror.domain.names import Repository
from mirror.runtime.clock import Clock
from mirror.service.policies import Policies
from mirror.upstream.upstreams import Upstreams


@dataclass(eq=False)
class QuotaKeptError(RateLimitedError):
    """The pulls that are left are kept for clients."""

    remaining: int = 0
    limit: int = 0
    kept_share: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.upstream} has {self.remaining} of {self.limit} pulls left, and "
            f"{self.kept_share:.0%} are kept for clients"
        )


class Quota:
    """Says whether there is a pull to spend, for each account."""

    def __init__(self, upstreams: Upstreams, policies: Policies, clock: Clock) -> None:
        self._upstreams = upstreams
        self._policies = policies
        self._clock = clock
        self._turns: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._asked: set[tuple[str, str]] = set()

    def kept_share(self, repository: Repository, wanted: float | None) -> float:
        """Return which share is left to clients: what was asked for, else the policy's."""
        return self._policies.of(repository).rate_limit.low_water if wanted is None else wanted

    def check(self, repository: Repository, kept_share: float) -> None:
        """Raise QuotaKeptError unless one more pull leaves so much to clients."""
        budget = self._upstreams.of(repository).budget(repository)
        if budget is None or budget.allows_one(self._clock.wall(), kept_share):
            return
        last = budget.last
        seconds = max(0, int(last.at + last.window_seconds - self._clock.wall()))
        raise QuotaKeptError(
            repository.upstream, seconds, last.remaining, last.limit, kept_share
        ) from None

    @asynccontextmanager
    async def turn(self, repository: Repository) -> AsyncIterator[None]:
        """Wait for one's turn where pulls are counted, or may be: nobody has asked so far."""
        rate = self._upstreams.of(repository).rate(repository)
        key = rate.upstream, rate.account
        if rate.budget is None and key in self._asked:
            yield
            return
        async with self._turns[key]:
            yield
        self._asked.add(key)
