"""How late the event loop is, and what of that is the machine's."""

import asyncio
import time
from pathlib import Path

import pytest

from mirror.observe import health
from mirror.observe.health import RunQueue, watch_event_loop


def test_the_kernel_tells_what_a_thread_waited_for(tmp_path: Path) -> None:
    found = tmp_path / "schedstat"
    found.write_text("7000000 2500000000 12\n")
    with RunQueue(str(found)) as queue:
        assert queue.waited_seconds() == 2.5


@pytest.mark.parametrize("content", [None, "", "7", "a b c"])
def test_where_it_does_not_nothing_is_known(tmp_path: Path, content: str | None) -> None:
    found = tmp_path / "schedstat"
    if content is not None:
        found.write_text(content)
    with RunQueue(str(found)) as queue:
        assert queue.waited_seconds() == 0


async def test_a_callback_that_blocks_is_seen_and_a_busy_machine_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited = iter([0.0, 0.0, 1.0, 11.0])
    monkeypatch.setattr(RunQueue, "waited_seconds", lambda _: next(waited))
    monkeypatch.setattr(health, "_TICK_SECONDS", 0.001)
    late: list[float] = []
    watching = asyncio.create_task(watch_event_loop(late.append))
    while len(late) < 2:  # a block of 5 ms is in the way of every timer
        time.sleep(0.005)  # noqa: ASYNC251 -- that is the point
        await asyncio.sleep(0)
    watching.cancel()
    assert late[0] > 0.001
    assert late[1] == 0
