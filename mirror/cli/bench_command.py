"""``mirror bench``: measure a pull, from the mirror and beside that from the upstream itself."""

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Final

import typer

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
from mirror.cli.problems import problems
from mirror.cli.tables import human_size, table

if TYPE_CHECKING:
    from mirror.cli.measuring import Measure, Source
    from mirror.domain.names import Reference, Repository
    from mirror.settings import Settings

_DIGITS: Final = 12

Image = Annotated[str, typer.Argument(metavar="IMAGE", help="What to pull.")]
Direct = Annotated[
    bool,
    typer.Option("--direct", help="Also pull from the upstream itself; it counts as pulls there."),
]
Platform = Annotated[
    str, typer.Option("--platform", metavar="OS/ARCH", help="Of an index: which image.")
]
Runs = Annotated[
    int,
    typer.Option("--runs", "-n", min=1, max=100, help="Pull so many times: a miss, then hits."),
]


def bench(
    image: Image,
    *,
    direct: Direct = False,
    platform: Platform = "linux/amd64",
    runs: Runs = 1,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Pull an image through the running mirror and say how long each part took.

    One request after the other, on one connection: manifest, config, layers. What is not cached
    is cached by it.
    """
    settings = load_settings(config).settings
    from mirror.cli.measuring import MeasureError  # noqa: PLC0415 -- slow

    repository, reference = _parsed(image, settings)
    try:
        pulls = [_through(settings, repository, reference, platform) for _ in range(runs)]
        compared = _directly(settings, repository, reference, platform) if direct else []
    except MeasureError as error:
        complain(str(error), "`mirror doctor` looks for what may be wrong")
        raise typer.Exit(FAILED) from None
    if output is Output.JSON:
        write_json({"image": image, "platform": platform, "runs": pulls, "direct": compared})
        return
    for number, measures in enumerate(pulls, 1):
        if runs > 1:
            write(f"{'' if number == 1 else chr(10)}Run {number} of {runs}")
        write(measures_text(measures, compared))


def _parsed(image: str, settings: "Settings") -> "tuple[Repository, Reference]":
    from mirror.service.cache_admin import parsed  # noqa: PLC0415 -- slow
    from mirror.settings import routing_table  # noqa: PLC0415 -- slow

    with problems():
        return parsed(image, routing_table(settings.upstreams, settings.default_upstream))


def _through(
    settings: "Settings", repository: "Repository", reference: "Reference", platform: str
) -> "list[Measure]":
    from mirror.cli.doctor.asking import Place  # noqa: PLC0415 -- slow
    from mirror.cli.measuring import FromMirror  # noqa: PLC0415 -- slow

    place = Place.here(settings.server.listen, settings.server.tls)
    with closing(FromMirror(place, repository)) as source:
        return _measured(source, reference, platform)


def _directly(
    settings: "Settings", repository: "Repository", reference: "Reference", platform: str
) -> "list[Measure]":
    from mirror.cli.measuring import FromUpstream  # noqa: PLC0415 -- slow
    from mirror.observe import logs  # noqa: PLC0415 -- slow

    logs.configure("console", "critical")  # what is wrong is our result, and said there
    with closing(FromUpstream(settings, repository)) as source:
        return _measured(source, reference, platform)


def _measured(source: "Source", reference: "Reference", platform: str) -> "list[Measure]":
    from mirror.cli.measuring import pull  # noqa: PLC0415 -- slow

    return list(pull(source, reference, platform))


def measures_text(measures: "list[Measure]", compared: "list[Measure]") -> str:
    """Return a table with a line for each request and one for all of them."""
    head: tuple[str, ...] = ("", "DIGEST", "SIZE", "RESULT", "FIRST BYTE", "TIME", "SPEED")
    rows: list[tuple[str, ...]] = [(*_name(each), each.result, *_times(each)) for each in measures]
    total = _total(measures)
    rows.append(("total", "", human_size(total.size_bytes), "", "", *_times(total)[1:]))
    if compared:
        head = (*head, "DIRECT: FIRST", "TIME", "SPEED")
        others = {each.digest: _times(each) for each in compared}
        sides = [others.get(each.digest, ("", "", "")) for each in measures]
        sides.append(("", *_times(_total(compared))[1:]))
        rows = [(*row, *side) for row, side in zip(rows, sides, strict=True)]
    return table(head, rows, right=(2, *range(4, len(head))))


def _name(measure: "Measure") -> tuple[str, str, str]:
    digits = measure.digest.partition(":")[2][:_DIGITS]
    return measure.what, digits, human_size(measure.size_bytes)


def _times(measure: "Measure") -> tuple[str, str, str]:
    return (
        _time(measure.first_byte_seconds),
        _time(measure.seconds),
        f"{measure.bytes_per_second / 1e6:,.1f} MB/s",
    )


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _total(measures: "list[Measure]") -> "Measure":
    from mirror.cli.measuring import Measure  # noqa: PLC0415 -- slow

    size_bytes = sum(each.size_bytes for each in measures)
    return Measure("total", "", size_bytes, "", 0.0, sum(each.seconds for each in measures))
