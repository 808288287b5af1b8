"""The command line: positions of options, output for programs, exit codes, no traceback."""

import importlib.metadata
import json
import os
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import mirror
from mirror import cli, config
from mirror.settings import Settings

TIMEOUT_SECONDS = 60


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "SEARCHED", (Path("mirror.yaml"),))
    for variable in [name for name in os.environ if name.startswith("MIRROR_")]:
        monkeypatch.delenv(variable)
    return tmp_path


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments)


def process(
    *arguments: str, directory: Path, start: Sequence[str] = ("-m", "mirror")
) -> subprocess.CompletedProcess[str]:
    root = str(Path(mirror.__file__).parents[1])
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": root, "HOME": str(directory)}
    return subprocess.run(  # noqa: S603 -- our own program
        [sys.executable, *start, *arguments],
        cwd=directory,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config", "f.yaml", "config", "check"),
        ("config", "--config", "f.yaml", "check"),
        ("config", "check", "--config", "f.yaml"),
        ("-c", "f.yaml", "config", "check"),
        ("config", "check", "-c", "f.yaml"),
        ("-c", "other.yaml", "config", "check", "-c", "f.yaml"),
    ],
    ids=" ".join,
)
def test_config_may_stand_anywhere(directory: Path, arguments: tuple[str, ...]) -> None:
    (directory / "f.yaml").write_text("log: {level: debug}\n")
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (0, "f.yaml is fine.\n")


def test_without_a_file_the_built_in_configuration_is_checked() -> None:
    assert invoke("config", "check").stdout == "The built-in configuration is fine.\n"


def test_every_command_takes_config(directory: Path) -> None:
    (directory / "f.yaml").touch()
    for command in (["version"], ["config", "show"], ["config", "schema"], ["config", "init", "-"]):
        assert invoke(*command, "--config", "f.yaml").exit_code == 0


def test_check_names_all_mistakes_on_standard_error(directory: Path) -> None:
    (directory / "mirror.yaml").write_text("cache: {max_sise: 1}\nlog: {level: loud}\n")
    result = invoke("config", "check")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "mirror: mirror.yaml:1: cache.max_sise: unknown key (did you mean 'max_size'?)",
        "mirror: mirror.yaml:2: log.level: must be 'debug', 'info', 'warning' or 'error'",
    ]


@pytest.mark.parametrize("flags", [("-o", "json"), ("--output", "json"), ("--json",)], ids=" ".join)
def test_check_writes_for_programs(directory: Path, flags: tuple[str, ...]) -> None:
    fine = invoke("config", "check", *flags)
    assert json.loads(fine.stdout) == {"ok": True, "source": None, "problems": []}
    (directory / "mirror.yaml").write_text("\ncache: {max_sise: 1}\n")
    result = invoke("config", "check", *flags)
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {
        "ok": False,
        "source": "mirror.yaml",
        "problems": [
            {
                "path": "cache.max_sise",
                "line": 2,
                "message": "unknown key",
                "hint": "did you mean 'max_size'?",
            }
        ],
    }


