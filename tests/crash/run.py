"""One run of the model, from its seed to its outcome."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.crash.facts import Facts, Figures, Found
from tests.crash.model import Model, Moment

_IMAGES = 8


@dataclass(frozen=True)
class Outcome:
    """What was found wrong, ideally nothing, and what the run came to."""

    seed: int
    complaints: list[str]
    figures: Figures
    kills: Counter[Moment]


def run(work: Path, seed: int, kills: int) -> Outcome:
    """Kill a mirror with its directory below *work* so many times."""
    model = Model(work, seed, images=_IMAGES)
    facts: Facts = model.facts
    try:
        model.run(kills)
    except Found:
        facts.complain("stopped here: there is no use in going on")
    finally:
        model.close()
    return Outcome(seed, facts.complaints, facts.figures, model.kills)
