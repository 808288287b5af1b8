"""``mirror client-config``: shown, written, taken back, and what is said on the way."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mirror import cli, config
from mirror.clients.names import ClientName

HUB = "etc/containerd/certs.d/docker.io/hosts.toml"
DAEMON = "etc/docker/daemon.json"
OLD = '{"debug": true}'


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "SEARCHED", (Path("mirror.yaml"),))
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for variable in [name for name in os.environ if name.startswith("MIRROR_")]:
        monkeypatch.delenv(variable)
    root = tmp_path / "root"
    (root / DAEMON).parent.mkdir(parents=True)
    (root / DAEMON).write_text(OLD)
    return root


def client_config(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(cli.app, ["client-config", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize("client", ClientName)
def test_each_client_is_shown_the_running_mirror(client: ClientName) -> None:
    Path("mirror.yaml").write_text("server: {listen: ':5055'}\nupstreams: {corp.example: {}}\n")
    shown = client_config(client)
    assert "127.0.0.1:5055" in shown.stdout
    assert "docker.io" in shown.stdout or client is ClientName.DOCKER
    assert "corp.example" in shown.stdout or client is ClientName.DOCKER
    assert "mirror: " in shown.stderr
    told = json.loads(client_config(client, "--json", "--mirror", "https://m.example").stdout)
    assert "m.example" in json.dumps(told["files"])


def test_one_file_can_be_redirected() -> None:
    assert json.loads(client_config("docker").stdout)["registry-mirrors"]
    assert "/etc/docker/daemon.json" in client_config("docker").stderr


def test_it_is_written_once_and_taken_back(machine: Path) -> None:
    where = ("--root", machine)
    plan = client_config("docker", "--dry-run", *where)
    assert '+  "registry-mirrors": [' in plan.stdout
    assert (machine / DAEMON).read_text() == OLD
    done = client_config("docker", "--install", *where)
    assert done.stdout == f"/{DAEMON} is written\n"
    assert "systemctl reload docker" in done.stderr
    assert json.loads((machine / DAEMON).read_text())["debug"] is True
    again = client_config("docker", "--install", *where)
    assert again.stdout == "nothing to change: it is so already\n"
    back = client_config("docker", "--undo", "--dry-run", *where)
    assert '-  "registry-mirrors": [' in back.stdout
    undone = client_config("docker", "--undo", *where)
    assert undone.stdout == f"/{DAEMON} is as it was before\n"
    assert "systemctl restart docker" in undone.stderr
    assert (machine / DAEMON).read_text() == OLD
    assert [path.name for path in (machine / DAEMON).parent.iterdir()] == ["daemon.json"]
    assert "nothing is installed" in client_config("docker", "--undo", *where).stdout


def test_programs_are_told_what_changed(machine: Path) -> None:
    where = ("--root", machine, "--json")
    done = json.loads(client_config("docker", "--install", *where).stdout)
    assert done["changed"] == [f"/{DAEMON}"]
    assert done["activate"] == "systemctl reload docker"
    back = json.loads(client_config("docker", "--undo", *where).stdout)
    assert back["changed"] == [f"/{DAEMON}"]
    assert "registry-mirrors" in back["diff"]


def test_only_some_registries_and_never_the_registry_itself(machine: Path) -> None:
    options = ("--except", "ghcr.io", "--air-gap", "--catch-all", "--mirror", "http://m:5000")
    client_config("nerdctl", "--install", "--root", machine, *options)
    assert 'server = "http://m:5000"' in (machine / HUB).read_text()
    certs = machine / "etc/containerd/certs.d"
    assert not (certs / "ghcr.io").exists()
    assert (certs / "_default/hosts.toml").exists()
    only = ("--registry", "ghcr.io", "--server", "ghcr.io=http://10.0.0.9:5000")
    client_config("nerdctl", "--install", "--root", machine, *only)
    assert not (certs / "docker.io").exists()
    assert 'server = "http://10.0.0.9:5000"' in (certs / "ghcr.io/hosts.toml").read_text()


def test_what_counts_for_all_registries_goes_on_to_count(machine: Path) -> None:
    common = machine / "etc/containerd/certs.d/_default/hosts.toml"
    common.parent.mkdir(parents=True)
    common.write_text('ca = "ca.crt"\n[host."http://theirs.example"]\n')
    install = ("nerdctl", "--install", "--root", machine, "--catch-all")
    client_config(*install)
    first = (machine / HUB).read_text()
    assert 'ca = "../_default/ca.crt"' in first
    assert first.index("127.0.0.1:5000") < first.index("theirs.example")
    assert "nothing to change" in client_config(*install).stdout
    client_config("nerdctl", "--undo", "--root", machine)
    assert [path.name for path in common.parents[1].iterdir()] == ["_default"]
    assert common.read_text() == 'ca = "ca.crt"\n[host."http://theirs.example"]\n'


def test_a_user_has_files_of_his_own(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    client_config("podman", "--install", "--user", "--root", machine)
    path = machine / "home/me/.config/containers/registries.conf.d/10-mirror.conf"
    assert path.exists()
    client_config("podman", "--undo", "--user", "--root", machine)
    assert not (machine / "home").exists()
    monkeypatch.setenv("HOME", "x")
    client_config("podman", "--user", code=2)
    client_config("k3s", "--user", code=2)


def test_what_cannot_be_merged_is_explained(machine: Path) -> None:
    (machine / DAEMON).write_text("{")
    failed = client_config("docker", "--install", "--root", machine, code=1)
    assert "/etc/docker/daemon.json: is not JSON that Docker could read" in failed.stderr
    assert "nothing was changed" in failed.stderr
    toml = machine / "etc/buildkit/buildkitd.toml"
    toml.parent.mkdir()
    toml.write_text('[registry."docker.io"]\nmirrors = ["x"]\n')
    failed = client_config("buildkit", "--install", "--root", machine, code=1)
    assert 'mirror: mirrors = ["127.0.0.1:5000"]' in failed.stderr


def test_what_somebody_changed_is_kept_unless_forced(machine: Path) -> None:
    where = ("--root", machine)
    client_config("docker", "--install", *where)
    (machine / DAEMON).write_text("{}")
    for action in ("--install", "--undo"):
        failed = client_config("docker", action, *where, code=1)
        assert "/etc/docker/daemon.json was changed since it was written" in failed.stderr
    assert (machine / DAEMON).read_text() == "{}"
    client_config("docker", "--undo", "--force", *where)
    assert (machine / DAEMON).read_text() == OLD


def test_what_somebody_changed_is_not_lost_by_force(machine: Path) -> None:
    where, daemon = ("--root", machine), machine / DAEMON
    client_config("docker", "--install", *where)
    daemon.write_text('{"debug": false}')
    shown = client_config("docker", "--undo", "--dry-run", *where, code=1)
    assert "was changed since it was written" in shown.stderr
    shown = client_config("docker", "--undo", "--dry-run", "--force", *where)
    assert '+{"debug": true}' in shown.stdout
    client_config("docker", "--install", "--force", *where, "--mirror", "http://m:5000")
    assert json.loads(daemon.read_text())["debug"] is False
    client_config("docker", "--install", *where, "--mirror", "http://n:5000")
    assert json.loads(daemon.read_text())["registry-mirrors"] == ["http://n:5000"]
    failed = client_config("docker", "--undo", *where, code=1)
    assert "stays as it was changed" in failed.stderr
    assert daemon.read_text() == '{"debug": false}'
    client_config("docker", "--undo", "--force", *where)
    assert daemon.read_text() == OLD


def test_talos_has_no_files(machine: Path) -> None:
    for action in ("--install", "--undo", "--dry-run"):
        failed = client_config("talos", action, "--root", machine, code=1)
        assert "talosctl patch machineconfig" in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["docker", "--install", "--undo"], "exclude each other"),
        (["docker", "--mirror", "m:5000"], "is no http:// or https:// address"),
        (["containerd", "--ca", 'x"y'], "does not belong into a configuration"),
        (["docker", "--mirror", "http://a..b:5000"], "has no host"),
        (["docker", "--registry", "x.example"], "x.example is no upstream"),
        (["docker", "--registry", "ghcr.io", "--except", "ghcr.io"], "no registry is left"),
        (["docker", "--server", "ghcr.io"], "not NAME=URL"),
        (["lxc"], "'lxc' is not one of"),
    ],
)
def test_misuse_is_explained(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["client-config", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_whoever_may_not_write_is_told_what_to_do(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refused)
    failed = client_config("docker", "--install", "--root", machine, code=1)
    assert "run this as root, or with --user" in failed.stderr
