"""Scheduled prefetches: when they run, how they are spread, and that a reload is followed."""

import asyncio
from pathlib import Path

import pytest

from mirror.service import prefetching
from mirror.service.schedules import Schedule, Scheduler
from mirror.settings.root import Prefetch
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.harness import Mirror, mirror_of, settings
from tests.unit.web.wire import REPOSITORY

ONE = image(1)
EVERY_HOUR = Schedule((f"docker.io/{REPOSITORY}:v1",), 3600, ("linux/amd64",))


class Sleeps:
    """Time that a test lets pass."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[float] = asyncio.Queue()
        self.goes_on: asyncio.Queue[None] = asyncio.Queue()

    async def __call__(self, seconds: float) -> None:
        self.asked.put_nowait(seconds)
        await self.goes_on.get()


def scheduler_of(mirror: Mirror, sleeps: Sleeps) -> Scheduler:
    return Scheduler(mirror.up.prefetcher, sleeps, lambda: 0.5)


async def runs(mirror: Mirror, outcome: str = "done") -> float:
    labels = {"origin": "schedule", "outcome": outcome}
    return await mirror.metric("mirror_prefetch_runs_total", **labels)


async def test_a_schedule_runs_again_and_again(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    sleeps = Sleeps()
    scheduler = scheduler_of(mirror, sleeps)
    scheduler.follow([EVERY_HOUR])
    for number in range(3):
        seconds = await sleeps.asked.get()
        assert await runs(mirror) == number
        assert seconds == (180 if number == 0 else pytest.approx(3600, abs=5))
        sleeps.goes_on.put_nowait(None)
    await sleeps.asked.get()
    assert mirror.stored(ONE.layers[0].digest).exists()
    assert sum(each.method == "GET" for each in upstream.requests) == 1 + len(ONE.blobs)
    await scheduler.close()


async def test_one_that_finds_too_many_running_comes_back_soon(
    mirror: Mirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    sleeps = Sleeps()
    scheduler = scheduler_of(mirror, sleeps)
    scheduler.follow([EVERY_HOUR])
    await sleeps.asked.get()
    with monkeypatch.context() as busy:
        busy.setattr(prefetching, "_RUNNING_MAX", 0)
        sleeps.goes_on.put_nowait(None)
        assert await sleeps.asked.get() == 60
    sleeps.goes_on.put_nowait(None)
    assert await sleeps.asked.get() == pytest.approx(3600, abs=5)
    assert await runs(mirror) == 1
    await scheduler.close()


async def test_a_reload_is_followed(mirror: Mirror) -> None:
    sleeps = Sleeps()
    scheduler = scheduler_of(mirror, sleeps)
    other = Schedule(("alpine:v2",), 60)
    scheduler.follow([EVERY_HOUR])
    assert await sleeps.asked.get() == 180
    scheduler.follow([EVERY_HOUR, other])
    assert await sleeps.asked.get() == 45, "the one that stays keeps its time"
    scheduler.follow([other])
    assert [task.get_name() for task in asyncio.all_tasks()].count("scheduled prefetch") == 2
    await scheduler.close()
    assert "scheduled prefetch" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_a_schedule_that_is_taken_away_stops_its_prefetch(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    gate = upstream.hold_body(reference=ONE.layers[0].digest)
    sleeps = Sleeps()
    scheduler = scheduler_of(mirror, sleeps)
    scheduler.follow([EVERY_HOUR])
    sleeps.goes_on.put_nowait(None)
    await gate.arrivals()
    await scheduler.close()
    assert await runs(mirror, "cancelled") == 1
    gate.release()


@pytest.mark.parametrize(
    ("every_seconds", "jitter", "first", "following"),
    [
        (21600, 0.0, 30, 19430),
        (21600, 1.0, 330, 23750),
        (60, 1.0, 60, 56),
        (5, 0.5, 31.25, 1),
    ],
)
def test_runs_are_spread(
    every_seconds: float, jitter: float, first: float, following: float
) -> None:
    schedule = Schedule(("a",), every_seconds)
    assert schedule.first_seconds(jitter) == first
    assert schedule.next_seconds(jitter, 10) == pytest.approx(following)


async def test_the_configuration_names_schedules(tmp_path: Path, upstream: FakeRegistry) -> None:
    wanted = (Prefetch(images=("alpine:v1",), every_seconds=60, referrers=True),)
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, prefetch=wanted) as mirror:
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert names.count("scheduled prefetch") == 1
        again = settings(tmp_path / "cache", {"docker.io": upstream})
        assert mirror.up.reloading._apply(again) == []
        await asyncio.sleep(0)
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert names.count("scheduled prefetch") == 0
