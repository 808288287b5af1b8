"""Who pulls what, when: a day of a cluster, the same for every run of one seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

HOUR = 3600


@dataclass(frozen=True, slots=True)
class Plan:
    """How large the day is."""

    nodes: int = 500
    tags: int = 40
    hours: int = 24
    pulls_per_node_and_tag: int = 2
    moving_share: float = 0.5
    """This share of the tags moves once, in the second half of the day."""
    seed: int = 1


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """A node pulls a tag; or, without a node, the tag moves upstream."""

    at_seconds: float
    tag: int
    node: int | None = None


def events(plan: Plan) -> list[Event]:
    """Return the day in order."""
    return sorted(_events(plan), key=lambda event: event.at_seconds)


def _events(plan: Plan) -> Iterator[Event]:
    chance = random.Random(plan.seed)
    end = plan.hours * HOUR
    for tag in range(plan.tags):
        if tag < plan.tags * plan.moving_share:
            yield Event(chance.uniform(end / 2, end), tag)
        for node in range(plan.nodes):
            for _ in range(plan.pulls_per_node_and_tag):
                yield Event(chance.uniform(0, end), tag, node)
