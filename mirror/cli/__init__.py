"""The command line: parse, call, print."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from mirror import __version__
from mirror.cli import cache_command, config_command
from mirror.cli.bench_command import bench
from mirror.cli.cache_bundle_command import export, inventory, take
from mirror.cli.cache_pins_command import pin, pins, unpin
from mirror.cli.client_config_command import client_config
from mirror.cli.completion_command import completion
from mirror.cli.doctor_command import doctor
from mirror.cli.healthcheck_command import healthcheck
from mirror.cli.node_agent_command import node_agent
from mirror.cli.options import (
    EXIT_CODES,
    FAILED,
    INTERRUPTED,
    MISUSED,
    ConfigOption,
    complain,
    write,
)
from mirror.cli.prefetch_command import prefetch
from mirror.cli.pull_commands import explain, ratelimit
from mirror.cli.serve_command import serve
from mirror.cli.version_command import version

app = typer.Typer(
    name="mirror",
    help="A pull-through caching mirror proxy for container registries.",
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command(epilog=EXIT_CODES)(serve)
for _command in (pin, unpin, pins, export, inventory):
    cache_command.app.command(epilog=EXIT_CODES)(_command)
cache_command.app.command("import", epilog=EXIT_CODES)(take)
app.add_typer(cache_command.app)
app.add_typer(config_command.app)
app.command(epilog=EXIT_CODES)(prefetch)
app.command(epilog=EXIT_CODES)(explain)
app.command(epilog=EXIT_CODES)(ratelimit)
app.command(epilog=EXIT_CODES)(bench)
app.command(epilog=EXIT_CODES)(doctor)
app.command(epilog=EXIT_CODES)(client_config)
app.command(epilog=EXIT_CODES)(node_agent)
app.command(epilog=EXIT_CODES)(healthcheck)
app.command(epilog=EXIT_CODES)(completion)
app.command(epilog=EXIT_CODES)(version)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 -- typer's signature
    if wanted:
        write(f"mirror {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _mirror(
    context: typer.Context,
    *,
    config: ConfigOption = None,  # noqa: ARG001 -- the option remembers it
    show_version: Annotated[  # noqa: ARG001 -- acts by its callback
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        write(context.get_help())


def main() -> NoReturn:
    """Run the command that the arguments name."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code; whatever happens, there is no traceback."""
    try:
        code = app(args=list(arguments), prog_name="mirror", standalone_mode=False)
    except typer.TyperException as error:
        complain(f"{error.format_message()} (`mirror --help` lists what there is)")
        return MISUSED
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OSError as error:
        complain(str(error))
        return FAILED
    except Exception as error:  # noqa: BLE001 -- this is the outermost place
        if os.environ.get("MIRROR_TRACEBACK"):
            traceback.print_exc()
        complain(
            f"this is a mistake in Mirror: {type(error).__name__}: {error}",
            "set MIRROR_TRACEBACK=1 to see where, and please report it",
        )
        return FAILED
    return code if isinstance(code, int) else 0
