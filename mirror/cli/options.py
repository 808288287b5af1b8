"""Options that several commands share, and what they have in common at their ends."""

import enum
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

if TYPE_CHECKING:
    from mirror.config import Loaded

FAILED: Final = 1
MISUSED: Final = 2
INTERRUPTED: Final = 130

EXIT_CODES: Final = (
    "Exit codes: 0 all is well, 1 it failed at run time, 2 the command line or the configuration "
    "is wrong, 130 interrupted."
)

_CONFIG: Final = "mirror.config"
_JSON: Final = "mirror.json"


class Output(enum.StrEnum):
    """For whom a command writes."""

    TEXT = "text"
    JSON = "json"


class ListOutput(enum.StrEnum):
    """For whom a command writes that has more to say than fits a terminal."""

    TEXT = "text"
    WIDE = "wide"
    JSON = "json"


def complain(*lines: str) -> None:
    """Write each line to standard error, in our name."""
    for line in lines:
        typer.echo(f"mirror: {line}", err=True)


def _remember_config(context: typer.Context, given: Path | None) -> Path | None:
    # Commands share `meta` with the groups around them: the option may stand before or after
    # the name of the command, and the last one counts.
    if given is not None:
        context.meta[_CONFIG] = given
    remembered: Path | None = context.meta.get(_CONFIG)
    return remembered


def _remember_output(context: typer.Context, given: Output) -> Output:
    return Output.JSON if context.meta.get(_JSON) else given


def _remember_list_output(context: typer.Context, given: ListOutput) -> ListOutput:
    return ListOutput.JSON if context.meta.get(_JSON) else given


def _remember_json(context: typer.Context, given: bool) -> bool:  # noqa: FBT001 -- typer's signature
    context.meta[_JSON] = given
    return given


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Configuration file. Default: $MIRROR_CONFIG, ./mirror.yaml, /etc/mirror/mirror.yaml.",
        callback=_remember_config,
        show_default=False,
    ),
]
OutputOption = Annotated[
    Output,
    typer.Option("--output", "-o", help="For people or for programs.", callback=_remember_output),
]
ListOutputOption = Annotated[
    ListOutput,
    typer.Option(
        "--output",
        "-o",
        help="For people, with all there is to say, or for programs.",
        callback=_remember_list_output,
    ),
]
JsonOption = Annotated[
    bool,
    # Eager: it is read before --output, which it decides.
    typer.Option("--json", help="Short for -o json.", callback=_remember_json, is_eager=True),
]


def load_settings(path: Path | None, *, with_files: bool = True) -> "Loaded":
    """Load the configuration, or name everything that is wrong with it and exit.

    Without *with_files* nobody looks at the files that it names.
    """
    from mirror import config  # noqa: PLC0415 -- slow, and not needed by all

    try:
        return config.load(path, os.environ, with_files=with_files)
    except config.ConfigError as error:
        complain(*str(error).splitlines())
        raise typer.Exit(MISUSED) from None


def write(text: str) -> None:
    """Write a result to standard output, whatever characters it holds."""
    encoding = sys.stdout.encoding or "utf-8"
    typer.echo(text.encode(encoding, "backslashreplace").decode(encoding))


def write_json(result: object) -> None:
    """Write a result for programs."""
    write(msgspec.json.format(msgspec.json.encode(result), indent=2).decode())
