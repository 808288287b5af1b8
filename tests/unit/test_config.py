"""The loader finds the configuration, and names everything that is wrong with it."""

import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mirror import config
from mirror.config import ConfigError, Loaded, Problem, load
from mirror.settings import ListenAddress, Settings

ROOT = Path(__file__).parents[2]
NO_SIZE = "not a size; write for example 64MiB, 50GiB, 10GB or a number of bytes"
NO_PATTERN = "a pattern is not empty and has no spaces"
NO_UPSTREAM = "there is no such upstream to remove; write {} to add it"
VARIABLES = [
    "MIRROR_UPSTREAMS",
    "MIRROR_PINS",
    "MIRROR_CACHE__MAX_SIZE",
    "MIRROR_POLICY__ALLOW",
    "MIRROR_SERVER__LISTEN",
    "MIRROR_SERVER__AUTH",
    "MIRROR_POLICY__",
    "MIRROR_LOG__A__B",
]
Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "SEARCHED", (Path("mirror.yaml"), tmp_path / "etc" / "mirror.yaml"))
    return tmp_path


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str) -> Path:
        path = tmp_path / "given.yaml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write_file


def problems(path: Path | None, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, environ)
    return str(caught.value).splitlines()


def test_without_anything_the_cache_is_where_the_user_may_write() -> None:
    assert load(None, {"HOME": "/home/me"}).settings.cache.directory == Path(
        "/home/me/.cache/mirror"
    )
    environ = {"HOME": "/home/me", "XDG_CACHE_HOME": "/elsewhere"}
    assert load(None, environ).settings.cache.directory == Path("/elsewhere/mirror")
    environ = {"HOME": "/home/me", "XDG_CACHE_HOME": "relative"}
    assert load(None, environ).settings.cache.directory == Path("/home/me/.cache/mirror")
    assert load(None, {}).settings.cache.directory == Path("/var/lib/mirror")
    environ = {"HOME": "/home/me", "MIRROR_CACHE__DIRECTORY": "/mine"}
    assert load(None, environ).settings.cache.directory == Path("/mine")


def test_a_file_without_a_directory_means_the_one_of_the_system(write: Write) -> None:
    path = write("log: {level: debug}")
    assert load(path, {"HOME": "/home/me"}).settings.cache.directory == Path("/var/lib/mirror")


def test_the_first_place_counts(directory: Path) -> None:
    def put(name: str, level: str) -> Path:
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"log: {{level: {level}}}")
        return path

    environ: dict[str, str] = {}

    def found(path: Path | None = None) -> Loaded:
        return load(path, environ)

    assert found() == Loaded(load(None, {}).settings, None)
    etc = put("etc/mirror.yaml", "error")
    assert (found().source, found().settings.log.level) == (etc, "error")
    put("mirror.yaml", "warning")
    assert (found().source, found().settings.log.level) == (Path("mirror.yaml"), "warning")
    environ["MIRROR_CONFIG"] = str(put("named.yaml", "debug"))
    assert found().settings.log.level == "debug"
    assert found(etc).settings.log.level == "error"
    environ["MIRROR_CONFIG"] = ""
    assert found().settings.log.level == "warning"


def test_a_named_file_must_be_there(directory: Path) -> None:
    missing = directory / "missing.yaml"
    (said,) = problems(missing)
    assert said.startswith(f"{missing}: cannot be read: No such file")
    assert problems(None, MIRROR_CONFIG=str(missing)) == [said]
    assert "cannot be read" in problems(directory)[0]
    assert "cannot be read" in problems(Path("a\0b"))[0]


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "null\n", "{}", "\ufeff{}\n"])
def test_an_empty_file_means_the_defaults(write: Write, text: str) -> None:
    assert load(write(text), {}).settings == Settings()


