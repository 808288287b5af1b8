"""The invariants through four processes, and what happens when one of them dies."""

import asyncio
import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.fakes import faults
from tests.fakes.clients import Ended, RawClient, compose
from tests.fakes.clients import get as raw_get
from tests.fakes.content import Blob, blob, image
from tests.fakes.script import Gate
from tests.harness import MIB, gathered
from tests.unit.upstream.pulling import REPOSITORY, Guarded
from tests.unit.upstream.pulling import blob as blob_path
from tests.unit.upstream.pulling import manifest as manifest_path
from tests.workers.conftest import upstream_of
from tests.workers.processes import MirrorProcess, clients_of_each, is_alive, mirror_process


async def ask(client: RawClient, path: str) -> bytes:
    """GET a path over a connection that stays; returns the body."""
    await client.send(compose(path, host="localhost"))
    answer = await client.answer()
    assert answer.status == 200, answer
    return answer.body


async def held_blob(site: Guarded, mirror: MirrorProcess) -> tuple[Blob, Gate]:
    """Push a blob whose download stops in the middle; the token for it is there."""
    pushed = blob(8 * MIB)
    site.registry.push_blob(REPOSITORY, pushed)
    await mirror.get(manifest_path())
    return pushed, site.registry.hold_body(pushed.digest, after_bytes=4 * MIB)


# --- one of everything -------------------------------------------------------------------------


async def test_a_herd_costs_one_token_one_head_and_one_get(
    site: Guarded, mirror: MirrorProcess
) -> None:
    layer = blob(3 * MIB)
    site.registry.push_blob(REPOSITORY, layer)

    manifests = await gathered(40, lambda: mirror.get(manifest_path()))
    layers = await gathered(40, lambda: mirror.get(blob_path(layer.digest)))

    assert [got.body for got in manifests] == [site.image.content] * 40
    assert all(got.body == layer.content for got in layers)
    assert site.tokens.count() == 1
    assert site.registry.count("HEAD", "manifest") <= 2  # the first is refused for want of a token
    assert site.registry.count("GET", "manifest") == 1
    assert site.registry.count("GET", "blob") == 1
    assert await mirror.metric("mirror_fills_total", outcome="committed") == 1


async def test_each_worker_has_clients_and_their_requests_are_summed(
    site: Guarded, mirror: MirrorProcess
) -> None:
    clients = await clients_of_each(mirror)
    assert len(clients) == 4
    before = await mirror.metric("mirror_requests_total", kind="manifest")
    for client in clients.values():
        for _ in range(5):
            assert await ask(client, manifest_path()) == site.image.content
        client.close()

    async def counted() -> bool:
        return await mirror.metric("mirror_requests_total", kind="manifest") == before + 20

    await mirror.until(counted)
    assert await mirror.metric("mirror_request_seconds_count", kind="manifest") == before + 20
    sent = await mirror.metric("mirror_client_bytes_total", upstream="docker.io")
    assert sent == 20 * site.image.size_bytes
    past = [each for each in await mirror.past() if each["kind"] == "manifest"]
    assert len(past) == 20
    assert sum(each["pulls"] for each in past) <= 1
    assert await mirror.metric("mirror_event_loop_lag_seconds_count") > 0


async def test_readers_in_all_workers_follow_one_fill(site: Guarded, mirror: MirrorProcess) -> None:
    pushed, gate = await held_blob(site, mirror)
    clients = await clients_of_each(mirror)

    for client in clients.values():
        await client.send(compose(blob_path(pushed.digest), host="localhost"))
        assert (await client.head()).status == 200
        assert await client.read(3 * MIB) == pushed.content[: 3 * MIB]
    await gate.reached.wait()
    first, *others = clients.values()
    first.close()  # who began it leaves
    part = asyncio.create_task(
        mirror.get(blob_path(pushed.digest), {"Range": f"bytes={6 * MIB}-{6 * MIB + 99}"})
    )
    gate.release()

    for client in others:
        rest = await client.read(5 * MIB)
        assert rest == pushed.content[3 * MIB :]
        client.close()
    got = await part
    assert (got.status, got.body) == (206, pushed.content[6 * MIB : 6 * MIB + 100])
    assert site.registry.count("GET", "blob") == 1


async def test_nobody_gets_the_whole_of_a_wrong_blob(site: Guarded, mirror: MirrorProcess) -> None:
    pushed = blob(3 * MIB)
    site.registry.push_blob(REPOSITORY, pushed)
    await mirror.get(manifest_path())  # the token is there
    site.registry.fail(faults.flip(at_byte=2 * MIB), kind="blob")

    async def pull() -> Ended:
        answer = await raw_get("127.0.0.1", mirror.port, blob_path(pushed.digest))
        assert len(answer.body) < 3 * MIB or answer.status != 200
        return answer.ended

    ends = await gathered(8, pull)
    assert set(ends) <= {Ended.FIN, Ended.COMPLETE}  # complete: a clean error to who came late
    assert Ended.FIN in ends


