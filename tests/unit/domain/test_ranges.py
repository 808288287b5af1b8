"""What an answer says of the part that it brings."""

import pytest

from mirror.domain.ranges import Span, parse_content_range


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-9/10", (Span(0, 10), 10)),
        (" bytes 5-9/10 ", (Span(5, 10), 10)),
        ("bytes 7-7/*", (Span(7, 8), None)),
        ("bytes 9-5/10", None),
        ("bytes 5-10/10", None),
        ("bytes */10", None),
        ("items 0-9/10", None),
        ("bytes 0-9", None),
        ("bytes \u0660-\u0669/10", None),
        (f"bytes 0-9/{'9' * 20}", None),
        ("", None),
    ],
)
def test_a_content_range_is_read_or_is_none(
    text: str, expected: tuple[Span, int | None] | None
) -> None:
    assert parse_content_range(text) == expected
