"""Writes docs/cli.md: ``python -m tests.tools.cli_reference``."""

import re
import sys
from collections.abc import Iterator
from typing import Any, Final

from typer.main import get_command

from mirror.cli import app
from mirror.cli.options import EXIT_CODES

INTRO: Final = f"""\
# Command line

<!-- Written by `python -m tests.tools.cli_reference`, from the commands in `mirror/cli/`. -->

Every command takes `--config`, before or after its name, and finds the running mirror by it.
`--help` says what stands here. {EXIT_CODES}

## Completion

`mirror completion bash|zsh|fish` prints what a shell needs to complete commands and options:

```sh
mirror completion bash > /etc/bash_completion.d/mirror
mirror completion zsh > "${{fpath[1]}}/_mirror"          # then start a new shell
mirror completion fish > ~/.config/fish/completions/mirror.fish
```

`mirror --install-completion` does that for the shell it is called from.
"""


def commands(command: Any, name: str = "mirror") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 -- typer's own
    """Yield all commands with their whole names, groups before what is in them."""
    yield name, command
    for below, each in getattr(command, "commands", {}).items():
        if not each.hidden:
            yield from commands(each, f"{name} {below}")


def reference() -> str:
    """Return the page."""
    parts = [INTRO]
    for name, command in commands(get_command(app)):
        if name != "mirror" and not hasattr(command, "commands"):
            parts.append(_section(name, command))
    return "\n".join(parts)


def _section(name: str, command: Any) -> str:  # noqa: ANN401 -- typer's own
    lines = [f"## {name}", "", f"`{_usage(name, command)}`", "", _text(command.help), ""]
    rows = [_row(each) for each in command.params if not _is_common(each)]
    if rows:
        lines += ["| Option | Default | Meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _usage(name: str, command: Any) -> str:  # noqa: ANN401 -- typer's own
    words = [name]
    for each in command.params:
        if each.param_type_name == "argument":
            metavar = (each.metavar or each.name.upper()).strip("[].")
            word = metavar + ("..." if each.nargs == -1 else "")
            words.append(word if each.required else f"[{word}]")
    return " ".join([*words, "[OPTIONS]"])


def _is_common(parameter: Any) -> bool:  # noqa: ANN401 -- typer's own
    return parameter.name in {"config", "help"} or getattr(parameter, "hidden", False)


def _row(parameter: Any) -> str:  # noqa: ANN401 -- typer's own
    names = ", ".join(f"`{each}`" for each in _names(parameter))
    if parameter.param_type_name == "argument":
        names = f"`{(parameter.metavar or parameter.name.upper()).strip('[].')}`"
    elif parameter.metavar:
        names += f" {parameter.metavar}"
    default = parameter.default
    is_shown = default not in {None, False, ""} and not callable(default) and not parameter.required
    shown = f"`{getattr(default, 'value', default)}`" if is_shown else ""
    return f"| {names} | {shown} | {_text(parameter.help).replace('|', chr(92) + '|')} |"


def _names(parameter: Any) -> list[str]:  # noqa: ANN401 -- typer's own
    return [*sorted(parameter.opts, key=len, reverse=True), *parameter.secondary_opts]


def _text(text: str | None) -> str:
    """Return paragraphs on a line each."""
    paragraphs = re.split(r"\n\s*\n", (text or "").strip())
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


if __name__ == "__main__":
    sys.stdout.write(reference())
