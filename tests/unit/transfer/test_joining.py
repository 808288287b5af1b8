"""One download, many readers: who comes, who leaves and who is slow changes nothing."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from mirror.app import running
from mirror.settings import Fill, Policy, Server, Timeouts
from tests.fakes import faults
from tests.fakes.clients import Ended, RawClient, compose
from tests.fakes.clients import get as raw_get
from tests.fakes.content import blob, image, index
from tests.fakes.registry import FakeRegistry
from tests.fakes.script import Fault
from tests.harness import ANY_PORT, MIB, Mirror, gathered, mirror_of
from tests.harness import settings as mirror_settings
from tests.unit.transfer.helpers import OTHER, PATIENT, REPOSITORY, boarded, path


async def test_trap_01_nobody_asks_upstream_before_looking_who_asks_already(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    """Harbor opens its upstream request first and looks for a running download then."""
    pulled = image(layers=1, layer_bytes=3 * MIB)
    upstream.push(REPOSITORY, pulled, tags=["v1"])
    await mirror.get(f"/v2/{REPOSITORY}/manifests/v1")
    pushed = pulled.layers[0]
    gate = upstream.hold_head("blob", pushed.digest)

    readers = [asyncio.create_task(mirror.get(path(pushed.digest))) for _ in range(32)]
    await boarded(mirror, 32)
    gate.release()

    assert [(await reader).body == pushed.content for reader in readers] == [True] * 32
    assert upstream.count(kind="blob") == 1
    assert upstream.bytes_sent(pushed.digest) == len(pushed.content)


async def test_trap_02_one_platform_does_not_wait_for_another(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    """Zot downloads whole images, and clients of one platform wait for all."""
    arm, amd = image(1, architecture="arm64"), image(2, architecture="amd64")
    upstream.push(REPOSITORY, index([arm, amd]), tags=["v1"])
    gate = upstream.hold_body(arm.layers[0].digest, after_bytes=10)
    slow = asyncio.create_task(mirror.get(path(arm.layers[0].digest)))
    await gate.reached.wait()

    assert (await mirror.get(f"/v2/{REPOSITORY}/manifests/v1")).status == 200
    assert (await mirror.get(f"/v2/{REPOSITORY}/manifests/{amd.digest}")).body == amd.content
    for each in amd.blobs:
        assert (await mirror.get(path(each.digest))).body == each.content
    assert not slow.done()
    gate.release()
    await slow


async def test_trap_03_a_failed_download_poisons_nothing(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    """artifact-keeper has to guard against a key that its leader's failure has poisoned."""
    pushed = blob(100_000)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.status(500), kind="blob", times=1)

    first = await mirror.get(path(pushed.digest))
    second = await mirror.get(path(pushed.digest))

    assert (first.status, second.status) == (502, 200)
    assert second.body == pushed.content


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (faults.status(404), 404, "BLOB_UNKNOWN"),
        (faults.status(403), 403, "DENIED"),
        (faults.status(429), 503, "TOOMANYREQUESTS"),
        (faults.status(503), 502, "UNKNOWN"),
        (faults.empty(), 502, "UNKNOWN"),
    ],
    ids=["missing", "denied", "limited", "outage", "empty"],
)
async def test_trap_04_all_readers_get_the_error_of_the_first(
    mirror: Mirror, upstream: FakeRegistry, fault: Fault, status: int, code: str
) -> None:
    """Zot gives its followers nil instead of the leader's error."""
    image_of_it = image(layers=1, layer_bytes=3000)
    upstream.push(REPOSITORY, image_of_it, tags=["v1"])
    await mirror.get(f"/v2/{REPOSITORY}/manifests/v1")
    digest = image_of_it.layers[0].digest
    upstream.fail(fault, kind="blob")
    gate = upstream.hold_head("blob", digest)

    readers = [asyncio.create_task(mirror.get(path(digest))) for _ in range(5)]
    await gate.reached.wait()
    await boarded(mirror, 5)
    gate.release()
    answers = await asyncio.gather(*readers)

    assert {(each.status, each.error_code) for each in answers} == {(status, code)}
    assert upstream.count("GET", "blob") == 1
    assert await mirror.metric("mirror_fill_readers") == 0
    assert not mirror.stored(digest).exists()


async def test_trap_05_a_reader_of_a_stalled_download_does_not_wait_for_ever(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    """Trow polls a growing file without a time limit."""
    pushed = blob(MIB)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.hang_in_body(300_000), kind="blob", times=1)
    upstream.fail(faults.status(404), kind="blob")
    policy = Policy(timeouts=Timeouts(response_seconds=2, idle_seconds=0.1))
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, policy=policy) as mirror:
        with pytest.raises(aiohttp.ClientPayloadError):
            await mirror.get(path(pushed.digest))
        await mirror.settled()

        assert mirror.up.store.partials.idle_bytes == 300_000  # it may be back