def test_all_problems_are_named_with_their_lines(write: Write) -> None:
    path = write(
        """\
        cache:
          max_sise: 5GiB
          memory: 5XB
          abandon: stop
        polcy: {}
        tag_ttl: 5m
        server:
          listen: ":5001"
          listen: ":5000"
          workers: 0
        upstreams:
          docker.io:
            credentials: {password: hunter2, username: 5}
            policy:
              tag_rules:
                - {match: "a:*", ttl: 1m}
                - {match: "", ttl: 1m}
          gone.example:
        """
    )
    # What has its own mistakes is not compared with the rest: the listeners are.
    assert problems(path) == [
        f"{path}:2: cache.max_sise: unknown key (did you mean 'max_size'?)",
        f"{path}:3: cache.memory: {NO_SIZE}",
        f"{path}:4: cache.abandon: unknown key (did you mean fill.abandon?)",
        f"{path}:5: polcy: unknown key (did you mean 'policy'?)",
        f"{path}:6: tag_ttl: unknown key (did you mean policy.tag_ttl?)",
        f"{path}:9: server.listen: this key occurs twice, first in line 8",
        f"{path}:10: server.workers: must be at least 1",
        f'{path}:13: upstreams["docker.io"].credentials.username: must be text (put it in quotes)',
        f'{path}:17: upstreams["docker.io"].policy.tag_rules[1].match: {NO_PATTERN}',
        f'{path}:18: upstreams["gone.example"]: {NO_UPSTREAM}',
    ]


def test_problems_are_values_too(write: Write) -> None:
    path = write("\ncache: {xyz: 1}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    (problem,) = caught.value.problems
    assert (caught.value.source, problem.line, problem.path) == (path, 2, "cache.xyz")
    assert problem.message == "unknown key"
    assert problem.hint == "known here: directory, max_size, min_free, keep_partial, memory"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "1: the file must be a mapping"),
        ("just text\n", "1: the file must be a mapping"),
        ("cache:\n\tmax_size: 1\n", "2: this is not YAML: .*indent with spaces"),
        ("cache: [\n", "2: this is not YAML"),
        ("a: {}\n---\nb: {}\n", "2: this is not YAML"),
        ("cache: *hunter2\n", "1: this is not YAML: found undefined alias …"),
        ("cache: {a: 1\n", "not YAML: expected ',' or '}', but got '<stream end>'$"),
        ("cache: !hunter2!x y\n", "not YAML: found undefined tag handle …"),
        ("cache: \x01\n", "this is not YAML"),
        ("? [a, b]\n: c\n", "1: a key is a single word"),
        ("cache: &a {memory: *a}\n", "1: cache.memory: must|alias"),
        ("cache: !!python/object:os.system {}\n", "1: cache"),
        ("cache: {memory: !secret hunter2}\n", "1: cache.memory: a value that begins with !"),
        ("cache: {memory: .nan}\n", "1: cache.memory: not a size"),
        ("cache: {memory: .inf}\n", "1: cache.memory: a size is between"),
        ("cache: {memory: 1e999}\n", "1: cache.memory: a size is between"),
        (f"cache: {{memory: {'9' * 5000}}}\n", "1: cache.memory: not a size"),
        (f"fill: {{max_concurrent: {'9' * 5000}}}\n", "1: fill.max_concurrent: must be"),
        ("fill: {max_concurrent: 99999}\n", "1: fill.max_concurrent: must be at most 10000"),
        ("fill: {max_concurrent: 0}\n", "1: fill.max_concurrent: must be at least 1"),
        ("fill: {max_concurrent: 1.5}\n", "1: fill.max_concurrent: must be a whole number"),
        ("server: {catalog: 7}\n", "1: server.catalog: must be true or false"),
        ("log: {level: no}\n", "1: log.level: must be 'debug', 'info'"),
        ("policy: {allow: all}\n", "1: policy.allow: must be a list"),
        ("policy: 5\n", "1: policy: must be a mapping"),
        ("upstreams: [a]\n", "1: upstreams: must be a mapping"),
        ('upstreams: {"\\ud800": {}}\n', "1: upstreams"),
        ('upstreams: {a: {"\\ud800": {}}}\n', "1: upstreams"),
        ('default_upstream: "\\ud800"\n', "1: default_upstream"),
        (f"cache: {'[' * 500}{']' * 500}\n", "nested too deeply"),
        ("5: {}\n", "1: 5: unknown key"),
        ("<<: {cache: {}}\n", "1: .*unknown key"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_bad_input_is_explained(write: Write, text: str, said: str) -> None:
    lines = "\n".join(problems(write(text)))
    assert re.search(said, lines), lines
    assert "hunter2" not in lines


def test_yaml_has_no_surprises(write: Write) -> None:
    # YAML 1.1 reads these as false, 750 and a date.
    text = """\
    upstreams:
      no: {hosts: ["no"], credentials: {username: no, password: 12:30}}
      x: {credentials: {username: 2026-11-23, password: yes}}
    """
    upstreams = load(write(text), {}).settings.upstreams
    (first,), (second,) = upstreams["no"].credentials, upstreams["x"].credentials
    assert first.password is not None
    assert (first.username, first.password.get_secret_value()) == ("no", "12:30")
    assert second.username == "2026-11-23"


def test_aliases_may_be_used_but_not_to_explode(write: Write) -> None:
    text = """\
    upstreams:
      a: {policy: &strict {tag_ttl: 1s}}
      b: {policy: *strict}
    """
    upstreams = load(write(text), {}).settings.upstreams
    assert upstreams["b"].policy.tag_ttl_seconds == 1
    bomb = ["a0: &a0 [x]"] + [
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)
    ]
    assert any("endless" in line for line in problems(write("\n".join(bomb))))


