"""``mirror completion``: what a shell needs to complete our commands and options."""

import enum
from typing import Annotated

import typer

from mirror.cli.options import ConfigOption, write


class Shell(enum.StrEnum):
    """The shells that there is a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(help="For which shell.")],
    *,
    config: ConfigOption = None,  # noqa: ARG001 -- every command takes it
) -> None:
    """Print the script that makes a shell complete commands and options.

    For one session: `source <(mirror completion bash)`, `source <(mirror completion zsh)` or
    `mirror completion fish | source`. For good, write it to where the shell looks for it.
    """
    from typer._completion_shared import get_completion_script  # noqa: PLC0415 -- slow; not public

    script = get_completion_script(
        prog_name="mirror", complete_var="_MIRROR_COMPLETE", shell=shell.value
    )
    if shell is Shell.FISH:
        # Else a long help text is wrapped, and its second line offered as a candidate.
        script = script.replace("env _MIRROR_COMPLETE", "env COLUMNS=9999 _MIRROR_COMPLETE")
    write(script)