async def test_trap_06_a_reader_that_reads_nothing_delays_nobody(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    """Tees like io.MultiWriter move at the pace of the slowest client."""
    pushed = blob(24 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    async with await RawClient.connect(mirror.host, mirror.port) as sleeper:
        await sleeper.send(compose(path(pushed.digest)))
        await sleeper.head()
        got = await mirror.get(path(pushed.digest))
        await mirror.settled()

        assert got.body == pushed.content
        assert mirror.stored(pushed.digest).exists()
        sleeper_got = await sleeper.read(len(pushed.content))
    assert sleeper_got == pushed.content
    assert upstream.count("GET", "blob") == 1


async def test_trap_07_bytes_arrive_before_the_download_has_ended(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    """Quay and NORA store the whole blob before its first byte goes out."""
    pushed = blob(4 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=2 * MIB)

    async with mirror.session.get(mirror.url + path(pushed.digest)) as response:
        early = await response.content.readexactly(MIB)
        assert gate.reached.is_set()
        gate.release()
        rest = await response.read()

    assert early + rest == pushed.content


async def test_the_last_bytes_are_held_back_until_the_digest_is_checked(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    pushed = blob(MIB)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=MIB - 1)

    async with mirror.session.get(mirror.url + path(pushed.digest)) as response:
        early = await response.content.readexactly(MIB - 64 * 1024)
        await gate.reached.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await response.content.readexactly(1)
        gate.release()
        rest = await response.read()

    assert early + rest == pushed.content


async def test_trap_12_what_a_client_did_not_take_is_stored_whole(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    """oci-pull-through ends its tee with plain EOF when the client's copy failed."""
    pushed = blob(8 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=3 * MIB)
    async with await RawClient.connect(mirror.host, mirror.port) as client:
        await client.send(compose(path(pushed.digest)))
        await client.read(8192)
    gate.release()
    await mirror.settled()

    assert mirror.stored(pushed.digest).read_bytes() == pushed.content
    assert (await mirror.get(path(pushed.digest))).cache_status == "mirror; hit"


@pytest.mark.parametrize(
    "fault",
    [faults.chunked(only_bytes=70_000), faults.body(b"x" * 100_000)],
    ids=["short", "wrong"],
)
async def test_trap_12_a_body_that_ends_neatly_but_wrong_is_not_stored(
    mirror: Mirror, upstream: FakeRegistry, fault: Fault
) -> None:
    """containerd-registry-cache renames what it has without a look at length or digest."""
    pushed = blob(100_000)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(fault, kind="blob")

    with pytest.raises(aiohttp.ClientPayloadError):
        await mirror.get(path(pushed.digest))
    await mirror.settled()

    assert not mirror.stored(pushed.digest).exists()
    assert not list((mirror.directory / "partial").iterdir())


async def test_a_repository_that_joins_is_asked_when_the_first_lacks_the_blob(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    pushed = image(layers=1)
    digest = pushed.layers[0].digest
    for repository in (REPOSITORY, OTHER):
        upstream.push(repository, pushed, tags=["v1"])
        await mirror.get(f"/v2/{repository}/manifests/v1")
    upstream.delete_blob(REPOSITORY, digest)
    gate = upstream.hold_head("blob", digest, repository=REPOSITORY)

    without = asyncio.create_task(mirror.get(path(digest)))
    await gate.reached.wait()
    having = asyncio.create_task(mirror.get(path(digest, OTHER)))
    await boarded(mirror, 2)
    gate.release()

    assert (await without).status == 404
    assert (await having).body == pushed.layers[0].content
    assert upstream.count("GET", "blob") == 2


@pytest.mark.parametrize(
    "trouble", [faults.status(503), faults.status(429)], ids=["outage", "limited"]
)
async def test_one_upstream_in_trouble_does_not_fail_the_readers_of_another(
    tmp_path: Path, upstream: FakeRegistry, trouble: Fault
) -> None:
    pushed = image(layers=1)
    digest = pushed.layers[0].digest
    async with (
        FakeRegistry() as second,
        mirror_of(
            tmp_path / "cache", {"docker.io": upstream, "ghcr.io": second}, policy=PATIENT
        ) as mirror,
    ):
        for registry, name in ((upstream, "docker.io"), (second, "ghcr.io")):
            registry.push(REPOSITORY, pushed, tags=["v1"])
            await mirror.get(f"/v2/{name}/{REPOSITORY}/manifests/v1")
        upstream.fail(trouble, kind="blob")
        gate = upstream.hold_head("blob", digest)
        troubled = asyncio.create_task(mirror.get(path(digest)))
        await gate.reached.wait()
        lucky = asyncio.create_task(mirror.get(path(digest, f"ghcr.io/{REPOSITORY}")))
        await boarded(mirror, 2)
        gate.release()

        assert (await troubled).status in {502, 503}
        assert (await lucky).body == pushed.layers[0].content


@pytest.mark.parametrize("abandon", ["stop", "finish"])
async def test_trap_03_a_download_that_nobody_reads(
    tmp_path: Path, upstream: FakeRegistry, abandon: str
) -> None:
    """Distribution's fill ends with its first client's broken line, asked to or not."""
    pushed = blob(8 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=2 * MIB, times=1)
    how = Fill.model_validate({"abandon": abandon})
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, fill=how, policy=PATIENT
    ) as mirror:
        async with mirror.session.get(mirror.url + path(pushed.digest)) as response:
            await response.content.readexactly(1000)
            await gate.reached.wait()
            [fill] = mirror.up.fills.all()
            await fill.beyond(2 * MIB - 1, limit_seconds=5)
            response.close()
        if abandon == "finish":
            gate.release()
        await mirror.settled()

        assert mirror.stored(pushed.digest).exists() == (abandon == "finish")
        waiting_bytes = mirror.up.store.partials.idle_bytes
        assert waiting_bytes == (2 * MIB if abandon == "stop" else 0)
        outcome = "committed" if abandon == "finish" else "abandoned"
        assert await mirror.metric("mirror_fills_total", outcome=outcome) == 1
        assert mirror.up.store.space.reserved_bytes == 0
        # Whoever comes now gets all of it, from the store or with what was left behind.
        gate.release()
        assert (await mirror.get(path(pushed.digest))).body == pushed.content
        if abandon == "stop":
            assert upstream.requests[-1].header("Range") == f"bytes={2 * MIB}-"


@pytest.mark.parametrize("has_begun", [False, True], ids=["head", "body"])
@pytest.mark.parametrize("abandon", ["stop", "finish"])
async def test_who_leaves_while_nothing_comes_does_not_count_any_more(
    tmp_path: Path, upstream: FakeRegistry, abandon: str, *, has_begun: bool
) -> None:
    pushed = blob(8 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    if has_begun:
        gate = upstream.hold_body(pushed.digest, after_bytes=2 * MIB)
    else:
        gate = upstream.hold_head("blob", pushed.digest)
    how = Fill.model_validate({"abandon": abandon})
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, fill=how, policy=PATIENT
    ) as mirror:
        async with await RawClient.connect(mirror.host, mirror.port) as client:
            await client.send(compose(path(pushed.digest)))
            await gate.reached.wait()
            await boarded(mirror, 1)
            got_bytes = 0
            while has_begun and got_bytes < 2 * MIB:  # and the head of the answer
                got_bytes += len(await client.read(MIB))
        await boarded(mirror, 0)

        if abandon == "stop":
            await mirror.settled()
            assert await mirror.metric("mirror_fills_total", outcome="abandoned") == 1
        gate.release()
        await mirror.settled()
        assert mirror.stored(pushed.digest).exists() == (abandon == "finish")


async def test_who_comes_while_an_abandoned_download_stops_gets_a_new_one(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    pushed = blob(8 * MIB)  # each round gets one MiB: it must not be whole before the last
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=MIB)
    stop = Fill(abandon="stop")
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, fill=stop, policy=PATIENT
    ) as mirror:
        for _ in range(5):
            async with mirror.session.get(mirror.url + path(pushed.digest)) as response:
                assert response.status == 200
                await response.content.readexactly(1000)
                response.close()
        gate.release()
        answers = await gathered(3, lambda: mirror.get(path(pushed.digest)))

        assert [each.body for each in answers] == [pushed.content] * 3
        await mirror.settled()
        assert mirror.stored(pushed.digest).read_bytes() == pushed.content
        assert not list((tmp_path / "cache/partial").iterdir())


async def test_the_end_of_the_process_leaves_no_task_and_the_next_goes_on(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    pushed = [blob(4 * MIB, seed) for seed in range(4)]
    for each in pushed:
        upstream.push_blob(REPOSITORY, each)
    gate = upstream.hold_body(after_bytes=MIB, kind="blob")
    server = Server(listen=ANY_PORT, admin_listen=ANY_PORT, shutdown_grace_seconds=0.1)
    before = asyncio.all_tasks()
    async with running(
        mirror_settings(tmp_path / "cache", {"docker.io": upstream}, server=server)
    ) as up:
        readers = [
            asyncio.create_task(raw_get("127.0.0.1", up.listen.port, path(each.digest)))
            for each in pushed
        ]
        await gate.arrivals(4)
        fills = [task for task in asyncio.all_tasks() if task.get_name().startswith("fill ")]
        assert len(fills) == 4

    for answer, each in zip(await asyncio.gather(*readers), pushed, strict=True):
        assert answer.ended is Ended.FIN
        assert len(answer.body) < len(each.content)
    assert all(task.done() for task in fills)
    gate.release()
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        assert mirror.up.store.partials.idle_bytes == 4 * MIB
        for each in pushed:
            assert (await mirror.get(path(each.digest))).body == each.content
            assert upstream.requests[-1].header("Range") == f"bytes={MIB}-"
        assert mirror.up.store.partials.idle_bytes == 0
    await upstream.go_down()
    assert not {task for task in asyncio.all_tasks() - before if not task.done()}
