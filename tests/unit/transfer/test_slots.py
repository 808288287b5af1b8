"""``fill.max_concurrent``: who waits, who gives way, and what the client is told."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.settings import Fill, Policy, Timeouts, Upstream
from mirror.settings.units import SizeOrShare
from mirror.transfer.slots import Slots
from tests.fakes.content import blob
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, mirror_of
from tests.unit.transfer.helpers import PATIENT, REPOSITORY, boarded, path

SMALL = {"max_size": SizeOrShare(size_bytes=MIB)}
HASTY = Policy(timeouts=Timeouts(response_seconds=0.2, idle_seconds=5))
HURRIED = "ghcr.io/" + REPOSITORY
"""The same registry under a name of which nobody waits longer than they must for these tests."""


def both(upstream: FakeRegistry) -> dict[str, Upstream]:
    """One registry for clients that are in no hurry, and for those who are: slots are for all."""
    endpoints = (upstream.url,)
    return {
        "docker.io": Upstream(endpoints=endpoints, policy=PATIENT),
        "ghcr.io": Upstream(endpoints=endpoints, policy=HASTY),
    }


async def test_one_download_too_many_is_told_when_to_come_again(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    first, second = blob(2 * MIB, 1), blob(2 * MIB, 2)
    for each in (first, second):
        upstream.push_blob(REPOSITORY, each)
    gate = upstream.hold_body(first.digest, after_bytes=MIB)
    one = Fill(max_concurrent=1)
    async with mirror_of(tmp_path / "cache", both(upstream), fill=one) as mirror:
        reading = asyncio.create_task(mirror.get(path(first.digest)))
        await gate.reached.wait()
        refused = await mirror.get(path(second.digest, HURRIED))
        gate.release()

        assert refused.status == 503
        assert refused.headers["Retry-After"].isdigit()
        assert refused.error_code == "UNKNOWN"
        assert (await reading).body == first.content
        await mirror.settled()  # the one in the queue goes on: it is wanted, if not by now
        assert mirror.stored(second.digest).exists()
        assert upstream.count("GET", "blob") == 2


async def test_a_queue_is_served_in_its_order(tmp_path: Path, upstream: FakeRegistry) -> None:
    pushed = [blob(100_000, seed) for seed in range(4)]
    for each in pushed:
        upstream.push_blob(REPOSITORY, each)
    gate = upstream.hold_head("blob", pushed[0].digest)
    one = Fill(max_concurrent=1)
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, fill=one, policy=PATIENT
    ) as mirror:
        readers = []
        for number, each in enumerate(pushed, start=1):
            readers.append(asyncio.create_task(mirror.get(path(each.digest))))
            await boarded(mirror, number)
        gate.release()
        answers = await asyncio.gather(*readers)

        assert [each.body for each in answers] == [each.content for each in pushed]
        asked = [request.reference for request in upstream.matching(kind="blob")]
        assert asked == [each.digest for each in pushed]


async def test_a_download_that_nobody_reads_gives_way_to_one_that_is_read(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    left, wanted = blob(4 * MIB, 1), blob(MIB, 2)
    for each in (left, wanted):
        upstream.push_blob(REPOSITORY, each)
    gate = upstream.hold_body(left.digest, after_bytes=MIB)
    one = Fill(max_concurrent=1)
    policy = Policy(timeouts=Timeouts(response_seconds=2, idle_seconds=20))
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, fill=one, policy=policy
    ) as mirror:
        async with mirror.session.get(mirror.url + path(left.digest)) as response:
            await gate.reached.wait()
            response.close()
        await boarded(mirror, 0)

        assert (await mirror.get(path(wanted.digest))).body == wanted.content
        gate.release()
        await mirror.settled()
        assert mirror.stored(left.digest).read_bytes() == left.content
        assert upstream.count("GET", "blob", reference=left.digest) == 1


async def test_what_passes_the_cache_is_bounded_as_well(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    pushed = blob(3 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    one = Fill(max_concurrent=1)
    async with mirror_of(tmp_path / "cache", both(upstream), cache=SMALL, fill=one) as mirror:
        assert (await mirror.get(path(pushed.digest))).body == pushed.content
        gate = upstream.hold_body(pushed.digest, after_bytes=2 * MIB)
        passing = asyncio.create_task(mirror.get(path(pushed.digest)))
        await gate.arrivals(2)  # the fill's look at the length, and the passage
        refused = await mirror.get(path(pushed.digest, HURRIED))
        gate.release()

        assert refused.status == 503
        assert refused.headers["Retry-After"].isdigit()
        assert (await passing).body == pushed.content
        assert (await mirror.get(path(pushed.digest))).body == pushed.content


@dataclass(eq=False)
class Reader:
    """A download as the slots see it."""

    readers: int
    has_slot: bool = False


_STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "free", "read", "leave", "stop"]), st.integers(0, 5))
)


@given(count=st.integers(1, 3), steps=_STEPS)
def test_slots_are_never_more_than_allowed_and_never_idle(
    count: int, steps: list[tuple[str, int]]
) -> None:
    async def check() -> None:
        slots, holders = Slots(count), [Reader(number % 2) for number in range(6)]
        waiting: dict[Reader, asyncio.Task[None]] = {}
        for step, number in steps:
            holder = holders[number]
            if step == "take" and holder not in waiting and not holder.has_slot:
                waiting[holder] = asyncio.create_task(slots.take(holder))
            elif step == "free":
                slots.free(holder)
            elif step == "stop" and holder in waiting:
                waiting[holder].cancel()
            elif step in {"read", "leave"}:
                holder.readers = int(step == "read")
                slots.assign()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for each in [each for each, task in waiting.items() if task.done()]:
                del waiting[each]
            holding = [each for each in holders if each.has_slot]
            assert len(holding) <= count
            assert len(holding) == count or not waiting
            if any(each.readers for each in waiting):
                assert all(each.readers for each in holding)
        for task in waiting.values():
            task.cancel()
        await asyncio.gather(*waiting.values(), return_exceptions=True)

    asyncio.run(check())


async def test_a_slot_that_comes_too_late_is_not_lost() -> None:
    slots, first, second, third = Slots(1), Reader(1), Reader(1), Reader(1)
    await slots.take(first)
    late = asyncio.create_task(slots.take(second))
    await asyncio.sleep(0)
    slots.free(first)
    late.cancel()  # it has the slot, but will never run to use it
    with pytest.raises(asyncio.CancelledError):
        await late
    slots.free(second)
    await asyncio.wait_for(slots.take(third), 1)
