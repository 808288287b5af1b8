"""Parsers under any input: names, digests, ranges, challenges, routes."""

import re
from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirror.domain.challenge import parse_challenges, realm_allowed
from mirror.domain.errors import MirrorError
from mirror.domain.names import Digest, Repository, Tag
from mirror.domain.ranges import Span, Unsatisfiable, select
from mirror.domain.routing import Kind, Table

TABLE = Table({"docker.io": "docker.io", "index.docker.io": "docker.io", "ghcr.io": "ghcr.io"})
COMPONENTS = st.from_regex(r"[a-z0-9]{1,8}(?:[_-][a-z0-9]{1,8})?", fullmatch=True)
DIGEST = "sha256:" + "ab" * 32


def taken(text: str) -> list[str]:
    """Return what those that read names make of a text; nothing of one who refuses it."""
    kinds = (lambda name: Repository("docker.io", name), Tag, Digest.parse)
    values = []
    for kind in kinds:
        with suppress(MirrorError):
            values.append(str(kind(text)))
    return values


@given(
    st.text(max_size=300)
    | st.lists(st.sampled_from(["a", "b-c", ".", "..", "/", "_", "\n", "\0", DIGEST])).map("".join)
)
@example("library/alpine")
@example(DIGEST)
def test_a_name_that_is_taken_is_a_plain_relative_path(text: str) -> None:
    assert not [value for value in taken(text) if ".." in value.split("/") or value[0] in "/."]
    assert not [value for value in taken(text) if {*value} & {"\n", "\0", "\\"}]


def test_names_are_taken_at_all() -> None:
    assert len(taken("alpine")) == 2
    assert len(taken(DIGEST)) == 1


@given(st.sampled_from(["sha256", "sha512"]), st.binary(max_size=100))
def test_a_digest_reads_what_it_writes(algorithm: str, content: bytes) -> None:
    digest = Digest.of(content, algorithm)
    assert Digest.parse(str(digest)) == digest


def reference_select(  # noqa: PLR0911 -- the cases of the RFC, one after another
    header: str, size: int
) -> tuple[int, int] | str | None:
    """Answer a Range header by the text of RFC 9110 section 14, one range only."""
    if not header.lower().startswith("bytes=") or "," in header:
        return None
    first, dash, last = header[len("bytes=") :].partition("-")
    if not dash or not re.fullmatch(r"\d*", first) or not re.fullmatch(r"\d*", last):
        return None
    if first == last == "":
        return None
    if first == "":
        length = min(int(last), size)
        return (size - length, size) if length else "unsatisfiable"
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        return "unsatisfiable"
    return int(first), size if last == "" else min(int(last) + 1, size)


NUMBERS = st.one_of(st.just(""), st.integers(0, 50).map(str))


@given(
    st.one_of(
        st.tuples(NUMBERS, NUMBERS).map(lambda pair: f"bytes={pair[0]}-{pair[1]}"),
        st.from_regex(r"(?:bytes|items)=?[0-9,-]{0,12}", fullmatch=True).filter(str.isascii),
    ),
    st.integers(1, 40),
)
def test_a_range_is_what_the_rfc_says(header: str, size: int) -> None:
    found = select(header, size)
    if isinstance(found, Span):
        assert (found.start, found.stop) == reference_select(header, size)
    else:
        expected = "unsatisfiable" if isinstance(found, Unsatisfiable) else None
        assert reference_select(header, size) == expected


def test_an_empty_object_is_sent_whole() -> None:
    assert select("bytes=0-", 0) is None


VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)


@given(st.dictionaries(st.sampled_from(["realm", "service", "scope"]), VALUES, min_size=1))
def test_a_challenge_reads_what_was_quoted(parameters: dict[str, str]) -> None:
    quoted = {name: re.sub(r'(["\\])', r"\\\1", value) for name, value in parameters.items()}
    line = "bEaReR " + ",".join(f'{name}="{value}"' for name, value in quoted.items())

    first, second = parse_challenges([f"{line}, Basic realm=x"])

    assert (first.scheme, dict(first.parameters)) == ("bearer", parameters)
    assert (second.scheme, second.get("realm")) == ("basic", "x")


@given(st.lists(st.text(max_size=200), max_size=3))
def test_no_challenge_breaks_the_parser(lines: list[str]) -> None:
    assert all(challenge.scheme for challenge in parse_challenges(lines))


@pytest.mark.parametrize(
    "realm",
    [
        "http://auth.docker.io/token",
        "https://user@auth.docker.io/token",
        "https://127.0.0.1/token",
        "https://[::ffff:127.0.0.1]/token",
        "https://localhost/token",
        "https://docker.io.evil.example/token",
        "file:///etc/passwd",
        "",
    ],
)
def test_trap_15_a_realm_that_is_not_ours(realm: str) -> None:
    """Distribution asked any realm for a token, with credentials (CVE-2026-33540)."""

    def same_site(host: str, other: str) -> bool:
        return host.rsplit(".", 2)[-2:] == other.rsplit(".", 2)[-2:]

    home = "https://registry-1.docker.io"
    assert not realm_allowed(realm, home, extra_hosts=(), same_site=same_site)
    assert realm_allowed("https://auth.docker.io/token", home, extra_hosts=(), same_site=same_site)


@given(COMPONENTS, COMPONENTS)
def test_every_shape_of_a_url_means_one_thing(owner: str, name: str) -> None:
    repository = f"{owner}/{name}"
    tail = f"blobs/{DIGEST}"
    shapes = [
        (f"/v2/{repository}/{tail}", "ns=ghcr.io"),
        (f"/v2/ghcr.io/{repository}/{tail}", ""),
        (f"/v2/ghcr.io/{repository}/{tail}", "ns=ghcr.io"),
        (f"/ghcr.io/v2/{repository}/{tail}", ""),
        (f"/ghcr.io/v2/{repository}/{tail}", "ns=ghcr.io"),
    ]
    routes = [TABLE.parse(path, query, "mirror:5000") for path, query in shapes]

    assert {route.repository for route in routes} == {Repository("ghcr.io", repository)}
    assert {str(route.reference) for route in routes} == {DIGEST}
    assert {route.kind for route in routes} == {Kind.BLOB}


@given(st.text(max_size=80), st.text(max_size=40))
def test_no_path_leads_out_of_the_table(path: str, query: str) -> None:
    try:
        route = TABLE.parse("/v2/" + quote(path, safe="/%"), quote(query, safe="=&"), "host")
    except MirrorError:
        return
    assert route.repository is None or route.repository.upstream in TABLE.names.values()
