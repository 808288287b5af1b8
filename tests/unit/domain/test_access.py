"""Rules: who may pull what, and who has which role."""

from base64 import b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.domain.access import (
    DEFAULT_RULES,
    Identity,
    Role,
    Rule,
    Verdict,
    admin_role,
    is_who,
    judge,
    pull_scopes,
    wanted_claims,
)
from mirror.domain.certificates import ClientCertificate
from mirror.domain.claims import ClaimRules
from mirror.domain.credentials import Basic, Bearer, MalformedError, parse_authorization
from mirror.domain.htpasswd import parse_htpasswd, parse_tokens
from mirror.domain.names import Repository
from mirror.web.certificates import holder

APP = Repository("ghcr.io", "team/app")
DEV = Identity("ann", frozenset({"dev", "ops/night"}), frozenset({("team", "blue")}))


@pytest.mark.parametrize(
    ("who", "fits"),
    [
        ("user:ann", True),
        ("user:a*", True),
        ("user:an", False),
        ("user:dev", False),
        ("group:dev", True),
        ("group:ann", False),
        ("group:ops/*", True),
        ("claim:team=blue", True),
        ("claim:team=b*", True),
        ("claim:team=red", False),
        ("claim:tea=blue", False),
        ("*", True),
        ("anonymous", True),
    ],
)
def test_a_rule_is_about(who: str, fits: bool) -> None:  # noqa: FBT001 -- the table's
    assert is_who(who)
    assert Rule(who, ("**",)).is_about(DEV) is fits
    assert Rule(who, ("**",)).is_about(None) is (who == "anonymous")


@pytest.mark.parametrize(
    "text", ["", "ann", "user:", "users:ann", "group: dev", "claim:team", "claim:=x", "claim:x="]
)
def test_nobody_is_called_so(text: str) -> None:
    assert not is_who(text)


def test_what_no_rule_lets_is_denied() -> None:
    rules = (Rule("group:dev", ("ghcr.io/team/**",)), Rule("anonymous", ("docker.io/library/*",)))
    assert judge(rules, DEV, APP) is Verdict.ALLOW
    assert judge(rules, DEV, Repository("quay.io", "team/app")) is Verdict.DENY
    assert judge(rules, Identity("bob"), APP) is Verdict.DENY
    assert judge(rules, None, APP) is Verdict.ASK
    assert judge(rules, None, Repository("docker.io", "library/alpine")) is Verdict.ALLOW


def test_without_rules_everybody_who_is_known_may() -> None:
    assert judge(DEFAULT_RULES, Identity("bob"), APP) is Verdict.ALLOW
    assert judge(DEFAULT_RULES, None, APP) is Verdict.ASK
    assert admin_role(DEFAULT_RULES, Identity("bob")) is Role.NONE


@given(st.lists(st.sampled_from(["user:ann", "group:x", "*", "anonymous"])), st.randoms())
def test_the_order_of_rules_does_not_matter(whos: list[str], random: object) -> None:
    rules = [Rule(who, ("ghcr.io/**",)) for who in whos]
    assert judge(rules, DEV, APP) is judge(rules[::-1], DEV, APP)
    more = [*rules, Rule("user:bob", ("**",))]
    assert judge(more, DEV, APP) is judge(rules, DEV, APP)


def test_the_highest_role_counts() -> None:
    rules = (Rule("*", admin=Role.READ), Rule("user:ann", admin=Role.named("write")))
    assert admin_role(rules, DEV) is Role.WRITE
    assert admin_role(rules, Identity("bob")) is Role.READ
    assert Role.named(None) is Role.NONE
    assert wanted_claims((Rule("claim:team=x"), Rule("user:y"), Rule("claim:a.b=*"))) == {
        "team",
        "a.b",
    }


