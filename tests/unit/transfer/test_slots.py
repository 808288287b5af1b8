"""At most ``fill.max_concurrent`` downloads, and the one that nobody reads gives way."""

import asyncio
from pathlib import Path

from mirror.settings import Fill, Policy, Timeouts
from tests.fakes.content import blob
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, mirror_of

ONE = Fill(max_concurrent=1)
SHORT = Policy(timeouts=Timeouts(response_seconds=0.5, idle_seconds=30))


def path(digest: str) -> str:
    return f"/v2/library/alpine/blobs/{digest}"


async def test_one_too_many_is_told_when_to_come_back(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    first, second = blob(2 * MIB, 1), blob(2 * MIB, 2)
    for each in (first, second):
        upstream.push_blob("library/alpine", each)
    gate = upstream.hold_body(first.digest, after_bytes=MIB)
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, fill=ONE, policy=SHORT
    ) as mirror:
        reading = asyncio.create_task(mirror.get(path(first.digest)))
        await gate.reached.wait()
        refused = await mirror.get(path(second.digest))
        gate.release()

        assert refused.status == 503
        assert refused.error_code == "UNKNOWN"
        assert int(refused.headers["Retry-After"]) > 0
        assert (await reading).body == first.content
        await mirror.settled()
        assert (await mirror.get(path(second.digest))).body == second.content


async def test_a_download_without_readers_gives_way(tmp_path: Path, upstream: FakeRegistry) -> None:
    first, second = blob(64 * MIB, 1), blob(MIB, 2)
    for each in (first, second):
        upstream.push_blob("library/alpine", each)
    gate = upstream.hold_body(first.digest, after_bytes=MIB)
    gone_on = upstream.hold_body(second.digest, after_bytes=MIB // 2)
    patient = Policy(timeouts=Timeouts(idle_seconds=30))
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, fill=ONE, policy=patient
    ) as mirror:
        async with mirror.session.get(mirror.url + path(first.digest)) as response:
            await gate.reached.wait()
            response.close()
        await mirror.becomes("mirror_fill_readers", 0)
        waiting = asyncio.create_task(mirror.get(path(second.digest)))
        await mirror.becomes("mirror_fills_in_progress", 2)
        gate.release()  # the first one comes to its next chunk, and stops there
        await gone_on.reached.wait()
        assert not mirror.stored(first.digest).exists()
        gone_on.release()

        assert (await waiting).body == second.content
        await mirror.settled()
        assert mirror.stored(first.digest).exists()
