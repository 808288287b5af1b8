"""Writes docs/metrics.md: ``python -m tests.tools.metrics_reference``."""

import sys
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from mirror.observe.metrics import Metrics

INTRO: Final = """\
# Metrics

<!-- Written by `python -m tests.tools.metrics_reference`, from `mirror/observe/metrics.py`. -->

`GET /metrics` on the admin listener (`server.admin_listen`) shows these, and those of the process
and of Python. No repository is ever a label. `kind` is one of ping, manifest, blob, tags,
referrers, catalog and other; `result` is one of hit, miss, joined, stale, revalidated, passthrough
and error. `status` 499 is a client that left before the head of its answer: its `result` is error,
though nothing went wrong here.

| Metric | Type | Labels | Meaning |
|---|---|---|---|
"""


def metrics() -> list[MetricWrapperBase]:
    """Return all metrics of ours, sorted by name."""
    found = vars(Metrics(CollectorRegistry())).values()
    return sorted((each for each in found if isinstance(each, MetricWrapperBase)), key=name)


def name(metric: MetricWrapperBase) -> str:
    """Return the name that a query uses."""
    return f"{metric._name}_total" if metric._type == "counter" else str(metric._name)


def labels(metric: MetricWrapperBase) -> tuple[str, ...]:
    """Return the names of the labels."""
    return tuple(metric._labelnames)


def rows() -> Iterator[str]:
    """Yield the rows of the table."""
    for metric in metrics():
        names = ", ".join(f"`{label}`" for label in labels(metric)) or "none"
        yield f"| `{name(metric)}` | {metric._type} | {names} | {metric._documentation} |\n"


def reference() -> str:
    """Return the page."""
    return INTRO + "".join(rows())


if __name__ == "__main__":
    sys.stdout.write(reference())
