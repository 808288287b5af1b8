"""Faults at every position, for every kind of reader; the page says what this finds."""

from pathlib import Path

from tests import matrix

PAGE = Path(__file__).parents[3] / "docs" / "reliability.md"


async def test_every_fault_at_every_position(tmp_path: Path) -> None:
    results = await matrix.run_in(tmp_path)

    told = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    for line in matrix.table(results).splitlines():
        assert line in told, "make reliability"
    for result in results:
        is_once = not any(step.always for step in result.row.steps)
        if is_once and result.row.position != "before the head" and "bit" not in result.row.fault:
            assert {*result.outcomes.values()} == {"complete", "kept"}, result.row
            assert result.fetched_twice == "nothing"
