"""Whether an endpoint may be asked now: its circuit breaker, and the pauses it asked for.

The breaker counts only what the endpoint itself leaves unanswered: no connection, no head of
an answer in time. An answer of any status closes it; what token endpoints, CDNs and bodies do
is not the endpoint's. A 429 pauses the account that got it.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from mirror.domain.backoff import delay_seconds
from mirror.domain.errors import (
    RateLimitedError,
    TroubleError,
    UpstreamTimeoutError,
    UpstreamTroubleError,
)
from mirror.domain.routing import Kind
from mirror.runtime.clock import Clock
from mirror.upstream.accounts import Holder

FAILURES_TO_OPEN: Final = 3
_OPEN_SECONDS: Final = 1.0
_OPEN_MAX_SECONDS: Final = 15.0
_PAUSE_SECONDS: Final = 60
"""How long nothing is asked after a 429 that does not say."""
PAUSES_MAX: Final = 4096
"""So many are remembered of an endpoint: callers may be any number."""
_SHARE: Final = 0.9
"""A wait that is broken off counts if it lasted for most of the endpoint's time."""


class Door:
    """The way to one endpoint of an upstream."""

    def __init__(
        self,
        upstream: str,
        patience_seconds: float,
        clock: Clock,
        jitter: Callable[[], float] = random.random,
        on_change: Callable[[str | None], None] = lambda _why: None,
    ) -> None:
        """Open the door.

        Args:
            upstream: Whose endpoint it is.
            patience_seconds: How long the endpoint has for an answer.
            clock: The time.
            jitter: A number in [0, 1), so that mirrors do not come back together.
            on_change: Told why the endpoint is given up, and ``None`` when it answers again.
        """
        self._upstream = upstream
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._jitter = jitter
        self._on_change = on_change
        self.failures = 0
        self._is_slow = False
        self._opened_at = self._open_until = -1.0
        self._probes = 0
        self._pauses: dict[tuple[Holder, bool], float] = {}

    def refusal(self, holder: Holder, kind: Kind) -> TroubleError | None:
        """Return why the endpoint is not to be asked now; ``None``: it may be."""
        return self._pause(holder, kind) or self._silence()

    def pause_seconds(self, holder: Holder) -> float:
        """Return for how long nothing is asked for an account."""
        return max(0.0, self._paused_until(holder, Kind.MANIFEST) - self._clock.monotonic())

    @property
    def is_open(self) -> bool:
        """Whether the breaker has broken the circuit."""
        return self.failures >= FAILURES_TO_OPEN

    @property
    def closed_seconds(self) -> float:
        """For how long the breaker lets nobody ask."""
        if not self.is_open:
            return 0.0
        return max(0.0, self._open_until - self._clock.monotonic())

    @asynccontextmanager
    async def asked(self) -> AsyncIterator[None]:
        """Wait in here for the head of the endpoint's answer: it is told to the breaker."""
        began_at = self._clock.monotonic()
        is_probe = self.is_open
        self._probes += is_probe
        try:
            yield
        except UpstreamTroubleError as error:
            self._is_slow = isinstance(error, UpstreamTimeoutError)
            self._failed(began_at, str(error))
            raise
        except asyncio.CancelledError:
            if self._clock.monotonic() - began_at >= _SHARE * self._patience_seconds:
                self._is_slow = True
                self._failed(began_at, "it does not answer in time")
            raise
        else:
            was_open = self.is_open
            self.failures = 0
            if was_open:
                self._on_change(None)
        finally:
            self._probes -= is_probe

    def limited(self, holder: Holder, kind: Kind, retry_after_seconds: int | None) -> None:
        """Note a 429; one for a manifest or a list says nothing of blobs, which cost nothing."""
        seconds = _PAUSE_SECONDS if retry_after_seconds is None else retry_after_seconds
        now = self._clock.monotonic()
        self._pauses.pop((holder, kind is Kind.BLOB), None)  # so that the last one comes last
        self._pauses[holder, kind is Kind.BLOB] = now + seconds
        if len(self._pauses) > PAUSES_MAX:
            self._tidy(now)

    def _tidy(self, now: float) -> None:
        """Forget the pauses that are over and, if that is not enough, the callers' oldest one."""
        self._pauses = {key: until for key, until in self._pauses.items() if until > now}
        oldest = next((key for key in self._pauses if key[0].mark), None)
        if len(self._pauses) > PAUSES_MAX and oldest is not None:
            del self._pauses[oldest]

    def _pause(self, holder: Holder, kind: Kind) -> TroubleError | None:
        left_seconds = self._paused_until(holder, kind) - self._clock.monotonic()
        if left_seconds <= 0:
            return None
        return RateLimitedError(self._upstream, int(left_seconds + 0.999))

    def _paused_until(self, holder: Holder, kind: Kind) -> float:
        of_all = self._pauses.get((holder, True), 0.0)
        return of_all if kind is Kind.BLOB else max(of_all, self._pauses.get((holder, False), 0.0))

    def _silence(self) -> TroubleError | None:
        if not self.is_open:
            return None
        left_seconds = self._open_until - self._clock.monotonic()
        if left_seconds <= 0 and not self._probes:
            return None
        kind = UpstreamTimeoutError if self._is_slow else UpstreamTroubleError
        return kind(
            f"{self._upstream} has not answered {self.failures} times; it is asked again "
            f"in {max(1, round(left_seconds))} s"
        )

    def _failed(self, began_at: float, reason: str) -> None:
        if self.is_open and began_at < self._opened_at:
            return  # it was on its way when the others failed
        self.failures += 1
        if self.failures == FAILURES_TO_OPEN:
            self._on_change(reason)
        if self.is_open:
            now = self._clock.monotonic()
            number = self.failures - FAILURES_TO_OPEN + 1
            self._opened_at = now
            self._open_until = now + delay_seconds(
                number, base=_OPEN_SECONDS, cap=_OPEN_MAX_SECONDS, jitter=self._jitter
            )
