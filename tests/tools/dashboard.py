"""Writes Grafana's dashboard: ``python -m tests.tools.dashboard``.

The file is k8s/chart/files/dashboard.json.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any, Final

Json = dict[str, Any]
WIDTH: Final = 24
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
AT: Final = 'instance=~"$instance"'
OF: Final = f'{AT}, upstream=~"$upstream"'
RATE: Final = "[$__rate_interval]"
CACHED: Final = "hit|joined|stale|revalidated"


def target(expr: str, legend: str = "", **more: Any) -> Json:  # noqa: ANN401 -- Grafana's JSON
    """Return one query of a panel."""
    return {"datasource": SOURCE, "expr": expr, "legendFormat": legend, **more}


def panel(
    kind: str, title: str, unit: str, *targets: Json, width: int = 8, about: str = ""
) -> Json:
    """Return one panel; its place is decided later."""
    named = [each | {"refId": chr(ord("A") + number)} for number, each in enumerate(targets)]
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": SOURCE,
        "targets": named,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {},
        "gridPos": {"w": width, "h": 4 if kind == "stat" else 8},
    }


def row(title: str) -> Json:
    """Return the heading of the panels that follow."""
    return {
        "type": "row",
        "title": title,
        "collapsed": False,
        "panels": [],
        "gridPos": {"w": WIDTH, "h": 1},
    }


def share(metric: str, kept: str) -> str:
    """Return the share of a counter that came from the cache."""
    whole = f'sum(rate({metric}{{{OF}, result!="error"}}{RATE}))'
    return f"sum(rate({metric}{{{OF}, {kept}}}{RATE})) / {whole}"


def quantile(part: float, metric: str, selected: str, *by: str) -> str:
    """Return a quantile of a histogram."""
    rate = f"rate({metric}_bucket{{{selected}}}{RATE})"
    return f"histogram_quantile({part}, sum by ({', '.join((*by, 'le'))}) ({rate}))"


def overview() -> Iterator[Json]:
    """Yield what one looks at first."""
    content = 'kind=~"blob|manifest"'
    kept = f'result=~"{CACHED}"'
    sent, fetched = f"mirror_client_bytes_total{{{OF}}}", f"mirror_upstream_bytes_total{{{OF}}}"
    yield row("Overview")
    yield panel(
        "stat",
        "From the cache, by bytes",
        "percentunit",
        target(share("mirror_client_bytes_total", kept)),
        width=4,
    )
    yield panel(
        "stat",
        "From the cache, by requests",
        "percentunit",
        target(share("mirror_requests_total", f"{kept}, {content}")),
        width=4,
    )
    yield panel(
        "stat",
        "Saved",
        "bytes",
        target(f"sum(increase({sent}[$__range])) - sum(increase({fetched}[$__range]))"),
        width=4,
        about="Bytes sent to clients less bytes received from upstreams, in the time shown.",
    )
    remaining = f"mirror_upstream_ratelimit_remaining{{{OF}}}"
    yield panel(
        "stat",
        "Pulls left",
        "short",
        target(f"min by (upstream, account) ({remaining})", "{{upstream}} {{account}}"),
        width=4,
    )
    yield panel(
        "stat",
        "Pulls left in an hour",
        "short",
        target(
            f"clamp_min(min by (upstream, account) (predict_linear({remaining}[1h], 3600)), 0)",
            "{{upstream}} {{account}}",
        ),
        width=4,
        about="If it goes on as in the last hour.",
    )
    yield panel("stat", "Mirrors", "short", target(f"count(mirror_build_info{{{AT}}})"), width=4)


def requests() -> Iterator[Json]:
    """Yield what clients get."""
    yield row("Requests")
    yield panel(
        "timeseries",
        "Requests by result",
        "reqps",
        target(f"sum by (result) (rate(mirror_requests_total{{{OF}}}{RATE}))", "{{result}}"),
    )
    yield panel(
        "timeseries",
        "Bytes",
        "Bps",
        target(f"sum(rate(mirror_client_bytes_total{{{OF}}}{RATE}))", "to clients"),
        target(f"sum(rate(mirror_upstream_bytes_total{{{OF}}}{RATE}))", "from upstreams"),
    )
    yield panel(
        "timeseries",
        "Errors",
        "reqps",
        target(
            f'sum by (status) (rate(mirror_requests_total{{{OF}, status=~"4..|5.."}}{RATE}))',
            "{{status}}",
        ),
    )
    heat = panel(
        "heatmap",
        "Time to the first byte",
        "s",
        target(
            f"sum by (le) (rate(mirror_first_byte_seconds_bucket{{{AT}}}{RATE}))",
            "{{le}}",
            format="heatmap",
        ),
        width=12,
    )
    yield heat | {"options": {"calculate": False, "yAxis": {"unit": "s"}}}
    quantiles = [
        target(
            quantile(part, "mirror_request_seconds", AT),
            f"p{part * 100:g}",
        )
        for part in (0.5, 0.9, 0.99)
    ]
    yield panel("timeseries", "Time to the last byte", "s", *quantiles, width=12)


def upstreams() -> Iterator[Json]:
    """Yield how the registries are."""
    yield row("Upstreams")
    yield panel(
        "state-timeline",
        "Answers",
        "short",
        target(f"min by (upstream) (mirror_upstream_up{{{OF}}})", "{{upstream}}"),
    )
    yield panel(
        "timeseries",
        "Requests by status",
        "reqps",
        target(
            f"sum by (upstream, status) (rate(mirror_upstream_requests_total{{{OF}}}{RATE}))",
            "{{upstream}} {{status}}",
        ),
    )
    yield panel(
        "timeseries",
        "Time to the head of an answer, p90",
        "s",
        target(
            quantile(0.9, "mirror_upstream_seconds", OF, "upstream"),
            "{{upstream}}",
        ),
    )
    yield panel(
        "timeseries",
        "Pull limit",
        "short",
        target(f"mirror_upstream_ratelimit_remaining{{{OF}}}", "{{upstream}} {{account}} left"),
        target(f"mirror_upstream_ratelimit_limit{{{OF}}}", "{{upstream}} {{account}} limit"),
    )
    yield panel(
        "timeseries",
        "Downloads",
        "short",
        target(f"sum(mirror_fills_in_progress{{{AT}}})", "running"),
        target(f"sum(mirror_fill_readers{{{AT}}})", "readers"),
    )
    yield panel(
        "timeseries",
        "Downloads that ended, and resumes",
        "cps",
        target(f"sum by (outcome) (rate(mirror_fills_total{{{AT}}}{RATE}))", "{{outcome}}"),
        target(
            f"sum by (reason) (rate(mirror_fill_resumes_total{{{AT}}}{RATE}))",
            "resumed: {{reason}}",
        ),
    )


def cache() -> Iterator[Json]:
    """Yield how the disk and the process are."""
    yield row("Cache and process")
    yield panel(
        "timeseries",
        "Disk",
        "bytes",
        target(f"mirror_cache_bytes{{{AT}}}", "{{instance}} used"),
        target(f"mirror_cache_limit_bytes{{{AT}}}", "{{instance}} limit"),
    )
    yield panel(
        "timeseries",
        "Evictions",
        "Bps",
        target(
            f"sum by (instance) (rate(mirror_cache_evicted_bytes_total{{{AT}}}{RATE}))",
            "{{instance}}",
        ),
    )
    yield panel(
        "timeseries",
        "Age of what goes next",
        "s",
        target(f"mirror_cache_oldest_access_seconds{{{AT}}}", "{{instance}}"),
        about="Less than a day: the cache is too small.",
    )
    yield panel(
        "timeseries",
        "Objects",
        "short",
        target(f"sum by (kind) (mirror_cache_objects{{{AT}}})", "{{kind}}"),
    )
    yield panel(
        "timeseries",
        "Wrong or spoilt content",
        "short",
        target(
            f"sum by (upstream) (increase(mirror_digest_mismatches_total{{{OF}}}{RATE}))",
            "{{upstream}}",
        ),
        target(f"sum(increase(mirror_cache_corrupt_objects_total{{{AT}}}{RATE}))", "disk"),
    )
    yield panel(
        "timeseries",
        "Event loop lag, p99",
        "s",
        target(
            quantile(0.99, "mirror_event_loop_lag_seconds", AT, "instance"),
            "{{instance}}",
        ),
    )


def placed(panels: Iterator[Json]) -> Iterator[Json]:
    """Yield the panels with a number and a place, from left to right and down."""
    left = top = height = 0
    for number, each in enumerate(panels, 1):
        size = each["gridPos"]
        if left + size["w"] > WIDTH:
            left, top = 0, top + height
            height = 0
        yield each | {"id": number, "gridPos": size | {"x": left, "y": top}}
        left += size["w"]
        height = max(height, size["h"])


def variable(name: str, label: str, metric: str) -> Json:
    """Return a choice among the values of a label."""
    query = f"label_values({metric}, {label})"
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }


def dashboard() -> str:
    """Return the file."""
    panels = [each for part in (overview(), requests(), upstreams(), cache()) for each in [*part]]
    whole = {
        "title": "Mirror",
        "uid": "mirror-cache",
        "description": "A pull-through caching mirror for container registries",
        "tags": ["mirror", "registry"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "current": {}},
                variable("instance", "instance", "mirror_build_info"),
                variable("upstream", "upstream", "mirror_requests_total"),
            ]
        },
        "annotations": {"list": []},
        "links": [],
        "panels": list(placed(iter(panels))),
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(dashboard())
