"""How long to wait: our own back-off, and Retry-After in all its forms."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.domain.backoff import RETRY_AFTER_MAX_SECONDS, delay_seconds, retry_after_seconds

PATIENT = settings(deadline=None)  # the machine may be busy with something else
NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(("attempt", "wait"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 8), (5, 10)])
def test_the_wait_doubles_up_to_its_cap(attempt: int, wait: float) -> None:
    assert delay_seconds(attempt, base=1, cap=10, jitter=lambda: 0.0) == wait


@PATIENT
@given(st.integers(-5, 10**6), st.floats(0, 1, exclude_max=True))
def test_jitter_takes_away_up_to_half(attempt: int, jitter: float) -> None:
    full = delay_seconds(attempt, base=0.5, cap=30, jitter=lambda: 0.0)
    assert full / 2 <= delay_seconds(attempt, base=0.5, cap=30, jitter=lambda: jitter) <= full <= 30


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        (None, None),
        ("0", 0),
        (" 7 ", 7),
        ("86400", 86400),
        ("999999999999999999999", RETRY_AFTER_MAX_SECONDS),
        ("Tue, 24 Nov 2026 12:00:30 GMT", 30),
        ("Tue, 24 Nov 2026 12:00:30", 30),
        ("Tue, 24 Nov 2026 13:00:30 +0100", 30),
        ("Tue, 24 Nov 2026 11:59:00 GMT", 0),
        ("Tue, 24 Nov 2099 12:00:00 GMT", RETRY_AFTER_MAX_SECONDS),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("\u0663", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2026 00:00:00 +99999999999999999999", None),
        ("Mon, 01 Jan 2026 00:00:00 +9999999999", None),
    ],
)
def test_retry_after(value: str | None, wait: int | None) -> None:
    assert retry_after_seconds(value, NOW) == wait


@PATIENT
@given(st.text(max_size=60))
def test_no_retry_after_breaks_anything(value: str) -> None:
    wait = retry_after_seconds(value, NOW)
    assert wait is None or 0 <= wait <= RETRY_AFTER_MAX_SECONDS


@PATIENT
@given(st.integers(0, RETRY_AFTER_MAX_SECONDS))
def test_a_date_and_seconds_say_the_same(seconds: int) -> None:
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert retry_after_seconds(date, NOW) == retry_after_seconds(str(seconds), NOW) == seconds
