"""A day of a small cluster within Docker Hub's pull limit; `make budget` has a large one."""

from pathlib import Path

from tests.budget.__main__ import mirrored
from tests.budget.trace import Plan


async def test_upstream_is_asked_for_each_manifest_once_a_day(tmp_path: Path) -> None:
    plan = Plan(nodes=12, tags=10, pulls_per_node_and_tag=2)

    hub, day, after = await mirrored(plan, 25, tmp_path / "cache")

    assert day.pulls == 240
    assert day.failed == 0
    assert hub.counted["refused"] == 0
    assert hub.counted["GET"] <= len(day.needed) == 30
    assert (after.pulls, after.failed) == (10, 0), "with nothing left, what is cached goes on"
