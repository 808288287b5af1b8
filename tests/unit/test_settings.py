"""The settings are valid, frozen, and written back as they were read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mirror.settings import (
    Cache,
    Credential,
    Policy,
    Settings,
    TagRule,
    Timeouts,
    Upstream,
)
from mirror.settings.section import Section


def settings(**given: object) -> Settings:
    return Settings.model_validate(given, by_name=False)


def mistakes(**given: object) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        settings(**given)
    return {".".join(map(str, e["loc"])): e["msg"] for e in caught.value.errors()}


def test_the_default_is_the_well_known_registries() -> None:
    built = Settings()
    assert list(built.upstreams) == [
        "docker.io",
        "ghcr.io",
        "quay.io",
        "registry.k8s.io",
        "gcr.io",
        "mcr.microsoft.com",
        "public.ecr.aws",
        "nvcr.io",
    ]
    hub = built.upstreams["docker.io"]
    assert hub.name == "docker.io"
    assert hub.endpoints == ("https://registry-1.docker.io",)
    assert hub.aliases == ("index.docker.io", "registry-1.docker.io")
    assert hub.realms == ("auth.docker.io",)
    assert built.upstreams["quay.io"].endpoints == ("https://quay.io",)
    assert built.cache.directory == Path("/var/lib/mirror")
    assert built.policy.timeouts == Timeouts(
        connect_seconds=5, response_seconds=8, revalidate_seconds=1, idle_seconds=30
    )


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().server.catalog = True  # type: ignore[misc]  # it is frozen


def test_a_number_says_its_unit_in_its_name() -> None:
    def check(section: type[Section]) -> None:
        for name, field in section.model_fields.items():
            kind = (field.json_schema_extra, str(field.metadata))[1]
            assert ("'x-unit': 'duration'" in kind) <= name.endswith("_seconds")
            assert ("'x-unit': 'size'" in kind) <= name.endswith("_bytes")
            assert field.description or name == "name", f"{section.__name__}.{name}"

    sections = _all_sections(Section)
    assert {Cache, Policy, Timeouts} <= {*sections}
    for section in sections:
        check(section)


def _all_sections(base: type[Section]) -> list[type[Section]]:
    return [found for sub in base.__subclasses__() for found in (sub, *_all_sections(sub))]


def test_yaml_keys_have_no_unit_and_attributes_do() -> None:
    assert settings(policy={"tag_ttl": "1h"}).policy.tag_ttl_seconds == 3600
    assert Policy(tag_ttl_seconds=60).tag_ttl_seconds == 60
    assert "policy.tag_ttl_seconds" in mistakes(policy={"tag_ttl_seconds": 60})


def test_the_policy_of_an_upstream_is_the_effective_one() -> None:
    built = settings(
        policy={"tag_ttl": "1h", "allow": ["library/**"], "timeouts": {"connect": "2s"}},
        upstreams={"ghcr.io": {"policy": {"tag_ttl": "5m", "timeouts": {"idle": "9s"}}}},
    )
    ghcr, quay = built.upstreams["ghcr.io"].policy, built.upstreams["quay.io"].policy
    assert quay == built.policy
    assert (ghcr.tag_ttl_seconds, ghcr.allow) == (300, ("library/**",))
    assert ghcr.timeouts == Timeouts(connect_seconds=2, idle_seconds=9)


def test_a_policy_that_repeats_a_default_wins_over_the_common_one() -> None:
    built = settings(
        policy={"tag_ttl": "1h"}, upstreams={"ghcr.io": {"policy": {"tag_ttl": "10m"}}}
    )
    assert built.upstreams["ghcr.io"].policy.tag_ttl_seconds == 600


def test_upstreams_are_merged_with_the_well_known_ones() -> None:
    built = settings(
        upstreams={
            "docker.io": {"endpoints": ["http://127.0.0.1:5555/hub/"]},
            "quay.io": None,
            "registry.local:5000": {"aliases": ["local"], "hosts": ["local.example"]},
        }
    )
    assert "quay.io" not in built.upstreams
    assert built.removed_upstreams == ("quay.io",)
    assert built.upstreams["docker.io"].endpoints == ("http://127.0.0.1:5555/hub",)
    assert built.upstreams["docker.io"].realms == ("auth.docker.io",)
    own = built.upstreams["registry.local:5000"]
    assert own.endpoints == ("https://registry.local:5000",)
    assert own.name == "registry.local:5000"


def test_without_the_well_known_ones_only_those_of_the_file_are_there() -> None:
    built = settings(
        builtin_upstreams=False, upstreams={"a.example": {}}, default_upstream="a.example"
    )
    assert list(built.upstreams) == ["a.example"]
    assert built.removed_upstreams == ()


def test_a_default_that_is_no_upstream_says_what_to_do() -> None:
    said = mistakes(builtin_upstreams=False)["default_upstream"]
    assert "name one below upstreams" in said
    assert "leave out builtin_upstreams: false" in said
    others = mistakes(builtin_upstreams=False, upstreams={"a.example": {}, "b.example": {}})
    assert others["default_upstream"].endswith("one of a.example, b.example")


def test_null_means_the_default() -> None:
    built = settings(cache=None, upstreams=None, policy={"allow": None, "timeouts": None})
    assert built == Settings()


def test_upstreams_can_be_given_as_values() -> None:
    upstream = Upstream(endpoints=("http://127.0.0.1:1",), policy=Policy(tag_ttl_seconds=1))
    built = Settings(builtin_upstreams=False, upstreams={"x": upstream}, default_upstream="x")
    assert built.upstreams["x"].name == "x"
    assert built.upstreams["x"].policy.tag_ttl_seconds == 1


@pytest.mark.parametrize(
    "name", ["Docker.io", "a/b", "..", ".", "", "a_b", "-a", "a b", "[::1]:5", "a\n", "a:x", "ä"]
)
def test_the_name_of_an_upstream_is_a_host(name: str) -> None:
    assert f"upstreams.{name}.[key]" in mistakes(upstreams={name: {}})


@pytest.mark.parametrize(
    "endpoint",
    [
        "registry.example",
        "ftp://x",
        "https://",
        "https://user:pw@x",
        "https://x?y=1",
        "https://x#y",
        "https://x/a b",
        "https://x/../y",
        "https://x//y",
        "https://x:99999",
        "https://x:0",
        "https://[::1",
        "https://x/v2/",
        "https://x\n",
    ],
)
def test_an_endpoint_is_a_plain_url(endpoint: str) -> None:
    assert "upstreams.x.endpoints.0" in mistakes(upstreams={"x": {"endpoints": [endpoint]}})


def test_an_upstream_needs_an_endpoint() -> None:
    assert "upstreams.x.endpoints" in mistakes(upstreams={"x": {"endpoints": []}})


@pytest.mark.parametrize(
    "upstreams",
    [
        {"a": {"aliases": ["ghcr.io"]}},
        {"a": {"aliases": ["x"]}, "b": {"aliases": ["x"]}},
        {"a": {"hosts": ["x"]}, "b": {"hosts": ["x"]}},
    ],
)
def test_a_name_means_one_upstream(upstreams: Mapping[str, object]) -> None:
    assert "already means another" in mistakes(upstreams=upstreams)["upstreams"]


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"server": {"listen": ":5001"}}, "server"),
        ({"server": {"listen": "127.0.0.1:7", "admin_listen": "0.0.0.0:7"}}, "server"),
        ({"cache": {"max_size": 0}}, "cache.max_size"),
        ({"cache": {"directory": ""}}, "cache.directory"),
        ({"cache": {"directory": "a\0b"}}, "cache.directory"),
        ({"policy": {"timeouts": {"connect": 0}}}, "policy.timeouts.connect"),
        ({"policy": {"allow": [""]}}, "policy.allow.0"),
        ({"policy": {"tag_rules": [{"match": "**"}]}}, "policy.tag_rules.0"),
        ({"policy": {"tag_rules": [{"ttl": 1}]}}, "policy.tag_rules.0.match"),
        ({"upstreams": {"nowhere": None}}, "upstreams.nowhere"),
        ({"upstreams": {"x": {"name": "y"}}}, "upstreams.x.name"),
        ({"upstreams": {"x": {"tls": {"key": "k"}}}}, "upstreams.x.tls"),
        ({"upstreams": {"x": {"proxy": "http://u:p@y"}}}, "upstreams.x.proxy"),
        ({"upstreams": {"x": {"proxy": "http://y/z"}}}, "upstreams.x.proxy"),
        ({"upstreams": []}, "upstreams"),
        ({"default_upstream": "nowhere"}, "default_upstream"),
        ({"log": {"level": "loud"}}, "log.level"),
    ],
)
def test_mistakes_are_found(given: dict[str, Any], key: str) -> None:
    assert key in mistakes(**given)


def test_a_tag_rule_says_one_thing() -> None:
    rules = settings(
        policy={"tag_rules": [{"match": "a:*", "ttl": "1m"}, {"match": "b", "immutable": True}]}
    ).policy.tag_rules
    assert rules == (TagRule(match="a:*", ttl_seconds=60), TagRule(match="b", immutable=True))


def credentials(*given: object) -> tuple[Credential, ...]:
    one = given[0] if len(given) == 1 else list(given)
    return settings(upstreams={"ghcr.io": {"credentials": one}}).upstreams["ghcr.io"].credentials


def test_one_account_may_be_given_without_a_list() -> None:
    (only,) = credentials({"username": "me", "password": "hunter2"})
    assert (only.name, only.repositories, only.username) == ("default", ("**",), "me")
    assert only.password is not None
    assert only.password.get_secret_value() == "hunter2"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"username": "me"},
        {"password": "x"},
        {"username": "me", "password": "x", "token": "y"},
        {"username": "me", "token": "y"},
        {"password": "", "username": "me"},
        {"password": "********", "username": "me"},
        {"token": "x", "repositories": []},
        {"token": "x", "name": "a b"},
    ],
)
def test_an_account_proves_itself_in_one_way(given: Mapping[str, object]) -> None:
    with pytest.raises(ValidationError):
        credentials(given)


def test_several_accounts_have_names() -> None:
    first, second = {"token": "x"}, {"token": "y", "name": "other"}
    assert [account.name for account in credentials(first, second)] == ["default", "other"]
    with pytest.raises(ValidationError, match="a name of its own"):
        credentials(first, first)


def test_a_secret_is_never_shown() -> None:
    built = settings(upstreams={"x": {"credentials": {"token": "hunter2"}}})
    assert "hunter2" not in repr(built)
    assert "hunter2" not in str(built.model_dump())
    assert "hunter2" not in built.model_dump_json()
    for wrong in ({"token": ["hunter2"]}, {"password": "hunter2"}, "hunter2", {"tken": "hunter2"}):
        with pytest.raises(ValidationError) as caught:
            settings(upstreams={"x": {"credentials": wrong}})
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("pin", "key", "said"),
    [
        ({"image": "Alpine"}, "pins", "does not name an image"),
        ({"image": "no.such.host/app"}, "pins", "does not name an image"),
        ({"image": "alpine", "platforms": ["amd64"]}, "pins.0.platforms.0", "os/architecture"),
    ],
)
def test_pins_are_checked(pin: dict[str, Any], key: str, said: str) -> None:
    assert said in mistakes(pins=[pin])[key]


@pytest.mark.parametrize(
    ("wrong", "key", "said"),
    [
        ({"images": []}, "prefetch.0.images", "must not be empty"),
        ({"images": ["Alpine"]}, "prefetch", "does not name an image"),
        ({"every": 0}, "prefetch.0.every", "more than 0"),
        ({"platforms": ["amd64"]}, "prefetch.0.platforms.0", "os/architecture"),
    ],
)
def test_prefetches_are_checked(wrong: dict[str, Any], key: str, said: str) -> None:
    assert said in mistakes(prefetch=[{"images": ["alpine"], "every": "6h", **wrong}])[key]


@pytest.mark.parametrize(
    ("hook", "key", "said"),
    [
        ({"url": "hooks.example"}, "webhooks.0.url", "not an http:// or https:// URL"),
        ({"url": "https://a:b@x"}, "webhooks.0.url", "no user and password"),
        ({"url": "https://x", "events": ["pulled"]}, "webhooks.0.events.0", "object.cached"),
    ],
)
def test_webhooks_are_checked(hook: dict[str, Any], key: str, said: str) -> None:
    assert said in mistakes(webhooks=[hook])[key]


def test_what_is_not_built_yet_may_have_its_default() -> None:
    assert settings(**Settings().model_dump(mode="json")) == Settings()
