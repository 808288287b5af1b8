"""``mirror ratelimit`` and ``mirror explain``: why pulls are answered as they are."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from mirror.cli.options import (
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
from mirror.cli.tables import human_age, human_size, human_span, table

if TYPE_CHECKING:
    from mirror.cli.admin_client import AdminClient
    from mirror.observe.requests import PastRequest
    from mirror.service.pull_admin import AccountRate, Explanation, Refreshed


class RunningMirror:
    """What a running mirror tells of its pulls; raises ProblemError."""

    def __init__(self, client: "AdminClient") -> None:
        self._client = client

    def rates(self) -> "Sequence[AccountRate]":
        """Return the budgets of all accounts."""
        from mirror.web.pull_api import Rates  # noqa: PLC0415 -- slow

        return self._client.ask("GET", "/ratelimit", Rates).rates

    def explain(self, image: str) -> "Explanation":
        """Return what the next pull of an image would do."""
        from mirror.service.pull_admin import Explanation  # noqa: PLC0415 -- slow

        return self._client.ask("GET", "/explain", Explanation, [("ref", image)])

    def requests(self, limit: int, repository: str | None = None) -> "Sequence[PastRequest]":
        """Return the last requests."""
        from mirror.web.pull_api import Requests  # noqa: PLC0415 -- slow

        query = [("limit", str(limit))] + ([("repository", repository)] if repository else [])
        return self._client.ask("GET", "/requests", Requests, query).requests

    def refresh(self, image: str) -> "Refreshed":
        """Ask upstream what a tag means."""
        from mirror.service.pull_admin import Refreshed  # noqa: PLC0415 -- slow
        from mirror.web.pull_api import RefreshWish  # noqa: PLC0415 -- slow

        wish = msgspec.json.encode(RefreshWish(image))
        return self._client.ask("POST", "/cache/refresh", Refreshed, body=wish)


@contextmanager
def running(config: Path | None) -> Iterator[RunningMirror]:
    """Give the running mirror of a configuration, and say what stands in the way."""
    settings = load_settings(config).settings
    from mirror.cli.admin_client import AdminClient  # noqa: PLC0415 -- slow

    with problems():
        yield RunningMirror(AdminClient(settings))


def ratelimit(
    *,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Say how many pulls the upstreams still allow, and how long they will last.

    As of the upstream's last answer; the mirror asks for nothing to find out.
    """
    with running(config) as mirror:
        rates = mirror.rates()
    if output is Output.JSON:
        write_json({"rates": rates})
        return
    shown = [each for each in rates if each.limit is not None or each.pause_seconds]
    if not shown:
        complain("no upstream has named a limit so far")
        return
    head = ("UPSTREAM", "ACCOUNT", "LEFT", "OF", "EMPTY", "AS OF", "")
    write(table(head, [_rate_row(each) for each in shown], right=(2, 3)))


def _rate_row(rate: "AccountRate") -> tuple[str, ...]:
    notes = []
    if rate.pause_seconds:
        notes.append(f"nothing is asked for {human_span(rate.pause_seconds)}")
    if rate.is_low:
        notes.append("low: tags are believed longer")
    limit = "" if rate.limit is None else f"{rate.limit} in {human_span(rate.window_seconds or 0)}"
    empty = rate.empty_in_seconds
    return (
        rate.upstream,
        rate.account,
        "" if rate.remaining is None else str(rate.remaining),
        limit,
        "" if empty is None else f"in {human_span(empty)}",
        "" if rate.observed_at is None else human_age(time.time() - rate.observed_at),
        "; ".join(notes),
    )


def explain(
    reference: Annotated[
        str | None, typer.Argument(metavar="[REF]", help="An image; without one, all.")
    ] = None,
    *,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, help="How many past requests.")
    ] = 20,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Say what the next pull of an image would do and why, and what the last requests did."""
    with running(config) as mirror:
        explanation = None if reference is None else mirror.explain(reference)
        repository = None if explanation is None else _repository(explanation.image)
        requests = mirror.requests(limit, repository)
    if output is Output.JSON:
        write_json({"next": explanation, "requests": requests})
        return
    if explanation is not None:
        write(_explanation_text(explanation))
    if requests:
        head = ("", "METHOD", "WHAT", "STATUS", "RESULT", "WAITED", "SENT", "PULLS", "ASKED")
        title = "The last requests of its repository:" if reference else "The last requests:"
        write(f"\n{title}" if reference else title)
        write(table(head, [_request_row(each) for each in requests], right=(5, 6, 7)))
    else:
        complain("nobody has asked for it since the mirror started")


def _repository(image: str) -> str:
    name = image.partition("@")[0]
    before, colon, tag = name.rpartition(":")
    return before if colon and "/" not in tag else name


def _explanation_text(about: "Explanation") -> str:
    lines = [
        ("image", f"{about.image}{f' = {about.digest}' if about.digest else ''}"),
        ("next pull", about.action),
        ("because", about.why),
        ("here", about.here),
        ("age", _age_text(about)),
        ("upstream", about.upstream + (f": {about.trouble}" if about.trouble else "")),
    ]
    if about.rate.limit is not None:
        lines.append(
            ("pulls left", f"{about.rate.remaining} of {about.rate.limit} ({about.rate.account})")
        )
    return "\n".join(f"{name:<10}  {text.replace('`', '')}" for name, text in lines)


def _age_text(about: "Explanation") -> str:
    if about.is_held:
        return "held by a pin"
    if about.age_seconds is None:
        return "-"
    if about.fresh_seconds is None:
        return f"fresh for ever ({about.believed_by})"
    stretched = ", longer because few pulls are left" if about.is_stretched else ""
    return (
        f"{about.age}: confirmed {human_age(about.age_seconds)}, believed for "
        f"{human_span(about.fresh_seconds)} ({about.believed_by}{stretched})"
    )


def _request_row(request: "PastRequest") -> tuple[str, ...]:
    mark = "@" if ":" in request.reference else ":"
    reference = request.reference
    if mark == "@":
        reference = reference[:19] + "…"
    what = f"{request.upstream}/{request.repository}{mark}{reference}"
    reason = f" ({request.reason})" if request.reason else ""
    waited = request.waited_seconds
    return (
        human_age(time.time() - request.at),
        request.method,
        what if request.repository else request.kind,
        str(request.status),
        request.result + reason,
        "" if waited is None else f"{waited * 1000:.0f} ms",
        human_size(request.sent_bytes),
        str(request.pulls) if request.pulls else "",
        request.endpoint,
    )
