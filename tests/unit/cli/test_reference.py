"""docs/cli.md says what the commands do, and shells can complete them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from mirror.cli import run
from tests.tools.cli_reference import reference

ROOT = Path(__file__).parents[3]


def test_the_reference_is_true() -> None:
    assert (ROOT / "docs/cli.md").read_text(encoding="utf-8") == reference(), (
        "run `python -m tests.tools.cli_reference > docs/cli.md`"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_understands_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_MIRROR_COMPLETE=complete_{shell}" in script
    program = shutil.which(shell)
    if program is not None:
        checked = subprocess.run(  # noqa: S603 -- a shell reads our script and runs nothing
            [program, "-n"], input=script.encode(), capture_output=True, check=False, timeout=30
        )
        assert (checked.returncode, checked.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("shell", "words", "expected"),
    [
        ("bash", "mirror cache l", ["ls"]),
        ("bash", "mirror cache ls --so", ["--sort"]),
        ("bash", "mirror completion f", ["fish"]),
        ("fish", "mirror cache un", ["unpin"]),
        ("zsh", "mirror pre", ["prefetch"]),
    ],
)
def test_commands_and_options_are_completed(
    shell: str,
    words: str,
    expected: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("_MIRROR_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", words)
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    with pytest.raises(SystemExit):
        run([])
    told = capsys.readouterr().out
    assert all(word in told for word in expected)
    if shell == "bash":
        assert told.split() == expected
