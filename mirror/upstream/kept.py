"""A login that costs something to get: fetched once for many, and renewed before it ends."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from mirror.domain.errors import CredentialUnavailableError
from mirror.domain.logins import Login
from mirror.observe.logs import get_logger
from mirror.runtime.clock import Clock
from mirror.runtime.single_flight import SingleFlight

LIMIT_SECONDS: Final = 20.0
"""How long getting it may take in all; whoever waits has a limit of his own."""

_FRESH_SHARE: Final = 0.8
"""After this share of its life it is renewed; until its end the old one is used."""

_REST_SECONDS: Final = 10.0
"""A source is not asked again sooner, whatever it said: not for each pull (harbor#23750)."""

_log = get_logger("upstream")


@dataclass(frozen=True, slots=True)
class Issued:
    """A login and how long it is good for, in seconds."""

    login: Login
    lifetime_seconds: float


@dataclass(frozen=True, slots=True)
class _Held:
    login: Login
    fresh_until: float
    ends_at: float


class Kept:
    """The login of one source."""

    def __init__(self, fetch: Callable[[], Awaitable[Issued]], clock: Clock, what: str) -> None:
        """Fetch nothing yet; *what* is the source's name in errors."""
        self._fetch = fetch
        self._clock = clock
        self._what = what
        self._flight: SingleFlight[None, Login] = SingleFlight()
        self._held: _Held | None = None
        self._ended_at = float("-inf")
        self._failure: CredentialUnavailableError | None = None

    async def get(self, not_this: Login | None = None) -> Login:
        """Return the login; not *not_this*, which was refused, if there may be another.

        Raises:
            CredentialUnavailableError: the source does not give one.
        """
        now = self._clock.monotonic()
        rests = now - self._ended_at < _REST_SECONDS and not self._flight.is_running(None)
        held = self._held if self._held is not None and now < self._held.ends_at else None
        if held is not None and (held.login != not_this or rests):
            if now >= held.fresh_until and not rests:
                _ = self._flight.start(None, self._renew)
            return held.login
        if self._failure is not None and rests:
            raise CredentialUnavailableError(self._failure.reason)
        return await self._flight.do(None, self._renew)

    async def close(self) -> None:
        """Stop asking."""
        await self._flight.close()

    async def _renew(self) -> Login:
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                issued = await self._fetch()
        except TimeoutError:
            self._failure = CredentialUnavailableError(f"{self._what} did not answer in time")
            self._warn(self._failure)
            raise self._failure from None
        except CredentialUnavailableError as error:
            self._failure = error
            self._warn(error)
            raise
        finally:
            # Not from when it was asked: what takes as long to fail as the rest is would have none.
            now = self._ended_at = self._clock.monotonic()
        fresh_until = now + _FRESH_SHARE * issued.lifetime_seconds
        self._held = _Held(issued.login, fresh_until, now + issued.lifetime_seconds)
        self._failure = None
        return issued.login

    def _warn(self, error: CredentialUnavailableError) -> None:
        """Say what nobody else notices: that the old login is all that there is."""
        held = self._held
        left_seconds = 0.0 if held is None else held.ends_at - self._clock.monotonic()
        if left_seconds > 0:
            _log.warning(
                "an account was not renewed",
                source=self._what,
                reason=error.reason,
                good_for_seconds=round(left_seconds),
            )