async def test_what_has_no_room_passes_the_cache(site: Guarded, tmp_path: Path) -> None:
    pushed = blob(6 * MIB)
    site.registry.push_blob(REPOSITORY, pushed)
    cache = {"directory": str(tmp_path / "cache"), "max_size": "4MiB", "min_free": "0B"}
    async with mirror_process(tmp_path, upstream_of(site), workers=2, cache=cache) as mirror:
        got = await mirror.get(blob_path(pushed.digest))
        assert got.body == pushed.content
        assert "detail=passthrough" in got.cache_status


async def test_a_tag_is_stale_in_every_worker_while_upstream_is_down(
    site: Guarded, tmp_path: Path
) -> None:
    policy = {"tag_ttl": "100ms", "timeouts": {"response": "5s", "revalidate": "300ms"}}
    async with mirror_process(tmp_path, upstream_of(site), policy=policy) as mirror:
        await mirror.get(manifest_path())
        for each in site.image.blobs:
            await mirror.get(blob_path(each.digest))
        await site.registry.go_down()
        await asyncio.sleep(0.2)  # past the tag's time, by the clock of other processes
        clients = await clients_of_each(mirror)
        for client in clients.values():
            await client.send(compose(manifest_path(), host="localhost"))
            answer = await client.answer()
            assert answer.status == 200
            assert "stale" in (answer.header("Warning") or "")
            client.close()


async def test_a_digest_is_no_capability_in_any_worker(
    site: Guarded, mirror: MirrorProcess
) -> None:
    secret = blob(5000)
    site.registry.push_blob("library/secret", secret)
    await mirror.get(blob_path(secret.digest, "library/secret"))
    answers = await gathered(8, lambda: mirror.get(blob_path(secret.digest)))
    assert {got.status for got in answers} == {404}
    assert all(secret.content not in got.body for got in answers)


# --- invalidation --------------------------------------------------------------------------------


async def test_what_is_removed_is_gone_in_all_workers_at_once(
    site: Guarded, mirror: MirrorProcess
) -> None:
    await mirror.get(manifest_path())
    for each in site.image.blobs:
        await mirror.get(blob_path(each.digest))
    clients = await clients_of_each(mirror)
    for client in clients.values():  # it is in the memory of each
        assert await ask(client, manifest_path()) == site.image.content
        for each in site.image.blobs:
            await ask(client, blob_path(each.digest))
    site.registry.delete_repository(REPOSITORY)

    started = time.monotonic()
    await mirror.admin("DELETE", f"/api/v1/cache/images?ref={REPOSITORY}:v1")
    took_seconds = time.monotonic() - started

    for client in clients.values():
        for path in (manifest_path(), *(blob_path(each.digest) for each in site.image.blobs)):
            await client.send(compose(path, host="localhost"))
            assert (await client.answer()).status == 404, path
        client.close()
    assert took_seconds < 1


async def test_a_tag_that_moved_has_moved_in_all_workers(
    site: Guarded, mirror: MirrorProcess
) -> None:
    clients = await clients_of_each(mirror)
    for client in clients.values():
        assert await ask(client, manifest_path()) == site.image.content
    new = image(seed=7)
    site.registry.push(REPOSITORY, new, tags=["v1"])
    await mirror.admin("POST", "/api/v1/cache/refresh", {"image": f"{REPOSITORY}:v1"})
    for client in clients.values():
        assert await ask(client, manifest_path()) == new.content
        client.close()


async def test_a_new_configuration_reaches_all_workers(
    site: Guarded, mirror: MirrorProcess
) -> None:
    clients = await clients_of_each(mirror)
    for client in clients.values():
        await client.send(compose("/v2/_catalog", host="localhost"))
        assert (await client.answer()).status == 404
        assert await ask(client, manifest_path()) == site.image.content
    mirror.settings["server"]["catalog"] = True
    mirror.settings["upstreams"]["docker.io"]["policy"] = {"mode": "deny"}
    mirror.write()
    os.kill(mirror.pid, signal.SIGHUP)

    async def reloaded() -> bool:
        return await mirror.metric("mirror_config_reloads_total", outcome="applied") >= 1

    await mirror.until(reloaded)
    for client in clients.values():
        assert REPOSITORY.encode() in await ask(client, "/v2/_catalog")
        await client.send(compose(manifest_path(), host="localhost"))
        assert (await client.answer()).status == 403
        client.close()


# --- life and death ------------------------------------------------------------------------------