def test_show_prints_what_is_in_effect(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    (directory / "mirror.yaml").write_text(
        "upstreams: {x: {credentials: {username: me, password: hunter2}}}\n"
    )
    monkeypatch.setenv("MIRROR_CACHE__MAX_SIZE", "20GiB")
    text, programs = invoke("config", "show").stdout, invoke("config", "show", "--json").stdout
    assert "max_size: 20GiB" in text
    assert json.loads(programs)["cache"]["max_size"] == "20GiB"
    assert "hunter2" not in text + programs
    assert "'********'" in text


def test_schema_is_json() -> None:
    assert json.loads(invoke("config", "schema").stdout)["title"] == "Settings"


def test_init_writes_a_configuration_once(directory: Path) -> None:
    assert invoke("config", "init").exit_code == 0
    path = directory / "mirror.yaml"
    assert path.read_text(encoding="utf-8") == config.example()
    assert invoke("config", "check").stdout == "mirror.yaml is fine.\n"
    path.write_text("log:\n")
    again = invoke("config", "init")
    assert (again.exit_code, path.read_text()) == (1, "log:\n")
    assert again.stderr == "mirror: mirror.yaml is there already; --force replaces it\n"
    assert invoke("config", "init", "--force").exit_code == 0
    assert path.read_text(encoding="utf-8") == config.example()


def test_init_says_why_it_cannot_write(directory: Path) -> None:
    result = invoke("config", "init", str(directory / "missing" / "mirror.yaml"))
    assert result.exit_code == 1
    assert "cannot be written: No such file or directory" in result.stderr
    assert invoke("config", "init", "-").stdout == config.example()


def test_version() -> None:
    first, *libraries = invoke("version").stdout.splitlines()
    assert first.startswith(f"mirror {mirror.__version__} (Python 3.")
    assert any(line.startswith("  aiohttp ") for line in libraries)
    facts = json.loads(invoke("version", "-o", "json").stdout)
    assert facts["version"] == mirror.__version__
    assert {"python", "platform", "libraries"} <= set(facts)
    assert invoke("--version").stdout == f"mirror {mirror.__version__}\n"


def test_version_works_where_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(_: str) -> None:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr("importlib.metadata.requires", nothing)
    assert json.loads(invoke("version", "--json").stdout)["libraries"] == {}


@pytest.mark.parametrize(
    "arguments", [(), ("config",), ("-h",), ("config", "--help")], ids=" ".join
)
def test_help_is_printed_and_documents_the_exit_codes(arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 0
    assert "Usage" in result.stdout
    assert "Exit codes: 0 all is well" in result.stdout


def test_completion_is_offered() -> None:
    assert "--install-completion" in invoke("--help").stdout


def serve_with(monkeypatch: pytest.MonkeyPatch, outcome: int | BaseException) -> list[object]:
    calls: list[object] = []

    def run(settings: Settings, source: Path | None) -> int:
        calls.append((settings.log.level, source))
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    app = types.SimpleNamespace(run=run)
    monkeypatch.setitem(sys.modules, "mirror.app", app)
    monkeypatch.setattr(mirror, "app", app, raising=False)
    return calls


def test_serve_runs_the_mirror(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    calls = serve_with(monkeypatch, 0)
    (directory / "mirror.yaml").write_text("log: {level: debug}\n")
    assert cli.run(["serve"]) == 0
    assert calls == [("debug", Path("mirror.yaml"))]


@pytest.mark.parametrize(
    ("outcome", "code", "said"),
    [
        (1, 1, ""),
        (KeyboardInterrupt(), 130, ""),
        (PermissionError(13, "Permission denied", "x"), 1, "Permission denied"),
        (RuntimeError("odd"), 1, "this is a mistake in Mirror: RuntimeError: odd"),
    ],
    ids=["failed", "interrupted", "system", "bug"],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outcome: int | BaseException,
    code: int,
    said: str,
) -> None:
    serve_with(monkeypatch, outcome)
    assert cli.run(["serve"]) == code
    written = capsys.readouterr().err
    assert said in written
    assert "Traceback" not in written
    assert all(line.startswith("mirror: ") for line in written.splitlines())


def test_a_traceback_is_there_for_those_who_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve_with(monkeypatch, RuntimeError("odd"))
    monkeypatch.setenv("MIRROR_TRACEBACK", "1")
    assert cli.run(["serve"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["confgi"], "No such command 'confgi'. Did you mean 'config'?"),
        (["config", "check", "--foo"], "No such option: --foo"),
        (["version", "-o", "xml"], "'xml' is not one of"),
        (["config", "check", "--config"], "Option '--config' requires an argument"),
    ],
)
def test_misuse_is_explained(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert cli.run(arguments) == 2
    written = capsys.readouterr().err
    assert written.startswith("mirror: ")
    assert said in written
    assert len(written.splitlines()) == 1


def test_a_wrong_configuration_keeps_the_mirror_from_starting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = serve_with(monkeypatch, 0)
    assert cli.run(["--config", "missing.yaml", "serve"]) == 2
    assert calls == []
    assert "missing.yaml: cannot be read" in capsys.readouterr().err


def test_a_real_process(directory: Path) -> None:
    shown = process("config", "show", directory=directory)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"directory: {directory}/.cache/mirror" in shown.stdout
    (directory / "again.yaml").write_text(shown.stdout)
    checked = process("config", "check", "--config", "again.yaml", directory=directory)
    assert (checked.returncode, checked.stdout) == (0, "again.yaml is fine.\n")
    (directory / "again.yaml").write_bytes(b"\xff")
    wrong = process("config", "check", "--config", "again.yaml", directory=directory)
    assert wrong.returncode == 2
    assert wrong.stderr == "mirror: again.yaml:1: this is not UTF-8 text\n"


def test_the_version_needs_no_heavy_libraries(directory: Path) -> None:
    code = (
        "import sys; from mirror.cli import run; run(['version']);"
        "print([m for m in ('mirror.config', 'aiohttp', 'yaml', 'asyncio') if m in sys.modules])"
    )
    result = process(directory=directory, start=("-c", code))
    assert result.stdout.splitlines()[-1] == "[]"