def test_what_is_no_text_is_explained(directory: Path) -> None:
    path = directory / "latin1.yaml"
    path.write_bytes("cache: {}\n# Größe\n".encode("latin-1"))
    assert problems(path) == [f"{path}:2: this is not UTF-8 text"]
    path.write_bytes(b"#" * (1024 * 1024 + 1))
    assert "larger than 1 MiB" in problems(path)[0]


def test_secret_files_must_be_readable(write: Write, directory: Path) -> None:
    secret = directory / "secret"
    path = write(f"upstreams: {{x: {{credentials: {{username: me, password_file: {secret}}}}}}}")
    (said,) = problems(path)
    assert said == f"{path}:1: upstreams.x.credentials.password_file: {secret}: does not exist"
    secret.mkdir()
    assert problems(path)[0].endswith("is not a file")
    secret.rmdir()
    secret.write_text("hunter2")
    (account,) = load(path, {}).settings.upstreams["x"].credentials
    assert account.password_file == secret


def test_the_environment_wins_over_the_file(write: Write) -> None:
    path = write("cache: {max_size: 1GiB, memory: 1MiB}\npolicy: {timeouts: {idle: 1s}}\nlog:\n")
    environ = {
        "MIRROR_CACHE__MAX_SIZE": "20GiB",
        "MIRROR_POLICY__TIMEOUTS__CONNECT": "3",
        "MIRROR_POLICY__ALLOW": '["library/**"]',
        "MIRROR_SERVER__LISTEN": "[::1]:7000",
        "MIRROR_SERVER__CATALOG": "true",
        "MIRROR_LOG__LEVEL": "debug",
        "MIRROR_LOG__FORMAT": "",
        "MIRROR_UPSTREAMS": '{"quay.io": null, "a": {"credentials": {"token": "t"}}}',
        "MIRROR_DEFAULT_UPSTREAM": "ghcr.io",
        "MIRROR_BUILTIN_UPSTREAMS": "true",
    }
    built = load(path, environ).settings
    assert (str(built.cache.max_size), built.cache.memory_bytes) == ("20GiB", 1024**2)
    timeouts = built.policy.timeouts
    assert (timeouts.connect_seconds, timeouts.idle_seconds) == (3, 1)
    assert built.policy.allow == ("library/**",)
    assert built.server.listen == ListenAddress("::1", 7000)
    assert built.server.catalog
    assert (built.log.level, built.log.format) == ("debug", "json")
    assert "quay.io" not in built.upstreams
    assert "a" in built.upstreams
    assert built.default_upstream == "ghcr.io"


