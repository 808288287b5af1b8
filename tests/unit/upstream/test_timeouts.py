"""Time limits towards upstream: who waits for us has an answer in time (invariant 9)."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from mirror.settings import Policy, Timeouts, Upstream
from tests.fakes import faults
from tests.fakes.cdn import FakeCdn
from tests.fakes.registry import FakeRegistry
from tests.harness import Got, Mirror
from tests.unit.upstream.pulling import (
    REPOSITORY,
    Guarded,
    blob,
    guarded,
    manifest,
    mirrored,
    objects,
)

BRIEF = Policy(timeouts=Timeouts(connect_seconds=0.15, response_seconds=0.15, idle_seconds=30))
IN_TIME_SECONDS = 10
"""Far above each limit that is to hold here, as a machine may be busy, and far below all others."""


@pytest.fixture
async def site() -> AsyncIterator[Guarded]:
    async with guarded() as site:
        yield site


@pytest.fixture
async def mirror(site: Guarded, tmp_path: Path) -> AsyncIterator[Mirror]:
    async with mirrored(tmp_path, site.upstream(policy=BRIEF)) as running:
        yield running


async def timed(asking: "asyncio.Future[Got] | asyncio.Task[Got]") -> tuple[Got, float]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    return await asking, loop.time() - began


@contextmanager
def nobody_accepts() -> Iterator[str]:
    """A port where connections are neither made nor refused: its backlog is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)  # noqa: FBT003 -- the socket's own signature
            each.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"
        for each in waiting:
            each.close()


async def test_a_connection_that_is_never_made(tmp_path: Path) -> None:
    quick = Policy(timeouts=Timeouts(connect_seconds=0.1, response_seconds=30, idle_seconds=30))
    with nobody_accepts() as url:
        upstream = Upstream(endpoints=(url,), policy=quick)
        async with mirrored(tmp_path, upstream) as mirror:
            got, seconds = await timed(asyncio.ensure_future(mirror.get(manifest())))
    assert (got.status, got.error_code) == (504, "UNKNOWN")
    assert seconds < IN_TIME_SECONDS


async def test_a_handshake_that_never_ends(tmp_path: Path) -> None:
    quick = Policy(timeouts=Timeouts(connect_seconds=0.1, response_seconds=30, idle_seconds=30))
    async with FakeRegistry() as deaf:
        url = deaf.url.replace("http:", "https:")
        upstream = Upstream(endpoints=(url,), policy=quick)
        async with mirrored(tmp_path, upstream) as mirror:
            got, seconds = await timed(asyncio.ensure_future(mirror.get(manifest())))
    assert (got.status, got.error_code) == (504, "UNKNOWN")
    assert seconds < IN_TIME_SECONDS


STAGES = ("registry", "token server", "after the token", "redirect", "body", "get after head")


@pytest.mark.parametrize("stage", STAGES)
async def test_wherever_it_hangs_there_is_an_answer_in_time(
    site: Guarded, mirror: Mirror, stage: str
) -> None:
    async with AsyncExitStack() as stack:
        match stage:
            case "registry":
                site.registry.hold_head()
            case "token server":
                site.tokens.hold_head()
            case "after the token":
                site.registry.fail(faults.hang(), kind="manifest", skip=1)
            case "redirect":
                cdn = await stack.enter_async_context(FakeCdn())
                cdn.hold_head()
                site.registry.fail(faults.redirect(cdn.url + "/x"), kind="manifest")
            case "body":
                site.registry.hold_body(after_bytes=10, kind="manifest")
            case _:
                site.registry.fail(faults.status(405), method="HEAD", kind="manifest", skip=1)
                site.registry.fail(faults.hang(), method="GET", kind="manifest")
        got, seconds = await timed(asyncio.ensure_future(mirror.get(manifest())))
        assert objects(mirror) == []

    assert (got.status, got.error_code) == (504, "UNKNOWN"), stage
    assert seconds < IN_TIME_SECONDS


async def test_one_deadline_is_over_all_of_it(site: Guarded, tmp_path: Path) -> None:
    """Three steps of which each would be in time are not in time together."""
    step_seconds, limit_seconds = 0.3, 0.7
    policy = Policy(timeouts=Timeouts(response_seconds=limit_seconds))
    gates = [
        site.registry.hold_head(kind="manifest", times=1),
        site.tokens.hold_head(times=1),
        site.registry.hold_head(kind="manifest"),
    ]

    async def each_takes_its_time() -> None:
        for gate in gates:
            await gate.reached.wait()
            await asyncio.sleep(step_seconds)  # what a step takes, and not what is waited for
            gate.release()

    steps = asyncio.create_task(each_takes_its_time())
    async with mirrored(tmp_path, site.upstream(policy=policy)) as mirror:
        got = await mirror.get(manifest())
        assert not gates[-1].opened.is_set()
    steps.cancel()
    assert (got.status, got.error_code) == (504, "UNKNOWN")
    assert gates[0].opened.is_set()


async def test_the_head_of_a_blob_comes_in_time_or_never(site: Guarded, mirror: Mirror) -> None:
    site.registry.hold_head(kind="blob")
    path = blob(site.image.layers[0].digest)
    got, seconds = await timed(asyncio.ensure_future(mirror.get(path)))
    head, head_seconds = await timed(asyncio.ensure_future(mirror.head(path)))
    assert (got.status, got.error_code) == (504, "UNKNOWN")
    assert head.status == 504
    assert max(seconds, head_seconds) < IN_TIME_SECONDS


async def test_a_time_out_is_not_remembered(site: Guarded, mirror: Mirror) -> None:
    rule = site.registry.fail(faults.hang(), kind="manifest")
    assert (await mirror.get(manifest())).status == 504
    rule.cancel()
    site.registry.clear()
    async with asyncio.timeout(IN_TIME_SECONDS):
        while not site.registry.count():  # in time or not: it is asked again
            await mirror.get(manifest())
    assert site.registry.count() > 0


async def test_a_slow_upstream_does_not_hold_up_another_repository(
    site: Guarded, tmp_path: Path
) -> None:
    site.registry.push("library/other", site.image, tags=["v1"])
    gate = site.registry.hold_head(kind="manifest", repository=REPOSITORY)
    async with mirrored(tmp_path, site.upstream()) as mirror:
        slow = asyncio.create_task(mirror.get(manifest()))
        await gate.reached.wait()
        assert (await mirror.get(manifest("v1", "library/other"))).status == 200
        assert not slow.done()
        gate.release()
        assert (await slow).status == 200
