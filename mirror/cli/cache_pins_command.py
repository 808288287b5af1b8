"""``mirror cache pin``, ``unpin`` and ``pins``: keep images."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from mirror.cli.cache_command import References, meant, opened
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
from mirror.cli.tables import human_age, table

if TYPE_CHECKING:
    from mirror.cli.admin_client import Cache


def pin(
    references: References,
    *,
    platforms: Annotated[
        list[str] | None,
        typer.Option("--platform", metavar="OS/ARCH", help="Only this platform; may be repeated."),
    ] = None,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Never evict these images, also those parts that come in later.

    A glob means the images that are here now. With a tag and a digest (alpine:3.20@sha256:…) the
    tag is held: it means this digest here whatever upstream says, until it is unpinned.
    """
    with opened(config) as cache:
        pinned = [cache.pin(each, platforms or []) for each in meant(cache, references)]
    if output is Output.JSON:
        write_json({"pins": pinned})
        return
    for each in pinned:
        later = "" if each.stored else " (it is not here yet: it stays once it has been pulled)"
        held = f", held at {each.digest}" if each.held else ""
        write(f"{each.image} is pinned{held}{later}")


def unpin(
    references: References,
    *,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Let these images go when their time comes; a glob means whole names of pins."""
    with opened(config) as cache:
        names = [cache.unpin(each) for each in _pinned(cache, references)]
    if output is Output.JSON:
        write_json({"images": names})
        return
    for name in names:
        write(f"{name} is not pinned any more")


def _pinned(cache: "Cache", references: list[str]) -> list[str]:
    """Return the pins that are meant; those of the configuration only by name."""
    from mirror.domain.freshness import matches  # noqa: PLC0415 -- slow
    from mirror.domain.images import is_pattern  # noqa: PLC0415 -- slow

    names: list[str] = []
    for reference in references:
        if not is_pattern(reference):
            names.append(reference)
            continue
        known = [each.image for each in cache.pins() if not each.declared]
        found = [name for name in known if matches(reference, name)]
        if not found:
            complain(f"no pin matches {reference} (`mirror cache pins` lists them)")
            raise typer.Exit(FAILED)
        names += found
    return list(dict.fromkeys(names))


def pins(
    *,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """List what is never evicted."""
    with opened(config) as cache:
        found = cache.pins()
    if output is Output.JSON:
        write_json({"pins": found})
    elif found:
        rows = [
            (
                each.image,
                ",".join(each.platforms) or "all",
                human_age(time.time() - each.pinned_at),
                f"held at {each.digest}" if each.held else "",
                "here" if each.stored else "not here yet",
            )
            for each in found
        ]
        write(table(("IMAGE", "PLATFORMS", "PINNED", "", ""), rows))
    else:
        complain("nothing is pinned")