async def test_a_worker_that_is_killed_is_replaced_and_only_its_clients_notice(
    site: Guarded, mirror: MirrorProcess
) -> None:
    pushed, gate = await held_blob(site, mirror)
    clients = await clients_of_each(mirror)
    for client in clients.values():
        await client.send(compose(blob_path(pushed.digest), host="localhost"))
        assert (await client.head()).status == 200
        await client.read(3 * MIB)
    await gate.reached.wait()
    requests = await mirror.metric("mirror_requests_total")

    victim, its_client = next(iter(clients.items()))
    os.kill(victim, signal.SIGKILL)
    with pytest.raises((EOFError, ConnectionError)):
        await its_client.read(5 * MIB)
    its_client.close()
    del clients[victim]
    answers = await gathered(40, lambda: mirror.get("/v2/"))  # while it is being replaced
    assert {got.status for got in answers} == {200}
    gate.release()
    for client in clients.values():
        assert await client.read(5 * MIB) == pushed.content[3 * MIB :]
        client.close()

    async def is_back() -> bool:
        return await mirror.metric("mirror_workers") == 4

    await mirror.until(is_back)
    assert victim not in mirror.workers()
    assert await mirror.metric("mirror_worker_restarts_total") == 1
    assert await mirror.metric("mirror_requests_total") >= requests
    assert site.registry.count("GET", "blob") == 1
    assert (await mirror.get(blob_path(pushed.digest))).body == pushed.content
    lines = [line for line in mirror.log_lines() if line["event"].startswith("a worker ended")]
    assert [line["exit_code"] for line in lines] == [-9]


async def test_what_a_worker_reads_is_not_evicted_until_the_worker_is_dead(
    site: Guarded, tmp_path: Path
) -> None:
    first, second = blob(16 * MIB), blob(16 * MIB, seed=2)
    cache = {"directory": str(tmp_path / "cache"), "max_size": "24MiB", "min_free": "0B"}
    async with mirror_process(tmp_path, upstream_of(site), workers=2, cache=cache) as mirror:
        for each in (first, second):
            site.registry.push_blob(REPOSITORY, each)
        await mirror.get(blob_path(first.digest))
        clients = await clients_of_each(mirror)
        victim, reader = next(iter(clients.items()))
        await reader.send(compose(blob_path(first.digest), host="localhost"))
        await reader.read(1000)  # and no more: the worker has the file, and its lock

        got = await mirror.get(blob_path(second.digest))
        assert "detail=passthrough" in got.cache_status

        os.kill(victim, signal.SIGKILL)
        await mirror.until(lambda: not is_alive(victim))
        for client in clients.values():
            client.close()
        got = await mirror.get(blob_path(second.digest))
        assert "stored" in got.cache_status


async def test_without_the_main_process_no_worker_stays(
    site: Guarded, mirror: MirrorProcess
) -> None:
    workers = mirror.workers()
    assert len(workers) == 4
    clients = await clients_of_each(mirror)
    mirror.kill()
    await mirror.until(lambda: not any(is_alive(pid) for pid in workers), seconds=20)
    for client in clients.values():
        assert (await client.answer()).ended in {Ended.FIN, Ended.RST}
        client.close()
    await mirror.start()  # and nothing keeps the directory or the port
    assert (await mirror.get(manifest_path())).body == site.image.content


async def test_a_stop_lets_running_answers_end(site: Guarded, mirror: MirrorProcess) -> None:
    pushed, gate = await held_blob(site, mirror)
    clients = await clients_of_each(mirror)
    workers = mirror.workers()
    for client in clients.values():
        await client.send(compose(blob_path(pushed.digest), host="localhost"))
        assert (await client.head()).status == 200
    await gate.reached.wait()
    stopping = asyncio.create_task(mirror.stop())
    await nobody_listens(mirror)
    gate.release()
    for client in clients.values():
        assert await client.read(8 * MIB) == pushed.content
        client.close()
    assert await stopping == 0
    assert not any(is_alive(pid) for pid in workers)


async def nobody_listens(mirror: MirrorProcess) -> None:
    """Wait until the stop has begun."""

    async def is_refused() -> bool:
        try:
            (await RawClient.connect("127.0.0.1", mirror.port)).close()
        except ConnectionError:
            return True
        return False

    await mirror.until(is_refused, 30)


async def test_signals_to_the_whole_group_stop_it_in_order(
    site: Guarded, mirror: MirrorProcess
) -> None:
    """Ctrl-C and systemd signal the workers, too: they wait for the main process's word."""
    pushed, gate = await held_blob(site, mirror)
    client = await RawClient.connect("127.0.0.1", mirror.port)
    await client.send(compose(blob_path(pushed.digest), host="localhost"))
    await gate.reached.wait()
    for pid in mirror.workers():
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    stopping = asyncio.create_task(mirror.stop())
    await nobody_listens(mirror)
    gate.release()
    assert (await client.answer()).body == pushed.content
    client.close()
    assert await stopping == 0


async def test_a_second_mirror_does_not_share_the_port(
    site: Guarded, mirror: MirrorProcess, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    second.mkdir()
    with pytest.raises(AssertionError, match=re.compile("is in use by another program")):
        async with mirror_process(
            second, upstream_of(site), server={"listen": f"127.0.0.1:{mirror.port}"}
        ):
            pass
