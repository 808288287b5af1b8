"""Alerts, runbooks and dashboard speak of metrics and labels that exist, and of each other."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.tools import dashboard, metrics_reference

ROOT = Path(__file__).parents[2]
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "k8s/chart/files/alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "k8s/chart/files/dashboard.json").read_text())
ADDED_BY_PROMETHEUS = {"instance", "job", "le", "namespace", "pod"}
BY = re.compile(r"\b(?:by|on) \(([^)]*)\)")


def known() -> dict[str, set[str]]:
    """Return the series that there are, each with its labels."""
    found: dict[str, set[str]] = {}
    for metric in metrics_reference.metrics():
        name, labels = metrics_reference.name(metric), {*metrics_reference.labels(metric)}
        ends = ("_bucket", "_sum", "_count") if metric._type == "histogram" else ("",)
        found |= {name + end: labels | ADDED_BY_PROMETHEUS for end in ends}
    return found


def queries() -> Iterator[Any]:
    for rule in RULES:
        yield pytest.param(rule["expr"], id=rule["alert"])
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            # Grafana replaces its variables before Prometheus sees them.
            expr = re.sub(r"\$__(rate_interval|range)", "5m", target["expr"])
            yield pytest.param(expr, id=f"{panel['title']} {target['refId']}")


def selectors(expr: str) -> Iterator[tuple[str, set[str]]]:
    """Yield the metrics of a query, each with the labels that it is selected by."""
    pattern = r"\b(mirror_\w+)(?:\{([^}]*)\})?"
    for name, matchers in re.findall(pattern, promql_parser.parse(expr).prettify()):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', "", matchers)))


@pytest.mark.parametrize("expr", [*queries()])
def test_a_query_asks_for_what_there_is(expr: str) -> None:
    series = known()
    asked = list(selectors(expr))
    assert asked
    for name, labels in asked:
        assert name in series
        assert labels <= series[name]
    grouped = {label.strip() for part in BY.findall(expr) for label in part.split(",")}
    for label in grouped:
        assert any(label in series[name] for name, _ in asked), label


def test_every_alert_has_a_page_and_every_page_an_alert() -> None:
    pages = {path.stem for path in (ROOT / "docs/runbooks").glob("*.md")}
    assert {rule["alert"] for rule in RULES} == pages
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"docs/runbooks/{rule['alert']}.md"
        assert rule["labels"]["severity"] in {"critical", "warning"}
        first, *rest = (ROOT / rule["annotations"]["runbook"]).read_text().splitlines()
        assert first == f"# {rule['alert']}"
        assert "## What to do" in rest


def test_every_alert_is_tested_to_fire_and_not_to_fire() -> None:
    tests = yaml.safe_load((ROOT / "tests/observability/alerts_test.yaml").read_text())["tests"]
    for expected in (True, False):
        tested = {
            each["alertname"]
            for test in tests
            for each in test["alert_rule_test"]
            if bool(each["exp_alerts"]) is expected
        }
        assert tested == {rule["alert"] for rule in RULES}


def test_the_dashboard_is_the_one_that_is_written() -> None:
    assert dashboard.dashboard() == (ROOT / "k8s/chart/files/dashboard.json").read_text()


def test_no_panel_lies_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= dashboard.WIDTH
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_dashboard_shows_what_one_looks_for() -> None:
    kinds = {panel["title"]: panel["type"] for panel in DASHBOARD["panels"]}
    assert kinds["Time to the first byte"] == "heatmap"
    asked = " ".join(
        target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())
    )
    for metric in (
        "mirror_client_bytes_total",
        "mirror_upstream_bytes_total",
        "mirror_requests_total",
        "mirror_upstream_ratelimit_remaining",
        "mirror_upstream_ratelimit_limit",
        "mirror_upstream_up",
        "mirror_fills_in_progress",
        "mirror_fills_total",
        "mirror_cache_bytes",
        "mirror_cache_limit_bytes",
        "mirror_cache_evicted_bytes_total",
    ):
        assert metric in asked, metric
    assert "predict_linear" in asked or "empty_in_seconds" in asked, "a forecast"


def test_the_dashboard_can_be_imported() -> None:
    """Source: Grafana's "Dashboard JSON model", and what its import asks for."""
    assert DASHBOARD.get("id") is None
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,40}", DASHBOARD["uid"])
    assert DASHBOARD["schemaVersion"] >= 36
    assert {"title", "time", "templating", "panels", "tags", "timezone"} <= DASHBOARD.keys()
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    sources = {f"${{{name}}}" for name, each in variables.items() if each["type"] == "datasource"}
    assert len(sources) == 1
    for panel in DASHBOARD["panels"]:
        assert panel["type"] in {"row", "stat", "timeseries", "heatmap", "state-timeline"}
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == {"type": "prometheus", "uid": sources.copy().pop()}
        names = [target["refId"] for target in panel["targets"]]
        assert len(set(names)) == len(names) > 0
        for target in panel["targets"]:
            used = set(re.findall(r"\$\{?(\w+)", target["expr"]))
            assert used - {"__rate_interval", "__range"} <= variables.keys()
