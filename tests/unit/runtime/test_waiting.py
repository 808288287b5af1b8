"""Single flight and thread pools: who waits for whom, and who does not."""

import asyncio
import subprocess
import sys
import threading

import pytest

from mirror.runtime import via
from mirror.runtime.pools import Pool, Pools
from mirror.runtime.single_flight import SingleFlight


class Work:
    """Something slow that counts how often it is begun."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = 0
        self.go_on = asyncio.Event()
        self.error = error

    async def __call__(self) -> str:
        self.begun += 1
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return "done"


async def test_many_ask_and_one_works() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    asked = [asyncio.create_task(flights.do("key", work)) for _ in range(50)]
    await asyncio.sleep(0)
    assert flights.is_running("key")
    work.go_on.set()

    assert await asyncio.gather(*asked) == ["done"] * 50
    assert work.begun == 1
    assert not flights.is_running("key")


async def test_who_leaves_leaves_alone() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    first = asyncio.create_task(flights.do("key", work))
    second = asyncio.create_task(flights.do("key", work))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    work.go_on.set()

    assert await second == "done"
    assert first.cancelled()


async def test_a_failure_is_everybodys_and_is_not_remembered() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work(ValueError("no"))
    asked = [asyncio.create_task(flights.do("key", work)) for _ in range(3)]
    await asyncio.sleep(0)
    work.go_on.set()
    assert all(isinstance(each, ValueError) for each in await asyncio.gather(
        *asked, return_exceptions=True
    ))  # fmt: skip
    again = Work()
    again.go_on.set()
    assert await flights.do("key", again) == "done"


async def test_close_ends_what_is_running() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    asked = asyncio.create_task(flights.do("key", Work()))
    await asyncio.sleep(0)
    await flights.close()

    with pytest.raises(asyncio.CancelledError):
        await asked


async def test_a_pool_that_may_hang_is_not_waited_for() -> None:
    pool, begun, stop = Pool("test", 1, may_hang=True), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        stop.wait(30)

    hanging, waiting = pool.start(hang), pool.start(lambda: 1)
    assert begun.wait(5)
    pool.close(wait=False)

    assert waiting.cancelled() or not waiting.done()
    with pytest.raises(RuntimeError):
        await pool.start(lambda: 1)
    stop.set()
    await hanging


async def test_work_in_a_pool_returns_and_raises() -> None:
    pools = Pools()
    assert await pools.dns.run(sum, [1, 2]) == 3
    with pytest.raises(ZeroDivisionError):
        await pools.dns.run(lambda: 1 // 0)
    pools.close()


def test_a_process_ends_although_a_look_up_hangs() -> None:
    script = (
        "import asyncio, time\n"
        "from mirror.runtime.pools import Pools\n"
        "async def main():\n"
        "    pools = Pools()\n"
        "    pools.dns.start(time.sleep, 600)\n"
        "    pools.close()\n"
        "asyncio.run(main())\n"
    )
    # The look-up takes ten minutes: a process that waited for it would be killed first.
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)  # noqa: S603 -- ours
    assert done.returncode == 0


def test_via_names_us_and_tells_a_loop() -> None:
    token = via.incoming.set("1.1 other")
    try:
        chain = via.outgoing()
    finally:
        via.incoming.reset(token)

    assert chain == f"1.1 other, 1.1 {via.INSTANCE}"
    assert via.is_loop(chain)
    assert not via.is_loop("1.1 other")
    assert via.is_loop(", ".join(["1.1 x"] * 40))
