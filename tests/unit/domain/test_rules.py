"""Accept, freshness, tag rules, pages and referrers: small rules, decided from values."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.domain.errors import PageSizeInvalidError, UpstreamTroubleError
from mirror.domain.freshness import (
    IMMUTABLE,
    Age,
    Lifetime,
    TagRule,
    matches,
    tag_lifetime_seconds,
)
from mirror.domain.media import accepts, bare_type
from mirror.domain.pages import cut, ignored_paging, next_query, page_size
from mirror.domain.referrers import EMPTY, filtered, merged

TYPE = "application/vnd.oci.image.index.v1+json"
LIFETIME = Lifetime(fresh_seconds=60, stale_if_error_seconds=600)


@pytest.mark.parametrize(
    ("lines", "allowed"),
    [
        ([], True),
        ([""], True),
        (["*/*"], True),
        (["application/*"], True),
        (["text/html, */*;q=0.1"], True),
        (["text/html", "application/json", TYPE.upper()], True),
        ([f"{TYPE};q=0"], False),
        ([f"{TYPE}; q=0.000"], False),
        (["application/vnd.docker.distribution.manifest.v2+json"], False),
        (["application/vnd.oci.image.index.v1"], False),
    ],
)
def test_accept_is_read_from_all_its_lines(lines: list[str], *, allowed: bool) -> None:
    assert accepts(lines, TYPE) is allowed


@given(st.text(max_size=100))
def test_a_content_type_is_a_plain_one_or_none(text: str) -> None:
    bare = bare_type(text)
    assert bare is None or (bare.isascii() and bare.isprintable() and " " not in bare)


@pytest.mark.parametrize(
    ("age", "verdict"),
    [
        (0, Age.FRESH),
        (59.9, Age.FRESH),
        (60, Age.STALE),
        (659, Age.STALE),
        (660, Age.OLD),
        (math.inf, Age.OLD),
        (-1, Age.STALE),
        (-10_000, Age.STALE),
    ],
)
def test_freshness(age: float, verdict: Age) -> None:
    assert LIFETIME.age(age) is verdict


@given(st.floats(0, 1000), st.floats(0, 1000))
def test_a_tag_never_gets_younger(age: float, later: float) -> None:
    order = [Age.FRESH, Age.STALE, Age.OLD]
    assert order.index(LIFETIME.age(age)) <= order.index(LIFETIME.age(age + later))


def test_what_is_immutable_is_used_for_ever() -> None:
    for_ever = Lifetime(fresh_seconds=IMMUTABLE, stale_if_error_seconds=0)
    assert for_ever.age(1e12) is Age.FRESH
    assert for_ever.age(-1) is Age.FRESH


@pytest.mark.parametrize(
    ("pattern", "name", "matched"),
    [
        ("**", "library/alpine:3.20", True),
        ("**:*-nightly", "team/app:2026-nightly", True),
        ("*:*-nightly", "team/app:2026-nightly", False),
        ("library/*", "library/alpine", True),
        ("library/*", "library/a/b", False),
        ("library/**", "library/a/b", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("library", "library\n", False),
    ],
)
def test_patterns(pattern: str, name: str, *, matched: bool) -> None:
    assert matches(pattern, name) is matched


def test_the_first_rule_that_fits_counts() -> None:
    rules = [TagRule("**:*-rc", 5), TagRule("team/**", 10), TagRule("**:v*", IMMUTABLE)]
    assert tag_lifetime_seconds(rules, 60, "team/app", "v1-rc") == 5
    assert tag_lifetime_seconds(rules, 60, "team/app", "v1") == 10
    assert tag_lifetime_seconds(rules, 60, "library/x", "v1") == IMMUTABLE
    assert tag_lifetime_seconds(rules, 60, "library/x", "latest") == 60


@pytest.mark.parametrize(
    ("text", "size"), [("5", 5), ("0", 0), ("", None), ("99999999999999", 10_000), ("007", 7)]
)
def test_page_sizes(text: str, size: int | None) -> None:
    assert page_size((("n", text),)) == size


@pytest.mark.parametrize("text", ["-1", "1e3", "ten", "٣", "1 "])
def test_a_page_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PageSizeInvalidError):
        page_size((("n", text),))


@pytest.mark.parametrize(
    ("link", "query"),
    [
        ('</v2/x/tags/list?n=2&last=b>; rel="next"', (("n", "2"), ("last", "b"))),
        ("<https://evil.example/v2/x?last=b>; rel=next", (("last", "b"),)),
        ('<a?x=1>; rel="prev", <b?last=z%2Fy>; title="a, b"; rel="next"', (("last", "z/y"),)),
        ("<a?last=b&ns=docker.io>; rel=next", (("last", "b"),)),
        ('<a?last=b>; rel="last"', None),
        ("<a>; rel=next", None),
        ("rubbish", None),
        (None, None),
    ],
)
def test_the_next_page_is_a_query_and_no_more(link: str | None, query: object) -> None:
    assert next_query(link) == query


@given(st.lists(st.text(max_size=5), unique=True), st.integers(1, 5))
def test_pages_put_together_are_the_whole(tags: list[str], size: int) -> None:
    seen: list[str] = []
    last, more = None, True
    while more:
        page, more = cut(tags, size, last)
        seen += page
        last = page[-1] if page else None
    assert seen == sorted(tags)


def test_paging_that_was_ignored_is_noticed() -> None:
    assert ignored_paging(["a", "b"], 1, None)
    assert ignored_paging(["a", "b"], 5, "a")
    assert not ignored_paging(["b", "a"], 2, None)


def test_referrers_are_filtered_by_their_type() -> None:
    wanted, other = {"artifactType": "a/sig", "digest": "1"}, {"artifactType": "a/sbom"}
    listed = json.dumps({"schemaVersion": 2, "manifests": [wanted, other, {}]}).encode()

    assert json.loads(filtered(listed, "a/sig"))["manifests"] == [wanted]
    assert json.loads(filtered(EMPTY, "a/sig"))["manifests"] == []
    assert json.loads(filtered(b'{"manifests":null}', "a/sig"))["manifests"] == []


def test_lists_of_referrers_are_merged_by_digest() -> None:
    one, two, three = ({"digest": each, "size": 1} for each in "123")
    here = json.dumps({"schemaVersion": 2, "manifests": [one, two]}).encode()
    more = json.dumps({"manifests": [{**two, "size": 2}, three]}).encode()

    assert json.loads(merged(here, more)) == {"schemaVersion": 2, "manifests": [one, two, three]}
    assert merged(here, here) is merged(here, EMPTY) is here
    assert json.loads(merged(EMPTY, here))["manifests"] == [one, two]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"manifests":3}', b'{"manifests":[1]}'])
def test_a_list_of_referrers_that_is_none_is_trouble(content: bytes) -> None:
    with pytest.raises(UpstreamTroubleError):
        filtered(content, "a/sig")
    for pair in ((content, EMPTY), (EMPTY, content)):
        with pytest.raises(UpstreamTroubleError):
            merged(*pair)
