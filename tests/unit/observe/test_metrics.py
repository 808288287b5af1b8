"""The metrics keep their names, and the page about them is true."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.harness import Mirror
from tests.tools.metrics_reference import labels, metrics, name, reference

CONTRACT = """\
requests_total{upstream,kind,result,status}
request_seconds{kind,result}
first_byte_seconds{kind,result}
client_bytes_total{upstream,result}
upstream_requests_total{upstream,kind,method,status}
upstream_bytes_total{upstream}
upstream_seconds{upstream,kind}
upstream_up{upstream}
upstream_ratelimit_limit{upstream,account}
upstream_ratelimit_remaining{upstream,account}
fills_in_progress
fill_readers
fills_total{outcome}
fill_resumes_total{reason}
digest_mismatches_total{upstream}
cache_bytes
cache_limit_bytes
cache_objects{kind}
cache_evictions_total{reason}
cache_evicted_bytes_total
cache_oldest_access_seconds
event_loop_lag_seconds
config_reloads_total{outcome}
build_info{version,python}
"""


@pytest.mark.parametrize("line", CONTRACT.splitlines())
def test_a_metric_of_the_contract_is_there(line: str) -> None:
    wanted, _, given = line.partition("{")
    found = {name(metric): labels(metric) for metric in metrics()}

    assert found[f"mirror_{wanted}"] == tuple(given.rstrip("}").split(",") if given else ())


def test_no_metric_has_a_label_that_clients_choose() -> None:
    allowed = {"upstream", "kind", "result", "status", "method", "account", "outcome", "reason"}
    allowed |= {"listener", "origin"}
    assert len(metrics()) > 20
    for metric in metrics():
        assert set(labels(metric)) <= allowed | {"version", "python"}, name(metric)


def test_the_reference_is_true() -> None:
    page = Path(__file__).parents[3] / "docs" / "metrics.md"
    assert page.read_text(encoding="utf-8") == reference(), (
        "run python -m tests.tools.metrics_reference > docs/metrics.md"
    )


async def test_the_page_can_be_scraped(mirror: Mirror) -> None:
    async with mirror.session.get(mirror.admin_url + "/metrics") as response:
        text = await response.text()

    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["mirror_build_info"].samples[0].value == 1
    assert "mirror_digest_mismatches" in families  # exists at zero, so that it can be alerted on
    assert not [line for line in text.splitlines() if "_created" in line]
