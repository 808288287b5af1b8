"""AWS Signature Version 4 by the vectors that AWS publishes."""

from datetime import UTC, datetime

import pytest

from mirror.domain.sigv4 import AwsKey, SigningScope, Unsigned, signed_headers, signing_key

# Of the "Signature Version 4 test suite" of AWS, and of the examples in its General Reference.
KEY = AwsKey("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
AT = datetime(2015, 8, 30, 12, 36, 0, tzinfo=UTC)
SERVICE = SigningScope("us-east-1", "service")
IAM = SigningScope("us-east-1", "iam")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
SITE = "https://example.amazonaws.com"

VECTORS = {
    "get-vanilla": (
        Unsigned("GET", f"{SITE}/", {}),
        SERVICE,
        "host;x-amz-date",
        "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
    ),
    "get-vanilla-query-order-key-case": (
        Unsigned("GET", f"{SITE}/?Param2=value2&Param1=value1", {}),
        SERVICE,
        "host;x-amz-date",
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    "post-vanilla": (
        Unsigned("POST", f"{SITE}/", {}),
        SERVICE,
        "host;x-amz-date",
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
    ),
    "post-x-www-form-urlencoded": (
        Unsigned("POST", f"{SITE}/", FORM, b"Param1=value1"),
        SERVICE,
        "content-type;host;x-amz-date",
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
    "ListUsers of IAM": (
        Unsigned(
            "GET",
            "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08",
            {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
        ),
        IAM,
        "content-type;host;x-amz-date",
        "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_published_vectors(name: str) -> None:
    request, scope, names, signature = VECTORS[name]
    headers = signed_headers(request, KEY, scope, AT)
    assert headers["authorization"] == (
        f"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{scope.text('20150830')}, "
        f"SignedHeaders={names}, Signature={signature}"
    )


def test_the_published_signing_key() -> None:
    assert signing_key(KEY.secret, "20150830", IAM).hex() == (
        "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
    )


def test_the_token_of_a_session_is_sent_and_signed() -> None:
    key = AwsKey(KEY.key_id, KEY.secret, "session")
    headers = signed_headers(Unsigned("POST", f"{SITE}/", {}), key, SERVICE, AT)
    assert headers["x-amz-security-token"] == "session"
    assert "SignedHeaders=host;x-amz-date;x-amz-security-token," in headers["authorization"]
