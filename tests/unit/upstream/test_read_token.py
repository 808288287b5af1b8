"""Token answers in all their dialects, as values."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.domain.errors import UpstreamTroubleError
from mirror.upstream.tokens import read_token

PATIENT = settings(deadline=None)  # the machine may be busy with something else
REALM = "https://auth.example/token"
DAY_SECONDS = 24 * 3600


def lifetime(expires_in: str) -> float:
    return read_token(
        b'{"token":"t","expires_in":%s}' % expires_in.encode(), REALM
    ).lifetime_seconds


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ({"token": "a"}, "a"),
        ({"access_token": "b"}, "b"),
        ({"token": "a", "access_token": "b"}, "a"),
        ({"token": "", "access_token": "b"}, "b"),
        ({"token": None, "access_token": "b"}, "b"),
        ({"token": "a", "issued_at": 5, "scope": [], "refresh_token": {}}, "a"),
    ],
)
def test_either_name(body: dict[str, object], value: str) -> None:
    assert read_token(json.dumps(body).encode(), REALM).value == value


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [
        ("300", 300),
        ("300.5", 300.5),
        ('"300"', 300),
        ('"300.5"', 300.5),
        ("5", 60),  # the specification lets clients expect a minute
        ("1e9", DAY_SECONDS),
        ("9" * 5000, 60),
        ("1e400", 60),
        ("0", 60),
        ("-1", 60),
        ("null", 60),
        ("true", 60),
        ("[]", 60),
        ("{}", 60),
        ('""', 60),
        ('"soon"', 60),
        ('"NaN"', 60),
        ('"Infinity"', 60),
        ("NaN", 60),
        ("Infinity", 60),
    ],
)
def test_a_token_is_used_for_nine_tenths_of_its_life(expires_in: str, seconds: float) -> None:
    assert lifetime(expires_in) == pytest.approx(0.9 * seconds)


def test_trap_18_without_expires_in_a_token_lives_for_a_minute() -> None:
    """Quay and, until 1.5.0, Angos took a missing expires_in for an hour."""
    assert read_token(b'{"token":"t"}', REALM).lifetime_seconds == pytest.approx(54)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"canary",
        b"null",
        b"[]",
        b'"canary"',
        b"{}",
        b'{"token":"canary"',
        b'{"token":5}',
        b'{"token":["canary"]}',
        b'{"token":"canary\\nX-Smuggled: 1"}',
        '{"token":"canary\u00e4"}'.encode(),
        b'{"token":"canary\xff"}',
        b"[" * 100_000,
        b"<html>canary</html>",
    ],
)
def test_junk_is_trouble_and_is_not_repeated(body: bytes) -> None:
    with pytest.raises(UpstreamTroubleError) as caught:
        read_token(body, REALM + "?canary")
    assert "canary" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@PATIENT
@given(
    st.one_of(
        st.binary(max_size=100),
        st.fixed_dictionaries({"token": JSON, "expires_in": JSON}).map(json.dumps).map(str.encode),
    )
)
def test_whatever_comes_is_a_token_that_can_be_sent_or_trouble(body: bytes) -> None:
    try:
        token = read_token(body, REALM)
    except UpstreamTroubleError:
        return
    assert token.value.isascii()
    assert token.value.isprintable()
    assert 54 <= token.lifetime_seconds <= 0.9 * DAY_SECONDS
