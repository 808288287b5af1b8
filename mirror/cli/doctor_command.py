"""``mirror doctor``: what is wrong with this mirror, its machine and its network."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mirror.cli.options import (
    FAILED,
    ConfigOption,
    JsonOption,
    Output,
    OutputOption,
    complain,
    write,
    write_json,
)

if TYPE_CHECKING:
    from mirror.cli.doctor.plan import Wishes


def doctor(
    *,
    image: Annotated[
        str | None,
        typer.Option(
            "--image",
            metavar="REF",
            help="What to pull. Default: registry.k8s.io/pause:3.10, else hello-world.",
            show_default=False,
        ),
    ] = None,
    pull: Annotated[
        bool, typer.Option("--pull/--no-pull", help="Pull an image through the running mirror.")
    ] = True,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="Look at a mirror somewhere else, and only at what can be seen of it from here.",
            show_default=False,
        ),
    ] = None,
    admin_url: Annotated[
        str | None,
        typer.Option(
            "--admin-url", metavar="URL", help="Where its /readyz is.", show_default=False
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Accept any certificate of these two addresses.")
    ] = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Look at all that a pull needs, and say what is wrong and what to do about it.

    From the configuration to one real pull, within 15 seconds.
    """
    for option, given in (("--url", url), ("--admin-url", admin_url)):
        if given is not None and not given.startswith(("http://", "https://")):
            raise typer.BadParameter("not an http:// or https:// address", param_hint=option)
    from mirror.cli.doctor.plan import Wishes  # noqa: PLC0415 -- slow

    wishes = Wishes(
        config=config, url=url, admin_url=admin_url, insecure=insecure, image=image, pull=pull
    )
    if not _is_well(wishes, output):
        raise typer.Exit(FAILED)


def _is_well(wishes: "Wishes", output: Output) -> bool:
    """Look, tell, and return whether nothing failed."""
    import asyncio  # noqa: PLC0415 -- slow

    from mirror.cli.doctor.finding import State  # noqa: PLC0415 -- slow
    from mirror.cli.doctor.plan import diagnose  # noqa: PLC0415 -- slow
    from mirror.cli.doctor.report import report  # noqa: PLC0415 -- slow
    from mirror.observe import logs  # noqa: PLC0415 -- slow

    logs.configure("json", "critical")  # the report says what the log of a mirror would say
    if sys.stderr.isatty() and output is Output.TEXT:
        complain("looking; this takes 15 seconds at most")
    findings = asyncio.run(diagnose(wishes, os.environ))
    is_well = all(each.state is not State.FAILED for each in findings)
    if output is Output.JSON:
        write_json({"ok": is_well, "checks": findings})
    else:
        colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        write(report(findings, colours=colours, unicode=is_unicode))
    return is_well
