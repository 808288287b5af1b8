"""Files that are there, but not for whoever looks, are not taken for files that are not there."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mirror import cli, config
from mirror.cli import admin_client
from mirror.config import ConfigError, load
from mirror.settings import Cache, Settings


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "SEARCHED", (tmp_path / "mirror.yaml",))
    for variable in [name for name in os.environ if name.startswith("MIRROR_")]:
        monkeypatch.delenv(variable)
    return tmp_path


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let nobody look at a file, as if somebody else than root were asking."""
    forbidden: set[str] = set()

    def refusing(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 -- as in os
            if str(path) in forbidden:
                raise PermissionError(13, "Permission denied", str(path))
            return original(path, *arguments, **options)

        return call

    monkeypatch.setattr(os, "stat", refusing(os.stat))
    monkeypatch.setattr(io, "open", refusing(io.open))
    # As they are in Python 3.14, where they raise nothing.
    monkeypatch.setattr(Path, "exists", os.path.exists)
    monkeypatch.setattr(Path, "is_file", os.path.isfile)
    return lambda path: forbidden.add(str(path))


def test_a_configuration_that_may_not_be_looked_at_is_not_the_built_in_one(
    directory: Path, forbid: Callable[[Path], None]
) -> None:
    assert load(None, {}).source is None
    forbid(directory / "mirror.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        load(None, {})


def test_a_place_below_a_file_is_one_where_nothing_is(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "etc").touch()
    monkeypatch.setattr(config, "SEARCHED", (directory / "etc/mirror.yaml",))
    assert load(None, {}).source is None


def test_a_secret_that_may_not_be_looked_at_is_there_all_the_same(
    directory: Path, forbid: Callable[[Path], None]
) -> None:
    secret = directory / "secret"
    account = f"{{username: me, password_file: {secret}}}"
    path = directory / "given.yaml"
    path.write_text(f"upstreams: {{x.example: {{credentials: {account}}}}}")
    forbid(secret)
    with pytest.raises(ConfigError, match=f"{secret}: cannot be read: Permission denied"):
        load(path, {})


def test_who_needs_no_secret_may_be_kept_from_it(directory: Path) -> None:
    (directory / "mirror.yaml").write_text(
        "server: {listen: '127.0.0.1:5000', auth: {htpasswd: {file: /missing}}}\n"
        "upstreams: {x.example: {credentials: {username: me, password_file: /missing}}}\n"
    )
    root = ("--root", str(directory / "root"), "--registry", "x.example")
    assert cli.run(["config", "check"]) == 2
    assert cli.run(["client-config", "nerdctl", "--install", *root]) == 0
    assert (directory / "root/etc/containerd/certs.d/x.example/hosts.toml").exists()
    assert cli.run(["node-agent", "--uninstall", *root]) == 0
    assert not (directory / "root").exists()
    (directory / "mirror.yaml").write_text("server: {auth: {htpasswd: {fil: /missing}}}\n")
    assert cli.run(["node-agent", "--uninstall", *root]) == 2


def test_a_cache_that_may_not_be_looked_at_may_be_in_use(
    directory: Path, forbid: Callable[[Path], None]
) -> None:
    settings = Settings(cache=Cache(directory=directory / "cache"))
    with pytest.raises(admin_client.ProblemError) as caught:
        admin_client.open_cache(settings).__enter__()
    assert caught.value.problem.code == "no_cache"
    forbid(directory / "cache/VERSION")
    with admin_client.open_cache(settings) as cache:
        assert isinstance(cache, admin_client.AdminClient)
