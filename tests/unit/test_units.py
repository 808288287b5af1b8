"""Units are read as people write them, and written back as they were read."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.settings import ListenAddress, SizeOrShare
from mirror.settings.units import (
    GIB,
    format_duration,
    format_share,
    format_size,
    parse_duration,
    parse_share,
    parse_size,
)

# Too much, and what only looks like a number.
MORE = [10**400, "9" * 5000, -(10**400), "101y", "36501d", "8EiB", "\u0663s"]


def brief(value: object) -> str:
    return repr(value)[:20]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("6h", 21600),
        ("7d", 604800),
        ("2w", 1209600),
        ("500ms", 0.5),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (" 5s ", 5),
        ("0", 0),
        (0, 0),
        (90, 90),
        (0.25, 0.25),
        ("2.5", 2.5),
    ],
    ids=brief,
)
def test_a_duration_is_read(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "5 minutes",
        "-5s",
        -1,
        "1e3",
        "5M",
        True,
        None,
        [],
        math.nan,
        math.inf,
        *MORE,
    ],
    ids=brief,
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.floats(min_value=0, max_value=3e9, allow_nan=False))
def test_a_duration_survives_writing_and_reading(seconds: float) -> None:
    # The notation has at most 20 digits on each side.
    seconds = round(seconds, 9)
    assert parse_duration(format_duration(seconds)) == seconds


def test_a_duration_is_written_as_people_do() -> None:
    written = [format_duration(s) for s in (0, 0.5, 1, 90, 600, 21600, 86400, 604800)]
    assert written == ["0s", "500ms", "1s", "90s", "10m", "6h", "24h", "7d"]


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("50GiB", 50 * GIB),
        ("50Gi", 50 * GIB),
        ("50 gib", 50 * GIB),
        ("64MiB", 64 * 1024**2),
        ("10GB", 10**10),
        ("1.5KiB", 1536),
        ("12B", 12),
        ("12", 12),
        (0, 0),
    ],
    ids=brief,
)
def test_a_size_is_read(text: object, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    ["", "GiB", "-1", -1, "5XB", "50G", "0.5B", 0.5, True, None, math.nan, math.inf, 2**63, *MORE],
    ids=brief,
)
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_a_size_survives_writing_and_reading(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


def test_a_size_is_written_as_people_do() -> None:
    written = [format_size(s) for s in (0, 512, 1000, 64 * 1024**2, 50 * GIB, 10**10)]
    assert written == ["0B", "512B", "1KB", "64MiB", "50GiB", "10GB"]


@given(st.integers(min_value=0, max_value=10_000))
def test_a_share_survives_writing_and_reading(hundredths: int) -> None:
    share = parse_share(f"{hundredths / 100}%")
    assert parse_share(format_share(share)) == share


@pytest.mark.parametrize("text", ["101%", "-1%", "%", "0.2", 0.2, None, "nan%"], ids=brief)
def test_what_is_no_share_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="share"):
        parse_share(text)


def test_a_share_is_resolved_where_the_file_system_is_known() -> None:
    assert SizeOrShare.parse("80%").resolve(1000) == 800
    assert SizeOrShare.parse("5GiB").resolve(1000) == 5 * GIB
    assert SizeOrShare.parse("7.5%").resolve(1000) == 75
    assert [str(SizeOrShare.parse(text)) for text in ("80%", "5GiB", "0%")] == ["80%", "5GiB", "0%"]
    with pytest.raises(ValueError, match="either"):
        SizeOrShare()


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("0.0.0.0:5000", "0.0.0.0", 5000),  # noqa: S104 -- only read
        ("[::1]:5000", "::1", 5000),
        ("[::]:80", "::", 80),
        (":5000", "", 5000),
        ("localhost:0", "localhost", 0),
        ("mirror.example:443", "mirror.example", 443),
    ],
)
def test_an_address_is_read_and_written(text: str, host: str, port: int) -> None:
    address = ListenAddress.parse(text)
    assert (address.host, address.port, str(address)) == (host, port, text)


@pytest.mark.parametrize(
    "text",
    [
        "5000",
        5000,
        "",
        "host",
        "::1:5000",
        "[::1]",
        "a b:1",
        "x:65536",
        "x:-1",
        "[x]:1",
        "x:\u0663",
        None,
    ],
    ids=brief,
)
def test_what_is_no_address_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"address|host name"):
        ListenAddress.parse(text)


def test_an_address_knows_whether_it_is_loopback() -> None:
    loopback = ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"]
    assert all(ListenAddress.parse(text).is_loopback for text in loopback)
    others = [":1", "0.0.0.0:1", "10.0.0.1:1", "mirror.example:1"]
    assert not any(ListenAddress.parse(text).is_loopback for text in others)
