"""``mirror cache``: see what is here, check it, remove it, keep it."""

import enum
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from mirror.cli.options import (
    EXIT_CODES,
    FAILED,
    MISUSED,
    ConfigOption,
    JsonOption,
    ListOutput,
    ListOutputOption,
    Output,
    OutputOption,
    complain,
    load_settings,
    write,
    write_json,
)
from mirror.cli.problems import problems
from mirror.cli.tables import counted, human_size, table

if TYPE_CHECKING:
    from mirror.cli.admin_client import Cache
    from mirror.store.checking import Event
    from mirror.store.usage import RepositoryUsage, Usage

_ABOUT: Final = (
    "See what the cache holds, check it, remove from it, keep in it.\n\n"
    "The configuration says which mirror is meant. While it runs, its admin API is asked; else "
    "the commands work on its directory. REF is an image as clients name it: alpine:3.20, "
    "docker.io/library/alpine:3.20, ghcr.io/org/app@sha256:…"
)
_EXAMPLES: Final = "Examples: mirror cache ls 'ghcr.io/**' · mirror cache rm alpine:3.19 --dry-run"

app = typer.Typer(name="cache", help=_ABOUT, epilog=f"{_EXAMPLES} · {EXIT_CODES}")


class Order(enum.StrEnum):
    """What images are ordered by."""

    NAME = "name"
    SIZE = "size"
    HERE = "here"
    USED = "used"
    HITS = "hits"


class UsageOrder(enum.StrEnum):
    """What repositories are ordered by."""

    NAME = "name"
    OBJECTS = "objects"
    SIZE = "size"
    OWN = "own"


DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, only say what would be.")]
References = Annotated[list[str], typer.Argument(metavar="REF...", help="Images.")]


@app.callback(invoke_without_command=True)
def _cache(context: typer.Context, *, config: ConfigOption = None) -> None:  # noqa: ARG001 -- the option remembers it
    if context.invoked_subcommand is None:
        write(context.get_help())


@contextmanager
def opened(config: Path | None) -> Iterator["Cache"]:
    """Open the cache of a configuration, and say what stands in the way."""
    settings = load_settings(config).settings
    from mirror.cli.admin_client import open_cache  # noqa: PLC0415 -- slow
    from mirror.observe import logs  # noqa: PLC0415 -- slow

    logs.configure("console", "critical")  # what is wrong is our result, and said there
    with problems(), open_cache(settings) as cache:
        yield cache


# --- looking ---------------------------------------------------------------------------------


@app.command("ls", epilog=EXIT_CODES)
def list_images(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[GLOB]...", help="Only these: * within a component, ** across, quoted."
        ),
    ] = None,
    *,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Also manifests that no tag means.")
    ] = False,
    sort: Annotated[
        Order,
        typer.Option("--sort", "-s", help="Names from A, numbers from the largest, last use."),
    ] = Order.NAME,
    reverse: Annotated[bool, typer.Option("--reverse", "-r", help="The other way round.")] = False,
    config: ConfigOption = None,
    output: ListOutputOption = ListOutput.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """List the images that are here.

    SIZE is all that an image links, as far as its manifests are here; HERE is how much of it is.
    HITS is how often its manifest was served since the mirror started.
    """
    with opened(config) as cache:
        images = cache.images(patterns or [], untagged=everything)
    from mirror.cli.cache_report import images_text, sorted_images  # noqa: PLC0415 -- slow

    images = sorted_images(images, sort)[:: -1 if reverse else 1]
    if output is ListOutput.JSON:
        write_json({"images": images})
    elif images:
        write(images_text(images, is_wide=output is ListOutput.WIDE))
    else:
        complain("nothing here matches" if patterns else "the cache has no images yet")


