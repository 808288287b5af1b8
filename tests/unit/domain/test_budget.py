"""What rate-limit headers say, and the forecast that is made of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.domain.budget import Budget, Reading


def headers(limit: str, remaining: str, source: str = "") -> dict[str, str]:
    sent = {"ratelimit-limit": limit, "ratelimit-remaining": remaining}
    return {**sent, "docker-ratelimit-source": source} if source else sent


def reading(remaining: int, at: float, limit: int = 100) -> Reading:
    return Reading(limit, remaining, 21600, "", at)


def test_docker_hubs_headers() -> None:
    got = Reading.of(headers("100;w=21600", "76;w=21600", "203.0.113.7"), 5.0)
    assert got == Reading(100, 76, 21600, "203.0.113.7", 5.0)


@pytest.mark.parametrize(
    ("limit", "remaining", "expected"),
    [
        ("100", "76", Reading(100, 76, 21600, "", 0)),
        (" 100 ; W=60 ", "0", Reading(100, 0, 60, "", 0)),
        ("100;w=x", "1;q=2", Reading(100, 1, 21600, "", 0)),
        ("", "76", None),
        ("100", "-1", None),
        ("1e3", "5", None),
        ("\u0661", "5", None),
    ],
)
def test_other_headers(limit: str, remaining: str, expected: Reading | None) -> None:
    assert Reading.of(headers(limit, remaining), 0) == expected


def test_no_headers_say_nothing() -> None:
    assert Reading.of({}, 0) is None


@given(st.text(), st.text(), st.text())
def test_junk_is_no_mistake(limit: str, remaining: str, source: str) -> None:
    got = Reading.of(headers(limit, remaining, source), 0)
    assert got is None or (got.limit >= 0 and got.remaining >= 0 and got.window_seconds > 0)


def test_the_forecast_is_made_of_what_was_used_in_the_last_hour() -> None:
    budget = Budget((reading(100, 0),))
    assert budget.empty_in_seconds(0) is None
    budget = budget.plus(reading(90, 600))
    assert budget.empty_in_seconds(600) == pytest.approx(5400)
    budget = budget.plus(reading(100, 1200)).plus(reading(80, 1200))  # some came back
    assert budget.empty_in_seconds(1200) == pytest.approx(80 * 1200 / 30)


def test_the_forecast_does_not_depend_on_when_the_clock_began() -> None:
    budget = Budget((reading(100, 5000),)).plus(reading(90, 5600))
    assert budget.empty_in_seconds(5600) == pytest.approx(5400)


def test_a_budget_that_does_not_shrink_has_no_end() -> None:
    budget = Budget((reading(50, 0),)).plus(reading(50, 1000))
    assert budget.empty_in_seconds(1000) is None


def test_what_is_left_is_not_known_after_the_window() -> None:
    budget = Budget((reading(5, 1000),))
    assert budget.share(1000 + 21599) == pytest.approx(0.05)
    assert budget.share(1000 + 21600) == 1.0
    assert Budget((reading(0, 0, limit=0),)).share(0) == 1.0


def test_readings_are_bounded() -> None:
    budget = Budget((reading(100, 0),))
    for number in range(1000):
        budget = budget.plus(reading(100, number))
    assert len(budget.readings) == 200
    assert Budget((reading(9, 0),)).plus(reading(8, 4000)).readings == (reading(8, 4000),)
