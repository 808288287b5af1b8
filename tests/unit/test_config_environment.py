"""A value of the environment means what it would mean in the file."""

import pytest

from mirror.config import ConfigError, load
from mirror.config.document import plain_scalar

AUDIENCE = "MIRROR_SERVER__AUTH__KUBERNETES__AUDIENCE"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"123"', "123"),
        ("'true'", "true"),
        ("'it''s'", "it's"),
        (r'"a\tb"', "a\tb"),
        ('""', ""),
        # What is no single value in quotes stays as it is.
        ('"a', '"a'),
        ('"', '"'),
        ("'a' 'b'", "'a' 'b'"),
        ("'a': 'b'", "'a': 'b'"),
        ("'a' # it's'", "'a' # it's'"),
        ("123", 123),
    ],
)
def test_what_is_quoted_is_text(text: str, value: object) -> None:
    assert plain_scalar(text) == value


def test_what_is_to_be_quoted_can_be_quoted() -> None:
    with pytest.raises(ConfigError, match="quotes that the shell leaves") as caught:
        load(None, {AUDIENCE: "123"})
    assert "123" not in str(caught.value)
    environ = {AUDIENCE: '"123"', "MIRROR_SERVER__LISTEN": "127.0.0.1:5000"}
    auth = load(None, environ).settings.server.auth
    assert auth is not None
    assert auth.kubernetes is not None
    assert auth.kubernetes.audience == "123"
