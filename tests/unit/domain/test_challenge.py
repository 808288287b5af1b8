"""Challenges as registries write them, origins, and the realm rule against those who lie."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mirror.domain.challenge import Challenge, Origin, parse_challenges, realm_allowed

PATIENT = settings(deadline=None)  # the machine may be busy with something else
HOME = "https://registry-1.docker.io/v2/library/alpine/manifests/latest"
PRINTABLE = st.characters(min_codepoint=0x20, max_codepoint=0x7E)


def same_site(host: str, other: str) -> bool:
    """Two labels make a site: good enough for the names used here."""
    return host.rsplit(".", 2)[-2:] == other.rsplit(".", 2)[-2:] and "." in host


def allowed(realm: str, home: str = HOME, extra: tuple[str, ...] = ()) -> bool:
    return realm_allowed(realm, home, extra_hosts=extra, same_site=same_site)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['Bearer realm="r",service="s"'], [("bearer", {"realm": "r", "service": "s"})]),
        (['BEARER  Realm = "r" , SERVICE="s"'], [("bearer", {"realm": "r", "service": "s"})]),
        (['Bearer scope="a:b:pull,push"'], [("bearer", {"scope": "a:b:pull,push"})]),
        (['Bearer realm="a\\"b\\\\c"'], [("bearer", {"realm": 'a"b\\c'})]),
        (["Bearer realm=r,service=s"], [("bearer", {"realm": "r", "service": "s"})]),
        (["Bearer realm=https://h/t?a=b"], [("bearer", {"realm": "https://h/t?a=b"})]),
        (
            ['Basic realm="x", Bearer realm="r"'],
            [("basic", {"realm": "x"}), ("bearer", {"realm": "r"})],
        ),
        (
            ['Negotiate, NTLM, Bearer realm="r"'],
            [("negotiate", {}), ("ntlm", {}), ("bearer", {"realm": "r"})],
        ),
        (
            ["Negotiate YII/a+b==, Basic realm=x"],
            [("negotiate", {}), ("basic", {"realm": "x"})],
        ),
        (
            ['Basic realm="x"', 'Bearer realm="r"'],
            [("basic", {"realm": "x"}), ("bearer", {"realm": "r"})],
        ),
        ([", , Basic realm=x,,"], [("basic", {"realm": "x"})]),
        (["Bearer"], [("bearer", {})]),
        (["", " ", ","], []),
    ],
)
def test_challenges(lines: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    found = parse_challenges(lines)
    assert [(each.scheme, dict(each.parameters)) for each in found] == expected


@pytest.mark.parametrize(
    "line", ['Bearer realm="never closed', 'Basic realm="x", ="', "Bearer realm=", '"', "= = ="]
)
def test_a_malformed_line_costs_no_more_than_its_own_challenges(line: str) -> None:
    assert Challenge("basic", (("realm", "y"),)) in parse_challenges([line, "Basic realm=y"])


def test_the_first_of_a_repeated_parameter_counts() -> None:
    assert parse_challenges(["Bearer realm=a, realm=b"])[0].get("realm") == "a"


@pytest.mark.parametrize("piece", ["a ", 'a="', "a=,", "\\", '"\\"', "a  ,", "Bearer realm="])
def test_a_long_line_is_read_in_no_time(piece: str) -> None:
    """A pattern that tries all ways to read it would take hours."""
    began = time.process_time()
    found = parse_challenges([piece * (32 * 1024 // len(piece))])
    assert time.process_time() - began < 5
    assert len(found) <= 32 * 1024


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("https://h", "https://h"),
        ("HTTPS://H.Example./x", "https://h.example"),
        ("https://h:443/x?y#z", "https://h"),
        ("http://h:443", "http://h:443"),
        ("http://h:80/", "http://h"),
        ("http://[::1]:5000/", "http://[::1]:5000"),
        ("http://[0:0:0:0:0:0:0:1]/", "http://[::1]"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_an_origin(url: str, written: str) -> None:
    assert str(Origin.of(url)) == written


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h",
        "//h/x",
        "/x",
        "ftp://h",
        "https://",
        "https:///x",
        "https://:443",
        "https://h:0",
        "https://h:65536",
        "https://h:x",
        "https://[::1",
        "https://[h]",
        "https://user@h",
        "https://user:secret@h",
        "https://@h",
        "https://h\\.docker.io/",
        "https://evil.example\\@h/",
        "https://evil.example%00.docker.io/",
        "https://evil.example\t.docker.io/",
        "https://h\r\n/",
        " https://h",
        "ht\ntps://h",
        "https://doc\u212aer.io",  # the Kelvin sign is a k in lower case
        "https://h\u3002docker.io",  # an ideographic full stop is a dot to IDNA
        "https://h/\u00e4",
    ],
)
def test_what_two_parsers_may_read_differently_has_no_origin(url: str) -> None:
    assert Origin.of(url) is None


@pytest.mark.parametrize(
    ("realm", "home"),
    [
        ("https://auth.docker.io/token", HOME),
        ("https://auth.docker.io:8443/token", HOME),
        ("https://registry-1.docker.io/token", HOME),
        ("https://REGISTRY-1.DOCKER.IO:443/token", HOME),
        ("https://gitlab.com/jwt/auth", "https://registry.gitlab.com"),
        ("http://127.0.0.1:5000/token", "http://127.0.0.1:5000"),
        ("https://127.0.0.1:5000/token", "https://127.0.0.1:5000"),
        ("https://[::1]:5000/token", "https://[0:0::1]:5000"),
        ("http://auth.corp.example/token", "http://registry.corp.example"),
        ("https://auth.corp.example/token", "http://registry.corp.example"),
    ],
)
def test_a_realm_of_the_registry_itself(realm: str, home: str) -> None:
    assert allowed(realm, home)


@pytest.mark.parametrize(
    ("realm", "extra"),
    [
        ("https://sso.other.example/t", ("sso.other.example",)),
        ("https://sso.other.example:8443/t", ("sso.other.example:8443",)),
        ("https://10.0.0.1/t", ("10.0.0.1",)),
        ("https://[::1]:8443/t", ("[::1]:8443",)),
        ("https://[::1]/t", ("[::1]",)),
    ],
)
def test_a_realm_that_the_operator_names(realm: str, extra: tuple[str, ...]) -> None:
    assert not allowed(realm)
    assert allowed(realm, extra=extra)


@pytest.mark.parametrize(
    "realm",
    [
        "http://sso.other.example/t",  # https is not left
        "https://sso.other.example:9999/t",
        "https://evil.sso.other.example/t",
        "https://sso.other.example@evil.example/t",
    ],
)
def test_a_named_realm_allows_nothing_beside_it(realm: str) -> None:
    assert not allowed(realm, extra=("sso.other.example:443",))


@pytest.mark.parametrize(
    ("realm", "home"),
    [
        ("https://127.0.0.1:2/token", "https://127.0.0.1:1"),
        ("https://localhost:2/token", "https://localhost:1"),
        ("https://a.localhost/token", "https://b.localhost"),
        ("https://[::ffff:127.0.0.1]/token", "https://127.0.0.1"),
        ("https://127.0.0.1/token", "https://[::1]"),
        ("http://127.0.0.1:1/token", "https://127.0.0.1:1"),
    ],
)
def test_an_address_is_no_site(realm: str, home: str) -> None:
    assert not allowed(realm, home)


@PATIENT
@given(
    scheme=st.sampled_from(["http", "https", "HTTPS", "ftp", "javascript", ""]),
    user=st.sampled_from(["", "auth.docker.io@", "a:b@", "auth.docker.io\\@"]),
    host=st.one_of(
        st.sampled_from(
            [
                "evil.example",
                "docker.io.evil.example",
                "evil-docker.io",
                "docker.io\\.evil.example",
                "evil.example\\.docker.io",
                "127.0.0.1",
                "[::1]",
                "localhost",
                "169.254.169.254",
                "2130706433",
                "docker.com",
            ]
        ),
        st.text(PRINTABLE, max_size=12).map(lambda text: f"{text}.evil.example"),
    ),
    port=st.sampled_from(["", ":443", ":80", ":0", ":-1"]),
    path=st.sampled_from(["/token", "/@auth.docker.io/token", "/?auth.docker.io", ""]),
)
def test_no_realm_elsewhere_is_asked(
    scheme: str, user: str, host: str, port: str, path: str
) -> None:
    realm = f"{scheme}://{user}{host}{port}{path}"
    origin = Origin.of(realm)
    site = "" if origin is None else origin.host  # "auth.docker.io/.evil.example" is one of ours
    assert not allowed(realm) or same_site(site, "docker.io")


@PATIENT
@given(
    st.text(max_size=60)
    | st.tuples(
        st.sampled_from(["https", "HTTPS", "http", "ftp", ""]),
        st.sampled_from(["://", ":/", ":", "//"]),
        st.sampled_from(["auth.docker.io", "docker.io", "AUTH.Docker.IO", "a@auth.docker.io"]),
        st.sampled_from(["", ":443", ":80", "/token", "/\n", "\\@evil.example/"]),
    ).map("".join)
)
@example("https://auth.docker.io/token")
def test_whatever_is_allowed_is_https_and_has_an_origin(realm: str) -> None:
    origin = Origin.of(realm)
    assert not allowed(realm) or (origin is not None and origin.scheme == "https")


def test_a_realm_of_the_same_site_is_allowed() -> None:
    """Without this, a rule that allows nothing would keep all that is tried above."""
    assert allowed("https://auth.docker.io/token")
    assert not allowed("http://auth.docker.io/token")
