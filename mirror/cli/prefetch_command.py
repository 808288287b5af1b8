"""``mirror prefetch``: fetch images before anybody pulls them."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from mirror.cli.options import (
    FAILED,
    MISUSED,
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

if TYPE_CHECKING:
    from mirror.cli.admin_client import AdminClient
    from mirror.service.prefetch_job import ImageProgress, JobFacts, Progress
    from mirror.service.prefetching import PrefetchWish

_DATA: Final = b"data: "
_INPUTS: Final = "What to fetch"


Images = Annotated[list[str] | None, typer.Argument(metavar="IMAGE", help="Images to fetch.")]
Lists = Annotated[
    list[str] | None,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        help="A list: one image a line, # begins a comment; - is standard input.",
        rich_help_panel=_INPUTS,
    ),
]
Manifests = Annotated[
    list[str] | None,
    typer.Option(
        "--from-manifests",
        metavar="PATH",
        help="What YAML or JSON names: a directory, a file or - (helm template … | …).",
        rich_help_panel=_INPUTS,
    ),
]
Cluster = Annotated[
    bool,
    typer.Option(
        "--from-cluster",
        help="What the workloads of a Kubernetes cluster name, for the platforms of its nodes "
        "(by kubectl).",
        rich_help_panel=_INPUTS,
    ),
]
Context = Annotated[
    str | None,
    typer.Option(
        "--context",
        metavar="NAME",
        help="Which cluster; default: kubectl's current one.",
        rich_help_panel=_INPUTS,
    ),
]
Platforms = Annotated[
    list[str] | None,
    typer.Option(
        "--platform",
        metavar="OS/ARCH",
        help="May be repeated. Default: those that the cache has images of, else linux/amd64.",
    ),
]
Referrers = Annotated[
    bool,
    typer.Option("--with-referrers", help="Also signatures, SBOMs and attestations."),
]
KeepQuota = Annotated[
    str | None,
    typer.Option(
        "--keep-quota",
        metavar="SHARE",
        help="Leave this share of an upstream's pulls to clients: 20%. Default: "
        "policy.rate_limit.low_water.",
    ),
]
Parallel = Annotated[int, typer.Option("--parallel", min=1, max=32, help="Layers at a time.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only list the images; fetch nothing.")]


def prefetch(
    images: Images = None,
    *,
    lists: Lists = None,
    manifests: Manifests = None,
    cluster: Cluster = False,
    context: Context = None,
    platforms: Platforms = None,
    referrers: Referrers = False,
    keep_quota: KeepQuota = None,
    parallel: Parallel = 4,
    dry_run: DryRun = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Fetch images into the cache of the running mirror before anybody pulls them.

    What is here is skipped, so after an interruption the same command goes on where it was.
    Downloads are shared with clients that pull the same. Exit code 1 if an image failed or was
    skipped to leave pulls to clients.
    """
    from mirror.service.prefetching import PrefetchWish  # noqa: PLC0415 -- slow

    share = _share(keep_quota)
    names, nodes = _names(images or [], lists or [], manifests or [], context, cluster=cluster)
    if dry_run:
        write_json({"images": names}) if output is Output.JSON else write("\n".join(names))
        return
    chosen = tuple(platforms or nodes)
    wish = PrefetchWish(tuple(names), chosen, referrers, share, parallel)
    job = _run(config, wish, output)
    if job.state != "done":
        raise typer.Exit(FAILED)


def _share(text: str | None) -> float | None:
    from mirror.settings.units import parse_share  # noqa: PLC0415 -- slow

    if text is None:
        return None
    try:
        return parse_share(text)
    except ValueError as error:
        complain(f"--keep-quota {text}: {error} (write for example 20%)")
        raise typer.Exit(MISUSED) from None


def _names(
    images: list[str],
    lists: list[str],
    manifests: list[str],
    context: str | None,
    *,
    cluster: bool,
) -> tuple[list[str], tuple[str, ...]]:
    """Return all images that are meant, and the platforms of the cluster's nodes."""
    from mirror.cli import image_sources  # noqa: PLC0415 -- slow

    if [*lists, *manifests].count(image_sources.STDIN) > 1:
        complain("standard input can be read once only")
        raise typer.Exit(MISUSED)
    names, nodes = list(images), tuple[str, ...]()
    names += image_sources.from_lists(lists)
    names += image_sources.from_manifests(manifests)
    if cluster or context is not None:
        found, nodes = image_sources.from_cluster(context)
        names += found
    if not names:
        given = lists or manifests or cluster or context
        complain(
            "no image is named there" if given else "which images?",
            "name some, or say --file, --from-manifests or --from-cluster",
        )
        raise typer.Exit(MISUSED)
    return list(dict.fromkeys(names)), nodes


def _run(config: Path | None, wish: "PrefetchWish", output: Output) -> "JobFacts":
    settings = load_settings(config).settings
    from mirror.cli.admin_client import AdminClient  # noqa: PLC0415 -- slow
    from mirror.cli.prefetch_report import report_for, summary_text  # noqa: PLC0415 -- slow
    from mirror.service.prefetch_job import JobFacts  # noqa: PLC0415 -- slow

    began = time.monotonic()
    with problems():
        client = AdminClient(settings)
        job = client.ask("POST", "/prefetch", JobFacts, body=msgspec.json.encode(wish))
        report = report_for(is_for_programs=output is Output.JSON)
        images: dict[str, ImageProgress] = {}
        try:
            for progress in _watched(client, job.id):
                job = progress.job
                images.update((each.image, each) for each in progress.images)
                report.show(progress)
        except KeyboardInterrupt:
            report.close()
            client.ask("DELETE", "/prefetch", JobFacts, [("id", job.id)])
            complain("interrupted; the same command goes on from here")
            raise
        finally:
            report.close()
    if output is Output.JSON:
        write_json({"job": job, "images": list(images.values())})
    else:
        write(summary_text(job, time.monotonic() - began))
    _advise(job)
    return job


def _advise(job: "JobFacts") -> None:
    if job.skipped:
        complain(
            "what was skipped comes by the same command when there are pulls again "
            "(`mirror ratelimit`), or now with --keep-quota 0%"
        )


def _watched(client: "AdminClient", job_id: str) -> Iterator["Progress"]:
    """Yield how far a prefetch is, until it ends."""
    from mirror.service.prefetch_job import Progress  # noqa: PLC0415 -- slow

    decoder = msgspec.json.Decoder(Progress)
    with client.asked("GET", "/prefetch/events", [("id", job_id)]) as answer:
        while line := answer.readline():
            if line.startswith(_DATA):
                yield decoder.decode(line[len(_DATA) :])
