"""What is written about the configuration is true: show, schema, example and reference."""

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mirror import config
from mirror.config import load
from mirror.settings import Settings
from tests.tools.configuration_reference import reference

ROOT = Path(__file__).parents[2]
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str) -> Path:
        path = tmp_path / "given.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


SHOWN = """\
cache: {max_size: 80%, memory: 1000}
policy:
  tag_ttl: 90m
  tag_rules: [{match: "**:v*", immutable: true}, {match: "x", ttl: 1500ms}]
  timeouts: {connect: 0.25}
upstreams:
  quay.io:
  x:
    policy: {tag_ttl: 10m, timeouts: {idle: 3}}
    tls: {insecure: true}
    credentials: {name: "089", username: "1e3", password_file: /dev/null}
server: {listen: ":5000", catalog: true}
"""


@pytest.mark.parametrize("text", ["", SHOWN.replace(", password_file: /dev/null", "")])
def test_what_is_shown_can_be_read_again(write: Write, text: str) -> None:
    text = text.replace('credentials: {name: "089", username: "1e3"}', "aliases: ['089', '1e3']")
    first = load(write(text), {}).settings
    assert load(write(config.show(first)), {}).settings == first


def test_text_that_looks_like_a_number_is_shown_in_quotes(write: Write) -> None:
    token = "upstreams: {x: {credentials: {username: '1e3', name: '089', password: hunter2}}}"
    shown = config.show(load(write(token), {}).settings)
    assert "username: '1e3'" in shown
    assert "name: '089'" in shown
    assert "password: '********'" in shown
    assert "hunter2" not in shown


def test_the_policy_that_is_shown_for_an_upstream_is_what_differs(write: Write) -> None:
    shown = yaml.safe_load(config.show(load(write(SHOWN.replace("credentials", "#")), {}).settings))
    assert shown["upstreams"]["x"]["policy"] == {"tag_ttl": "10m", "timeouts": {"idle": "3s"}}
    assert shown["upstreams"]["quay.io"] is None
    assert shown["policy"]["tag_ttl"] == "90m"


def test_the_schema_speaks_yaml() -> None:
    schema = config.schema()
    policy = schema["$defs"]["Policy"]["properties"]
    assert policy["tag_ttl"]["default"] == "10m"
    assert policy["tag_ttl"]["x-unit"] == "duration"
    assert policy["access"]["enum"] == ["shared", "verify"]
    assert schema["$defs"]["Cache"]["properties"]["max_size"]["default"] == "50GiB"
    text = json.dumps(schema)
    assert not re.search(r"_seconds|_bytes|\\u0000", text)


def test_the_example_is_the_one_in_the_repository_and_says_the_defaults(write: Write) -> None:
    example = config.example()
    assert (ROOT / "config" / "mirror.yaml").read_text(encoding="utf-8") == example
    assert load(write(example), {}).settings == Settings()


def schema_keys(whole: dict[str, Any], section: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, value in section["properties"].items():
        yield (key,)
        for name in sorted(set(re.findall(r"#/\$defs/(\w+)", json.dumps(value)))):
            # The policy of an upstream is the one for all.
            if (section.get("title"), key) != ("Upstream", "policy"):
                yield from ((key, *inner) for inner in schema_keys(whole, whole["$defs"][name]))


def written_keys(data: object, names: bool = False) -> Iterator[tuple[str, ...]]:  # noqa: FBT001, FBT002 -- one flag
    if isinstance(data, list):
        for item in data:
            yield from written_keys(item)
    if isinstance(data, dict):
        for key, value in data.items():
            around = () if names else (key,)
            if around:
                yield around
            for inner in written_keys(value, names=key == "upstreams"):
                yield (*around, *inner)


def test_the_example_has_every_key() -> None:
    complete = re.sub(r"^(\s*)#(?=\S)", r"\1", config.example(), flags=re.MULTILINE)
    schema = config.schema()
    missing = set(schema_keys(schema, schema)) - set(written_keys(yaml.safe_load(complete)))
    assert not missing


def test_the_reference_is_true() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == reference(), (
        "run `python -m tests.tools.configuration_reference > docs/configuration.md`"
    )


def test_the_client_examples_point_at_the_default_listener() -> None:
    clients = ROOT / "config"
    for name in ("docker.io", "_default"):
        text = (clients / "containerd" / "certs.d" / name / "hosts.toml").read_text()
        host = tomllib.loads(text)["host"]["http://127.0.0.1:5000"]
        assert host["capabilities"] == ["pull", "resolve"]
    daemon = json.loads((clients / "docker" / "daemon.json").read_text())
    assert daemon["registry-mirrors"] == ["http://127.0.0.1:5000"]
    registries = tomllib.loads((clients / "containers" / "registries.conf").read_text())
    for registry in registries["registry"]:
        assert registry["mirror"][0]["location"] == f"127.0.0.1:5000/{registry['prefix']}"
        assert registry["prefix"] in Settings().upstreams
