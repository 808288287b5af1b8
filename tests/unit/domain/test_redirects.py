"""Where redirects lead, what is left of a URL in a log."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.domain.errors import UpstreamTroubleError
from mirror.domain.redirects import next_hop, redact, same_origin

PATIENT = settings(deadline=None)  # the machine may be busy with something else
BLOB = "https://registry.example/v2/a/blobs/sha256:00"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://cdn.example/x?sig=a%2Fb%7Ec+d%20", "https://cdn.example/x?sig=a%2Fb%7Ec+d%20"),
        ("https://cdn.example/a/../b//c", "https://cdn.example/a/../b//c"),
        ("https://[2001:db8::1]:8443/x", "https://[2001:db8::1]:8443/x"),
        ("//cdn.example/x", "https://cdn.example/x"),
        ("/artifacts/x?y=%2F", "https://registry.example/artifacts/x?y=%2F"),
        ("../x", "https://registry.example/v2/a/x"),
        ("?download=1", BLOB + "?download=1"),
        ("https://cdn.example/a b?\u00e4", "https://cdn.example/a%20b?%C3%A4"),
    ],
)
def test_where_a_redirect_leads(location: str, target: str) -> None:
    assert next_hop(BLOB, location) == target


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        "http://cdn.example/x",
        "ftp://cdn.example/x",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "sha256:11",
        "https://user:secret@cdn.example/x",
        "https://registry.example\\@cdn.example/x",
        "https://[bad/x",
        "https://c\u212an.example/x",
        "https://cdn.example:0/x",
    ],
)
def test_where_no_redirect_may_lead(location: str | None) -> None:
    with pytest.raises(UpstreamTroubleError) as caught:
        next_hop(BLOB, location)
    assert "secret" not in str(caught.value)


@PATIENT
@given(st.text(max_size=80))
def test_a_redirect_from_https_stays_there(location: str) -> None:
    try:
        target = next_hop(BLOB, location)
    except UpstreamTroubleError:
        return
    assert target.startswith("https://")
    assert target.isascii()
    assert " " not in target


@PATIENT
@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=80))
def test_a_signed_query_is_left_alone(query: str) -> None:
    target = f"https://cdn.example/x?a={query}".partition("#")[0]
    assert next_hop(BLOB, target) == target


@pytest.mark.parametrize(
    ("url", "other", "same"),
    [
        ("https://a/x", "https://A:443/y", True),
        ("https://a", "https://a.", True),
        ("https://a", "http://a", False),
        ("https://a", "https://a:444", False),
        ("https://a", "https://b.a", False),
        ("https://u@a", "https://u@a", False),
        ("x", "x", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, other: str, *, same: bool) -> None:
    assert same_origin(url, other) is same
    assert same_origin(other, url) is same


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://cdn.example/x/y?sig=secret", "https://cdn.example/x/y"),
        ("https://cdn.example:8443/x#secret", "https://cdn.example:8443/x"),
        ("https://cdn.example?secret", "https://cdn.example/"),
        ("http://[::1]:80/x", "http://[::1]/x"),
        ("https://secret:secret@cdn.example/x", "(unprintable URL)"),
        ("secret", "(unprintable URL)"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert redact(url) == shown