@app.command(epilog=EXIT_CODES)
def show(
    reference: Annotated[str, typer.Argument(metavar="REF", help="An image.")],
    *,
    config: ConfigOption = None,
    output: ListOutputOption = ListOutput.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Show one image: a tree of what it links, who refers to it, and what its tag meant."""
    with opened(config) as cache:
        details, referrers = cache.details(reference), cache.referrers(reference)
    if output is ListOutput.JSON:
        write_json({**msgspec.structs.asdict(details), "referrers": referrers})
    else:
        from mirror.cli.cache_report import details_text  # noqa: PLC0415 -- slow

        write(details_text(details, referrers, is_wide=output is ListOutput.WIDE))


@app.command(epilog=EXIT_CODES)
def refresh(
    references: Annotated[list[str], typer.Argument(metavar="REF...", help="Tags.")],
    *,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Ask upstream now what these tags mean; the mirror has to run."""
    from mirror.cli.pull_commands import running  # noqa: PLC0415 -- slow

    with running(config) as mirror:
        refreshed = [mirror.refresh(each) for each in references]
    if output is Output.JSON:
        write_json({"images": refreshed})
        return
    for each in refreshed:
        was = f", was {each.before}" if each.moved else "" if each.before else " (new here)"
        write(f"{each.image} is {each.now}{was}")


@app.command(epilog=EXIT_CODES)
def du(
    *,
    sort: Annotated[
        UsageOrder,
        typer.Option("--sort", "-s", help="Names from A, numbers from the largest."),
    ] = UsageOrder.SIZE,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Say how full the cache is, and who holds how much.

    What several repositories share counts for each of them, and once in the total; OWN is what
    removing a repository would free.
    """
    with opened(config) as cache:
        usage = cache.usage()
    if output is Output.JSON:
        write_json(usage)
        return
    rows = [
        (
            each.repository,
            f"{each.objects:,}",
            human_size(each.stored_bytes),
            human_size(each.own_bytes),
        )
        for each in _sorted_usage(usage, sort)
    ]
    if rows:
        write(table(("REPOSITORY", "OBJECTS", "SIZE", "OWN"), rows, right=(1, 2, 3)) + "\n")
    from mirror.cli.cache_report import usage_text  # noqa: PLC0415 -- slow

    write(usage_text(usage))


def _sorted_usage(usage: "Usage", by: UsageOrder) -> "list[RepositoryUsage]":
    found = sorted(usage.repositories or (), key=lambda each: each.repository)
    if by is UsageOrder.NAME:
        return found
    keys = {UsageOrder.SIZE: "stored_bytes", UsageOrder.OWN: "own_bytes"}
    return sorted(found, key=lambda each: -getattr(each, keys.get(by, "objects")))


# --- checking and tidying --------------------------------------------------------------------


@app.command(epilog=EXIT_CODES)
def verify(
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what is wrong, so that it is fetched again.")
    ] = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Read every object again and compare it with its name, its row and refs/.

    Exit code 1 if something is wrong and not repaired. With -o json, one object a line: progress,
    finding, done.
    """
    with opened(config) as cache:
        left = sum(_show_event(event, output) for event in cache.verify(repair=repair))
    if left:
        raise typer.Exit(FAILED)


def _show_event(event: "Event", output: Output) -> int:
    """Write an event; returns how much is wrong and not repaired, of the last one."""
    from mirror.cli.cache_report import progress_text  # noqa: PLC0415 -- slow
    from mirror.store.checking import Finding, Verdict  # noqa: PLC0415 -- slow

    left = event.wrong - event.repaired if isinstance(event, Verdict) else 0
    if output is Output.JSON:
        write(msgspec.json.encode(event).decode())
    elif isinstance(event, Finding):
        _show_progress("")
        write(f"{event.kind.replace('_', ' ')}: {event.name}: {event.detail}")
    elif isinstance(event, Verdict):
        _show_progress("")
        freed = f", {human_size(event.freed_bytes)} freed" if event.freed_bytes else ""
        write(
            f"{counted(event.checked_objects, 'object')} ({human_size(event.checked_bytes)}) read "
            f"in {event.seconds:.1f} s: {event.wrong or 'nothing'} wrong, "
            f"{event.repaired} repaired{freed}"
        )
        if left:
            complain("`mirror cache verify --repair` repairs what can be repaired")
    else:
        _show_progress(progress_text(event))
    return left


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


@app.command(epilog=EXIT_CODES)
def gc(
    *,
    dry_run: DryRun = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Remove what nothing needs; the mirror goes on, and does this by itself once a day."""
    with opened(config) as cache:
        swept = cache.collect(dry_run=dry_run)
    if output is Output.JSON:
        write_json(swept)
    else:
        from mirror.cli.cache_report import swept_text  # noqa: PLC0415 -- slow

        write(swept_text(swept))


@app.command(epilog=EXIT_CODES)
def rm(
    references: Annotated[list[str], typer.Argument(metavar="REF...", help="Images or globs.")],
    *,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask about globs.")] = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Remove images, and all that nothing else needs.

    A glob may mean many images: it asks first on a terminal, and needs --yes elsewhere. Pinned
    images stay. What somebody is reading goes as soon as room is needed. Exit code 1 if an image
    is not here, is pinned or is in use.
    """
    with opened(config) as cache:
        names = meant(cache, references)
        if any(map(_is_glob, references)) and not dry_run and not yes:
            _ask(len(names))
        removed = cache.remove(names, dry_run=dry_run)
    if output is Output.JSON:
        write_json(removed)
    elif removed.images:
        from mirror.cli.cache_report import removed_text  # noqa: PLC0415 -- slow

        write(removed_text(removed))
    for left, why in (
        (removed.missing, "is not here (`mirror cache ls` lists what is)"),
        (removed.pinned, "is pinned (`mirror cache unpin` lets it go)"),
        (removed.busy, "is being read; it goes when room is needed"),
    ):
        complain(*(f"{name} {why}" for name in left))
    if removed.missing or removed.pinned or removed.busy:
        raise typer.Exit(FAILED)


def _is_glob(reference: str) -> bool:
    from mirror.domain.images import is_pattern  # noqa: PLC0415 -- slow

    return is_pattern(reference)


def meant(cache: "Cache", references: list[str]) -> list[str]:
    """Return the images that are meant, by name or by globs over what is here."""
    names: list[str] = []
    for reference in references:
        if not _is_glob(reference):
            names.append(reference)
            continue
        found = cache.images([reference], untagged=False)
        if not found:
            complain(f"nothing here matches {reference} (`mirror cache ls` lists what is)")
            raise typer.Exit(FAILED)
        names += [f"{each.repository}:{each.tag}" for each in found]
    return list(dict.fromkeys(names))


def _ask(count: int) -> None:
    if not sys.stdin.isatty():
        complain(f"that is {counted(count, 'image')}: say --yes, or look with --dry-run first")
        raise typer.Exit(MISUSED)
    if not typer.confirm(f"Remove {counted(count, 'image')}?", err=True):
        raise typer.Exit(FAILED)
