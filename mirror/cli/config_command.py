"""``mirror config``: check, show and begin a configuration."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mirror.cli.options import (
    EXIT_CODES,
    FAILED,
    MISUSED,
    ConfigOption,
    JsonOption,
    Output,
    OutputOption,
    complain,
    load_settings,
    write,
)

if TYPE_CHECKING:
    from mirror.config import ConfigError

app = typer.Typer(name="config", help="Check, show and begin a configuration.", epilog=EXIT_CODES)


@app.callback(invoke_without_command=True)
def _config(context: typer.Context, *, config: ConfigOption = None) -> None:  # noqa: ARG001 -- the option remembers it
    if context.invoked_subcommand is None:
        write(context.get_help())


@app.command(epilog=EXIT_CODES)
def check(
    *,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Name everything that is wrong with the configuration."""
    if output is Output.TEXT:
        loaded = load_settings(config)
        write(f"{loaded.source or 'The built-in configuration'} is fine.")
        return
    from mirror import config as configuration  # noqa: PLC0415 -- slow

    try:
        loaded = configuration.load(config, os.environ)
    except configuration.ConfigError as error:
        write(_as_json(error))
        raise typer.Exit(MISUSED) from None
    source = str(loaded.source) if loaded.source else None
    write(json.dumps({"ok": True, "source": source, "problems": []}, indent=2))


def _as_json(error: "ConfigError") -> str:
    problems = [
        {"path": found.path, "line": found.line, "message": found.message, "hint": found.hint}
        for found in error.problems
    ]
    source = str(error.source) if error.source else None
    return json.dumps({"ok": False, "source": source, "problems": problems}, indent=2)


@app.command(epilog=EXIT_CODES)
def show(
    *,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Print the configuration in effect, without its secrets."""
    settings = load_settings(config).settings
    from mirror.config import show as as_yaml  # noqa: PLC0415 -- slow

    if output is Output.JSON:
        write(json.dumps(settings.model_dump(mode="json"), indent=2))
    else:
        write(as_yaml(settings).rstrip())


@app.command(epilog=EXIT_CODES)
def schema(*, config: ConfigOption = None) -> None:  # noqa: ARG001 -- every command takes it
    """Print the JSON schema of the configuration, for editors."""
    from mirror.config import schema as json_schema  # noqa: PLC0415 -- slow

    write(json.dumps(json_schema(), indent=2))


@app.command(epilog=EXIT_CODES)
def init(
    path: Annotated[Path, typer.Argument(help="Where to; - is standard output.")] = Path(
        "mirror.yaml"
    ),
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    config: ConfigOption = None,  # noqa: ARG001 -- every command takes it
) -> None:
    """Write a commented configuration that says what holds by default."""
    from mirror.config import example  # noqa: PLC0415 -- slow

    if str(path) == "-":
        write(example().rstrip())
        return
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(example())
    except FileExistsError:
        complain(f"{path} is there already; --force replaces it")
        raise typer.Exit(FAILED) from None
    except OSError as error:
        complain(f"{path} cannot be written: {error.strerror}")
        raise typer.Exit(FAILED) from None
    write(f"{path} is written; `mirror config check --config {path}` checks your changes.")
