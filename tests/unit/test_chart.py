"""The Helm chart's schema is the one of its values and of the configuration."""

from pathlib import Path

import yaml

from tests.tools import chart_schema

CHART = Path(__file__).parents[2] / "k8s/chart"


def test_the_schema_is_the_one_that_is_written() -> None:
    assert chart_schema.schema() == (CHART / "values.schema.json").read_text(encoding="utf-8")


def test_every_value_is_in_the_schema() -> None:
    given = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert given.keys() == chart_schema.VALUES.keys() - {"global"}
    for key, value in given.items():
        known = chart_schema.VALUES[key].get("properties")
        if known is not None:
            assert value.keys() == known.keys(), key