def test_scopes() -> None:
    asked = [
        "repository:ghcr.io/team/app:pull repository:a/b:push,pull",
        "repository:registry.local:5000/x:pull",
        "registry:catalog:*",
        "repository:c:push",
        "repository::pull",
        "junk",
        "repository:a/b:pull",
    ]
    assert pull_scopes(asked) == ["ghcr.io/team/app", "a/b", "registry.local:5000/x"]


def test_authorization() -> None:
    assert parse_authorization([]) is None
    assert parse_authorization(["Basic Og=="]) is None  # Podman's, without a login
    assert parse_authorization(["basic YW5uOnA6dw=="]) == Basic("ann", "p:w")
    assert parse_authorization(["BEARER abc"]) == Bearer("abc")
    for wrong in (["Basic"], ["Basic ?"], ["Basic YW5u"], ["Digest x"], ["Bearer a", "Bearer a"]):
        with pytest.raises(MalformedError):
            parse_authorization(wrong)
    assert "abc" not in repr(Bearer("abc"))
    assert "p:w" not in repr(Basic("ann", "p:w"))


@settings(max_examples=50)
@given(
    st.lists(
        st.text()
        | st.tuples(st.sampled_from(["Basic ", "BEARER "]), st.text()).map("".join)
        | st.binary(max_size=40).map(lambda plain: f"Basic {b64encode(plain).decode()}"),
        max_size=2,
    )
)
def test_any_header_is_read_or_refused(lines: list[str]) -> None:
    try:
        found = parse_authorization(lines)
    except MalformedError:
        return
    assert found is None or isinstance(found, Basic | Bearer)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(["iss", "aud", "exp", "nbf", "sub", "groups"]), JSON))
def test_any_claims_are_read_or_refused(claims: dict[str, object]) -> None:
    rules = ClaimRules(issuer="https://i", audience="mirror", required={})
    assert rules.identity(claims, 0.0) is None, "no such claims name this issuer"
    absurd = {"iss": "https://i", "aud": "mirror", "sub": "a", "exp": 10**400}
    assert rules.identity(absurd, 0.0) is None
    named = rules.identity({**claims, "iss": "https://i", "aud": "mirror", "exp": 1, "nbf": 0}, 0.0)
    assert named is None or named.user == claims["sub"]


HASH = "$2y$05$" + "a" * 53


def test_files_of_users() -> None:
    parsed = parse_htpasswd(
        f"# people\n\nann:{HASH}\nbob:$apr1$x$y\nnobody\neve:{HASH[:4]}31{HASH[6:]}"
    )
    assert parsed.passwords == {"ann": HASH.encode()}
    assert [problem.split(" is ")[0].split(" has ")[0] for problem in parsed.problems] == [
        "line 4",
        "line 5",
        "line 6",
    ]
    tokens = parse_tokens("ci:0123456789abcdef:dev, ops\nweak:secret\nnode:fedcba9876543210\n")
    assert tokens.tokens["0123456789abcdef"] == Identity("ci", frozenset({"dev", "ops"}))
    assert tokens.tokens["fedcba9876543210"] == Identity("node")
    assert len(tokens.problems) == 1
    for secret in ("secret", HASH, "0123456789abcdef"):
        assert secret not in f"{parsed!r}{tokens!r}{parsed.problems}{tokens.problems}"


def test_who_holds_a_certificate() -> None:
    uri = "spiffe://example.org/ns/ci/sa/runner"
    named = ClientCertificate("", "node-1", ("nodes", "blue"), ("node-1.example",), (uri,))
    claims = frozenset({("dns", "node-1.example"), ("uri", uri)})
    assert holder(named) == Identity("node-1", frozenset({"nodes", "blue"}), claims)
    assert Rule("claim:uri=spiffe://example.org/ns/ci/**", ("**",)).is_about(holder(named))
    spiffe = holder(ClientCertificate("", uris=(uri,)))
    assert spiffe == Identity(uri, frozenset(), frozenset({("uri", uri)}))
    assert holder(ClientCertificate("O=nodes", organizations=("nodes",))) is None
    assert holder(ClientCertificate("", uris=(uri, uri + "2"))) is None
