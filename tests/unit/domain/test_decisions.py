"""The table of decisions: each row by hand, and what must hold for all situations."""

import itertools
from pathlib import Path

import pytest

from mirror.domain.decisions import (
    TABLE,
    Action,
    Gone,
    Have,
    Row,
    Situation,
    Upstream,
    decide,
    rule,
)
from mirror.domain.freshness import IMMUTABLE, Age, Lifetime
from tests.tools.freshness_reference import reference

N, P, W = Have.NOTHING, Have.PART, Have.WHOLE
OFF, READY, AWAY = Upstream.OFFLINE, Upstream.READY, Upstream.UNAVAILABLE
KEEP = Gone.SERVE

# One situation for each row of the table, in its order.
ROWS = [
    (Situation(W, Age.OLD, OFF), Action.SERVE),
    (Situation(P, Age.FRESH, OFF), Action.FAIL_INCOMPLETE),
    (Situation(N, Age.OLD, OFF), Action.FAIL_MISSING),
    (Situation(W, Age.FRESH, READY), Action.SERVE),
    (Situation(W, Age.EXPIRING, READY), Action.SERVE_AND_REFRESH),
    (Situation(W, Age.EXPIRING, AWAY), Action.SERVE),
    (Situation(W, Age.STALE, READY), Action.REVALIDATE),
    (Situation(W, Age.STALE, AWAY), Action.SERVE_STALE),
    (Situation(W, Age.OLD, READY), Action.ASK),
    (Situation(P, Age.FRESH, Upstream.TROUBLE), Action.FAIL_INCOMPLETE),
    (Situation(N, Age.OLD, AWAY), Action.FAIL_TROUBLE),
    (Situation(W, Age.STALE, Upstream.SAME), Action.SERVE),
    (Situation(P, Age.FRESH, Upstream.MOVED), Action.SERVE),
    (Situation(W, Age.STALE, Upstream.NEW), Action.SERVE_NEW),
    (Situation(W, Age.STALE, Upstream.GONE, KEEP), Action.SERVE_STALE),
    (Situation(W, Age.STALE, Upstream.GONE), Action.FAIL_UPSTREAM),
    (Situation(W, Age.STALE, Upstream.TROUBLE), Action.SERVE_STALE),
    (Situation(W, Age.OLD, Upstream.TROUBLE), Action.FAIL_TROUBLE),
]
ALL = [
    Situation(*parts)
    for parts in itertools.product(Have, Age, Upstream, Gone)
    if parts[0] is not N or parts[1] is Age.OLD
]


@pytest.mark.parametrize(("number", "case"), list(enumerate(ROWS)))
def test_each_row(number: int, case: tuple[Situation, Action]) -> None:
    situation, action = case
    assert decide(situation) is action
    assert rule(situation) is TABLE[number]


def test_every_row_has_a_case() -> None:
    assert len(ROWS) == len(TABLE)


def test_every_situation_has_a_row_and_every_row_a_situation() -> None:
    used: list[Row] = [rule(situation) for situation in ALL]
    assert all(row in used for row in TABLE)


@pytest.mark.parametrize("situation", ALL, ids=str)
def test_promises(situation: Situation) -> None:
    action = decide(situation)
    serves = {Action.SERVE, Action.SERVE_STALE, Action.SERVE_AND_REFRESH, Action.REVALIDATE}
    if action in serves:
        assert situation.have is not N, "nothing can be served"
    if action in serves and situation.upstream in {READY, AWAY, Upstream.TROUBLE}:
        assert situation.have is W, "a part is served only on upstream's word"
        assert situation.age is not Age.OLD, "stale_if_error is a bound"
    if situation.upstream is Upstream.REFUSES:
        assert action is Action.FAIL_UPSTREAM, "never stale on 401 and 403"
    if situation.upstream is Upstream.GONE and situation.gone is Gone.TELL:
        assert action is Action.FAIL_UPSTREAM, "never stale on 404 unless wanted"
    if situation.upstream is OFF:
        asks = {Action.ASK, Action.REVALIDATE, Action.SERVE_AND_REFRESH}
        assert action not in asks, "an offline mirror asks nobody"
    if situation.have is W and situation.age is Age.FRESH and situation.upstream is READY:
        assert action is Action.SERVE


def test_docs_freshness_is_made_from_the_table() -> None:
    page = Path(__file__).parents[3] / "docs/freshness.md"
    assert page.read_text(encoding="utf-8") == reference(), (
        "run `python -m tests.tools.freshness_reference > docs/freshness.md`"
    )


def test_a_tag_is_asked_ahead_only_in_the_second_half_of_its_life() -> None:
    lifetime = Lifetime(fresh_seconds=60, stale_if_error_seconds=600, refresh_ahead_seconds=10)
    assert [lifetime.age(age) for age in (0, 49.9, 50, 59.9, 60)] == [
        Age.FRESH,
        Age.FRESH,
        Age.EXPIRING,
        Age.EXPIRING,
        Age.STALE,
    ]
    long = Lifetime(fresh_seconds=60, stale_if_error_seconds=0, refresh_ahead_seconds=1000)
    assert [long.age(age) for age in (0, 29, 30)] == [Age.FRESH, Age.FRESH, Age.EXPIRING]


def test_a_stretched_life_is_longer_and_for_ever_stays_for_ever() -> None:
    lifetime = Lifetime(fresh_seconds=60, stale_if_error_seconds=600).stretched(6)
    assert lifetime.age(359) is Age.FRESH
    assert lifetime.age(360) is Age.STALE
    assert Lifetime(fresh_seconds=IMMUTABLE, stale_if_error_seconds=0).stretched(6).is_immutable
