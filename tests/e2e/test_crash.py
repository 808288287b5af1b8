"""Any moment may be the last: a part of the nightly crash run (``make crash``)."""

from __future__ import annotations

import os
from pathlib import Path

from tests.crash.report import figures_of, write
from tests.crash.run import run

KILLS = 30
SEED = int(os.environ.get("CRASH_SEED", "3"))


def test_a_mirror_survives_being_killed_at_any_moment(tmp_path: Path) -> None:
    outcome = run(tmp_path / "mirror", SEED, KILLS)

    print(figures_of(outcome))
    write(outcome)
    assert outcome.complaints == [], f"CRASH_SEED={SEED}"
    assert outcome.figures.kills == KILLS
    assert outcome.figures.bad_bytes == 0
    assert outcome.figures.resumed > 0
