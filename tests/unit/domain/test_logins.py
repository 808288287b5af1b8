"""What Docker's config.json and the answers of helpers mean."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.domain.logins import (
    HelperCall,
    Login,
    UnreadableError,
    find_login,
    read_helper_answer,
    server_name,
)

HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")


def auth(user: str = "robot") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:pass:word".encode()).decode()}


def found(document: object, *hosts: str, repository: str = "team/app") -> Login | HelperCall | None:
    return find_login(json.dumps(document), hosts or ("quay.io",), repository)


ROBOT = Login("robot", "pass:word")


@pytest.mark.parametrize(
    "key", ["quay.io", "https://quay.io", "https://quay.io/v1/", "Quay.io/v2/"]
)
def test_every_way_to_write_a_registry(key: str) -> None:
    assert found({"auths": {key: auth()}}) == ROBOT


def test_docker_hub_by_the_name_that_docker_has_for_it() -> None:
    assert found({"auths": {"https://index.docker.io/v1/": auth()}}, *HUB) == ROBOT
    assert server_name("docker.io") == "https://index.docker.io/v1/"
    assert server_name("quay.io") == "quay.io"


def test_the_longest_path_wins() -> None:
    auths = {
        "quay.io": auth("all"),
        "quay.io/team": auth("team"),
        "quay.io/team/app": auth("app"),
        "quay.io/tea": auth("tea"),
    }
    users = {
        name: login.username
        for name in ("team/app", "team/app/web", "team/apps", "x", "teams")
        if isinstance(login := found({"auths": auths}, repository=name), Login)
    }
    assert users == {
        "team/app": "app",
        "team/app/web": "app",
        "team/apps": "team",
        "x": "all",
        "teams": "all",
    }


@pytest.mark.parametrize(
    ("entry", "login"),
    [
        ({"username": "u", "password": "p"}, Login("u", "p")),
        ({**auth(), "identitytoken": "i"}, Login(identity_token="i")),
        ({"registrytoken": "r"}, Login(token="r")),
        ({"auth": base64.b64encode(b"u:p\0\0").decode()}, Login("u", "p")),
        ({}, None),
        ({"auth": ""}, None),
        ({"username": "u"}, None),
        ("junk", None),
    ],
)
def test_the_kinds_of_entries(entry: object, login: Login | None) -> None:
    assert found({"auths": {"quay.io": entry}}) == login


def test_helpers_and_stores() -> None:
    document = {
        "auths": {"quay.io": auth(), "ghcr.io": {}},
        "credHelpers": {"quay.io": "one", "https://index.docker.io/v1/": "two"},
        "credsStore": "three",
    }
    assert found(document) == HelperCall("docker-credential-one", "quay.io")
    assert found(document, *HUB) == HelperCall(
        "docker-credential-two", "https://index.docker.io/v1/"
    )
    assert found(document, "ghcr.io") == HelperCall("docker-credential-three", "ghcr.io")
    assert found({"credsStore": "x"}, *HUB) == HelperCall(
        "docker-credential-x", "https://index.docker.io/v1/"
    )
    assert found({"auths": {"ghcr.io": auth()}, "credsStore": "x"}, "ghcr.io") == ROBOT
    assert found({}) is None


@pytest.mark.parametrize(
    "document",
    [
        [],
        "x",
        {"auths": ["x"]},
        {"credHelpers": ["x"]},
        {"credHelpers": {"quay.io": "../../bin/sh"}},
        {"credsStore": "a/b"},
        {"credsStore": 5},
        {"auths": {"quay.io": {"auth": "canary!"}}},
        {"auths": {"quay.io": {"auth": base64.b64encode(b"canary").decode()}}},
    ],
)
def test_what_is_no_configuration_of_docker(document: object) -> None:
    with pytest.raises(UnreadableError) as caught:
        found(document)
    assert "canary" not in str(caught.value)


def test_answers_of_helpers() -> None:
    answer = {"ServerURL": "quay.io", "Username": "u", "Secret": "s"}
    assert read_helper_answer(json.dumps(answer)) == Login("u", "s")
    token = json.dumps(answer | {"Username": "<token>"})
    assert read_helper_answer(token) == Login(identity_token="s")
    for junk in ("", "canary", "[]", "{}", '{"Username":"u","Secret":""}', '{"Secret":"canary"}'):
        with pytest.raises(UnreadableError) as caught:
            read_helper_answer(junk)
        assert "canary" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["auths", "credHelpers", "credsStore", "quay.io", "auth", "username"])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(JSON)
def test_anything_is_read_or_refused(document: object) -> None:
    try:
        login = found(document)
    except UnreadableError:
        return
    assert login is None or isinstance(login, Login | HelperCall)