def test_variables_of_others_are_left_alone() -> None:
    environ = {
        "MIRROR_PORT": "tcp://10.0.0.1:5000",
        "MIRROR_PORT_5000_TCP_PROTO": "tcp",
        "MIRROR_SERVICE_HOST": "10.0.0.1",
        "MIRROR_SERVER": "x",
        "MIRROR_SERVER_PORT": "tcp://10.0.0.1:5000",
        "MIRROR_UPSTREAMS_PORT": "tcp://10.0.0.1:5000",
        "MIRROR_FOO__BAR": "x",
        "mirror_cache__max_size": "x",
        "MIRROR_cache__max_size": "x",
        "OTHER_CACHE__MAX_SIZE": "x",
    }
    assert load(None, environ).settings == Settings()


def test_mistakes_in_variables_name_the_variable() -> None:
    said = problems(
        None,
        MIRROR_CACHE__MAX_SISE="5GiB",
        MIRROR_CACHE__MEMORY="lots",
        MIRROR_UPSTREAMS='{"a": {"tokn": "hunter2"}}',
        MIRROR_PINS="[",
        MIRROR_WEBHOOKS='[{"url": 1, "url": 2}]',
        MIRROR_LOG__LEVEL__X="1",
        MIRROR_SERVER__="1",
        MIRROR_DEFAULT_UPSTREAM="nope",
    )
    text = "\n".join(said)
    assert "cache.max_sise: unknown key (set by MIRROR_CACHE__MAX_SISE; did you mean" in text
    assert "cache.memory: not a size; write for example" in text
    assert "(set by MIRROR_CACHE__MEMORY)" in text
    assert "upstreams.a.tokn: unknown key (set by MIRROR_UPSTREAMS" in text
    assert "MIRROR_PINS: this is not JSON" in text
    assert "MIRROR_WEBHOOKS: a key occurs twice in one object" in text
    assert "(set by MIRROR_LOG__LEVEL__X" in text
    assert "(set by MIRROR_SERVER__;" in text
    assert "hunter2" not in text


def test_upstreams_are_set_as_a_whole_by_the_environment() -> None:
    (said,) = problems(None, MIRROR_UPSTREAMS__DOCKER="x")
    assert "set by MIRROR_UPSTREAMS__DOCKER" in said


def test_a_variable_does_not_hide_a_mistake_of_the_file(write: Write) -> None:
    path = write("policy: {timeouts: 5}\n")
    assert problems(path, MIRROR_POLICY__TIMEOUTS__IDLE="1s", MIRROR_POLICY__MODE__X="1") == [
        "MIRROR_POLICY__TIMEOUTS__IDLE: policy.timeouts is not a mapping",
        "policy.mode: must be 'online', 'offline' or 'deny' (set by MIRROR_POLICY__MODE__X)",
        f"{path}:1: policy.timeouts: must be a mapping",
    ]


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["10m", "5GiB", "80%", "**", "https://x", "docker.io", "me"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=5)
            | st.sampled_from(["policy", "tag_ttl", "credentials", "name", "endpoints", "tls"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)
TOP = st.dictionaries(
    st.sampled_from([*Settings.model_fields, "other"]), ANYTHING, min_size=1, max_size=4
)


def assert_loads_or_explains(path: Path, environ: dict[str, str]) -> None:
    found: tuple[Problem, ...] = ()
    try:
        load(path, environ)
    except ConfigError as error:
        found = error.problems
        str(error).encode("utf-8", "backslashreplace")
    assert all(problem.message for problem in found)


@given(
    content=st.binary()
    | st.text().map(str.encode)
    | TOP.map(lambda top: yaml.safe_dump(top).encode())
)
@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
def test_no_file_crashes_the_loader(directory: Path, content: bytes) -> None:
    path = directory / "any.yaml"
    path.write_bytes(content)
    assert_loads_or_explains(path, {})


@given(
    environ=st.dictionaries(
        st.sampled_from(VARIABLES),
        st.text() | ANYTHING.map(json.dumps),
        max_size=4,
    )
)
@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
def test_no_variable_crashes_the_loader(directory: Path, environ: dict[str, str]) -> None:
    path = directory / "empty.yaml"
    path.touch()
    assert_loads_or_explains(path, environ)
