"""``mirror client-config``: the configuration of a container client, shown, written, taken back."""

import difflib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mirror.cli.client_options import (
    AirGapOption,
    CaOption,
    CatchAllOption,
    ExceptOption,
    MirrorOption,
    RegistryOption,
    RootOption,
    ServerOption,
    wish_of,
)
from mirror.cli.options import (
    FAILED,
    ConfigOption,
    JsonOption,
    Output,
    OutputOption,
    complain,
    load_settings,
    write,
    write_json,
)
from mirror.clients.installing import ChangedSinceError, Installation
from mirror.clients.names import ClientName
from mirror.clients.plan import CannotMergeError, NoFilesError, Plan

if TYPE_CHECKING:
    from mirror.clients.catalogue import Client

_NO_NEWLINE: Final = "\\ No newline at end of file"


def client_config(
    client: Annotated[ClientName, typer.Argument(help="The client.", show_default=False)],
    *,
    install: Annotated[
        bool, typer.Option("--install", help="Write the files; what is there is kept.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Put the files back as they were before.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")
    ] = False,
    mirror: MirrorOption = None,
    registry: RegistryOption = None,
    left_out: ExceptOption = None,
    server: ServerOption = None,
    catch_all: CatchAllOption = False,
    air_gap: AirGapOption = False,
    ca: CaOption = None,
    user: Annotated[
        bool, typer.Option("--user", help="The files of this user (rootless), not the system's.")
    ] = False,
    root: RootOption = Path("/"),
    force: Annotated[
        bool, typer.Option("--force", help="Also where a file was changed since it was written.")
    ] = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Print the configuration that sends a container client to the mirror, or install it."""
    if install and undo:
        raise typer.BadParameter("--install and --undo exclude each other")
    from mirror.clients.catalogue import CLIENTS, NoFiles  # noqa: PLC0415 -- slow

    found = CLIENTS[client]
    home = _home(client, found, user=user)
    with _refusals():
        if undo:
            there = _installation(found, root, home)
            _undo(there, found.after_undo, output, dry_run=dry_run, force=force)
            return
        wish = wish_of(
            load_settings(config, with_files=False).settings,
            mirror=mirror,
            registries=registry,
            left_out=left_out,
            servers=server,
            catch_all=catch_all,
            air_gap=air_gap,
            ca=ca,
            home=home,
        )
        if not install and not dry_run:
            _show(found.plan(wish, NoFiles()), output)
            return
        there = _installation(found, root, home)
        _install(there, found.plan(wish, there), output, dry_run=dry_run, force=force)


def _home(client: ClientName, found: "Client", *, user: bool) -> str | None:
    if not user:
        return None
    if not found.per_user:
        raise typer.BadParameter(f"{client} has no configuration for a user", param_hint="--user")
    home = os.environ.get("HOME", "")
    if not home.startswith("/"):
        raise typer.BadParameter("HOME names no directory", param_hint="--user")
    return home.rstrip("/")


def _installation(client: "Client", root: Path, home: str | None) -> Installation:
    # Where the ledger is, the client's own configuration may say.
    plain = Installation(root, "/nonexistent")
    return Installation(root, client.ledger(home, plain))


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what stands in the way into a message and an exit code."""
    try:
        yield
    except CannotMergeError as error:
        wanted = ["nothing was changed; what is to be added there:", *error.wanted.splitlines()]
        complain(str(error), *(wanted if error.wanted else ["nothing was changed"]))
    except ChangedSinceError as error:
        for path in error.paths:
            complain(f"{path} was changed since it was written, and stays as it was changed")
        complain("--dry-run --force shows what --force would make of it")
    except NoFilesError as error:
        complain(str(error))
    except PermissionError as error:
        complain(f"{error.filename} cannot be written: run this as root, or with --user")
    else:
        return
    raise typer.Exit(FAILED)


def _show(plan: Plan, output: Output) -> None:
    if output is Output.JSON:
        write_json({"files": plan.files, "notes": plan.notes, "activate": plan.activate})
        return
    several = len(plan.files) > 1
    for path, text in plan.files.items():
        write(f"# {path}\n{text}" if several else text.rstrip("\n"))
    where = "" if several else f"the file is {next(iter(plan.files))}"
    complain(*filter(None, (where, *plan.notes, _activation(plan, list(plan.files)))))


def _activation(plan: Plan, changed: list[str]) -> str:
    command = plan.activation(changed)
    return f"afterwards: {command}" if command else "no restart is needed"


def _install(
    there: Installation, plan: Plan, output: Output, *, dry_run: bool, force: bool
) -> None:
    wanted = there.wanted(plan)
    diff = _diff(there, wanted)
    changed = list(_changed(there, wanted)) if dry_run else there.install(plan, force=force)
    command = plan.activation(changed)
    if output is Output.JSON:
        done = {"changed": changed, "dry_run": dry_run, "diff": diff}
        write_json({**done, "notes": plan.notes, "activate": command})
        return
    if dry_run and diff:
        write(diff.rstrip("\n"))
    for path in () if dry_run else changed:
        write(f"{path} is written")
    if not changed:
        write("nothing to change: it is so already")
    complain(*plan.notes, *([_activation(plan, changed)] if changed else []))


def _undo(
    there: Installation, command: str | None, output: Output, *, dry_run: bool, force: bool
) -> None:
    before = there.before(force=force)
    diff, stays = _diff(there, before), [] if force else there.changed()
    changed = list(_changed(there, before)) if dry_run else there.undo(force=force)
    if output is Output.JSON:
        write_json({"changed": changed, "dry_run": dry_run, "diff": diff, "activate": command})
        return
    if dry_run and diff:
        write(diff.rstrip("\n"))
    for path in () if dry_run else changed:
        write(f"{path} is as it was before")
    if stays:
        raise ChangedSinceError(stays)
    if not changed:
        write("nothing to undo: nothing is installed")
    elif not dry_run:
        complain(f"afterwards: {command}" if command else "no restart is needed")


def _changed(there: Installation, wanted: Mapping[str, bytes | None]) -> Iterator[str]:
    return (path for path, content in wanted.items() if content != there.current(path))


def _diff(there: Installation, wanted: Mapping[str, bytes | None]) -> str:
    return "".join(_file_diff(path, there.current(path), new) for path, new in wanted.items())


def _file_diff(path: str, old: bytes | None, new: bytes | None) -> str:
    before, after = ((text or b"").decode(errors="replace").splitlines() for text in (old, new))
    names = [name if text is not None else "/dev/null" for name, text in ((path, old), (path, new))]
    lines = list(difflib.unified_diff(before, after, names[0], names[1], lineterm=""))
    if not lines and old != new:
        lines = [f"--- {names[0]}", f"+++ {names[1]}", _NO_NEWLINE]
    return "".join(f"{line}\n" for line in lines)
