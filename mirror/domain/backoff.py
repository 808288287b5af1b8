"""How long to wait before the next try, and what upstream asks us to wait."""

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRY_AFTER_MAX_SECONDS = 24 * 3600


def delay_seconds(attempt: int, *, base: float, cap: float, jitter: Callable[[], float]) -> float:
    """Return the wait before try number *attempt* (the first repetition is 1).

    Doubles from *base* up to *cap*; *jitter* returns a number in [0, 1) that takes away up
    to half, so that many who failed together do not come back together.
    """
    exponent = min(max(attempt, 1) - 1, 32)
    full: float = min(cap, base * 2.0**exponent)
    return full * (1 - jitter() / 2)


def retry_after_seconds(value: str | None, now: datetime) -> int | None:
    """Read a Retry-After header: whole seconds from *now*; ``None`` if absent or junk.

    Source: RFC 9110 section 10.2.3.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(int(text[:12]), RETRY_AFTER_MAX_SECONDS)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter for a year beyond all numbers
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    wait = (moment - now).total_seconds()
    return min(max(0, int(wait + 0.999)), RETRY_AFTER_MAX_SECONDS)
