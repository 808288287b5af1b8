"""Compares the mirror with docker-registry as a proxy on a day of pulls; writes a page.

python -m tests.budget > docs/pull-budget.md
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from mirror.observe import logs
from tests.bench import servers
from tests.budget.day import Cluster, Day
from tests.budget.hub import Hub
from tests.budget.trace import HOUR, Plan
from tests.fakes.clock import FakeClock
from tests.harness import mirror_of

HEAD = """\
# A day within Docker Hub's pull limit

<!-- Made by `python -m tests.budget > docs/pull-budget.md`; do not edit. -->

{nodes} nodes pull {tags} tags {times} times each, at random within {hours} hours; half of the tags
move once. Upstream counts GETs of manifests and allows {limit} in six hours, with the headers of
Docker Hub; HEAD is free there. Nodes ask as containerd does: HEAD of the tag, and then for what
they do not have. The mirror and upstream share a clock that is turned forward; docker-registry
gets the same requests in the same order. *Needed* is how many manifests the nodes got that were
not in the cache before: no cache can do with fewer GETs.

| | pulls | failed | needed | GETs upstream | refused by upstream | HEADs upstream |
|---|---|---|---|---|---|---|
"""
FOOT = """
After that day nothing is left of the budget, and {after} pulls of what is cached: {failed} failed.
"""


@asynccontextmanager
async def _hub(plan: Plan, limit: int) -> AsyncIterator[tuple[Hub, FakeClock]]:
    clock = FakeClock(1_700_000_000.0)
    async with Hub(clock, limit) as hub:
        for tag in range(plan.tags):
            hub.move(tag)
        yield hub, clock


async def mirrored(plan: Plan, limit: int, directory: Path) -> tuple[Hub, Day, Day]:
    """Return what came of a day through the mirror, and of an hour with nothing left."""
    async with (
        _hub(plan, limit) as (hub, clock),
        mirror_of(directory, {"docker.io": hub}, clock=clock) as mirror,
    ):
        cluster = Cluster(mirror.url, hub, mirror.session)
        day = await cluster.run(plan, clock)
        counted = hub.counted.copy()
        hub.exhaust()
        clock.advance(HOUR)
        after = Cluster(mirror.url, hub, mirror.session)
        for tag in range(plan.tags):
            await after.pull(tag, 0)
        hub.counted = counted
        return hub, day, after.day


async def beside(plan: Plan, limit: int, directory: Path) -> tuple[Hub, Day]:
    """Return what came of the same day through docker-registry."""
    async with _hub(plan, limit) as (hub, clock), aiohttp.ClientSession() as session:
        server = servers.registry(directory, upstream=hub.url)
        await asyncio.to_thread(server.__enter__)
        try:
            return hub, await Cluster(server.url, hub, session).run(plan, clock)
        finally:
            await asyncio.to_thread(server.__exit__, None, None, None)


def _line(name: str, hub: Hub, day: Day) -> str:
    counted = hub.counted
    cells = (
        name,
        f"{day.pulls:,}",
        f"{day.failed:,}",
        f"{len(day.needed):,}",
        f"{counted['GET']:,}",
        f"{counted['refused']:,}",
        f"{counted['HEAD']:,}",
    )
    return f"| {' | '.join(cells)} |\n"


def main() -> None:
    """Run both, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.budget")
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--tags", type=int, default=40)
    parser.add_argument("--limit", type=int, default=100)
    options = parser.parse_args()
    plan = Plan(nodes=options.nodes, tags=options.tags)
    logs.configure("json", "critical")
    with tempfile.TemporaryDirectory() as work:
        ours, day, after = asyncio.run(mirrored(plan, options.limit, Path(work, "ours")))
        theirs, their_day = asyncio.run(beside(plan, options.limit, Path(work, "theirs")))
    sys.stdout.write(
        HEAD.format(
            nodes=plan.nodes,
            tags=plan.tags,
            times=plan.pulls_per_node_and_tag,
            hours=plan.hours,
            limit=options.limit,
        )
        + _line("Mirror", ours, day)
        + _line("docker-registry (proxy)", theirs, their_day)
        + FOOT.format(after=after.pulls, failed=after.failed)
    )


if __name__ == "__main__":
    main()
