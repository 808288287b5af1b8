"""Two workers in the loop of the test, and what the main process does when one is not there."""

import asyncio
import io
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from mirror.app import running
from mirror.domain.manifests import Manifest
from mirror.domain.names import Reference, Repository
from mirror.service.manifests import Manifests
from mirror.service.served import Served
from mirror.settings import Limits, Server, ServerTls
from mirror.workers import team as team_module
from mirror.workers.spawning import Spawned
from tests.fakes.clients import Ended, RawClient, compose
from tests.fakes.clients import get as raw_get
from tests.fakes.content import blob, image
from tests.fakes.registry import FakeRegistry
from tests.fakes.tls import write_pair
from tests.harness import ANY_PORT, MIB, Mirror, gathered, mirror_of, settings
from tests.unit.web.wire import REPOSITORY, blob_path, manifest_path

TWO = Server(listen=ANY_PORT, admin_listen=ANY_PORT, shutdown_grace_seconds=0.1, workers=2)
IMAGE = image()


@pytest.fixture
async def mirror(tmp_path: Path, upstream: FakeRegistry) -> AsyncIterator[Mirror]:
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, server=TWO) as running:
        yield running


async def test_a_pull_through_workers(mirror: Mirror, upstream: FakeRegistry) -> None:
    got = await mirror.get(manifest_path("v1"))
    blobs = [await mirror.get(blob_path(each.digest)) for each in IMAGE.blobs]
    assert got.body == IMAGE.content
    assert [each.body for each in blobs] == [each.content for each in IMAGE.blobs]
    assert (await mirror.head(blob_path(IMAGE.blobs[0].digest))).status == 200
    assert (await mirror.get(f"/v2/{REPOSITORY}/tags/list")).status == 200
    assert (await mirror.get("/v2/_catalog")).status == 404
    part = await mirror.get(blob_path(IMAGE.blobs[0].digest), {"Range": "bytes=1-3"})
    assert part.body == IMAGE.blobs[0].content[1:4]
    assert (await mirror.get(manifest_path("none"))).status == 404
    assert await mirror.total("mirror_requests_total", kind="manifest") == 2
    assert await mirror.metric("mirror_workers") == 2


async def test_what_is_hot_is_not_asked_for_again_until_it_is_removed(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mirror.get(manifest_path("v1"))
    await mirror.pull_blobs(REPOSITORY, IMAGE)
    asked: list[str] = []
    resolve = Manifests.resolve

    async def counted(
        self: Manifests, repository: Repository, reference: Reference
    ) -> tuple[Manifest, Served]:
        asked.append(str(reference))
        return await resolve(self, repository, reference)

    monkeypatch.setattr(Manifests, "resolve", counted)
    await gathered(20, lambda: mirror.get(manifest_path("v1")))
    asked.clear()
    answers = await gathered(20, lambda: mirror.get(manifest_path("v1")))
    assert all(got.body == IMAGE.content for got in answers)
    assert all("mirror; hit; ttl=" in got.cache_status for got in answers)
    assert len(asked) <= 2

    asked.clear()
    await mirror.up.cache.remove([f"{REPOSITORY}:v1"], dry_run=False)
    got = await mirror.get(manifest_path("v1"))
    assert asked == ["v1"]
    assert got.cache_status == "mirror; fwd=uri-miss; stored"


async def test_a_worker_that_ends_is_replaced(mirror: Mirror, log_lines: io.StringIO) -> None:
    assert mirror.up.team is not None
    seat = mirror.up.team._seats[0]
    assert seat.spawned is not None
    seat.spawned.kill()
    answers = await gathered(10, lambda: raw_get(mirror.host, mirror.port, "/v2/"))
    assert {answer.status for answer in answers} <= {200, 0}  # 0: the worker was dying with it
    await mirror.becomes("mirror_worker_restarts_total", 1)
    await mirror.becomes("mirror_workers", 2)
    assert "a worker ended" in log_lines.getvalue()
    assert (await mirror.get(manifest_path("v1"))).body == IMAGE.content


async def test_a_body_that_the_main_process_leaves_is_not_said_to_be_left_by_its_client(
    mirror: Mirror, upstream: FakeRegistry, log_lines: io.StringIO
) -> None:
    pushed = blob(MIB)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_body(pushed.digest, after_bytes=MIB // 2)
    assert mirror.up.team is not None
    async with await RawClient.connect(mirror.host, mirror.port) as client:
        await client.send(compose(blob_path(pushed.digest)))
        await client.head()
        await gate.reached.wait()
        for seat in mirror.up.team._seats:
            assert seat.desk is not None
            await seat.desk.close()
        assert (await client.answer()).ended is not Ended.COMPLETE
    gate.release()
    await mirror.becomes("mirror_workers", 2)
    assert "answer cut short" in log_lines.getvalue()
    assert "client left" not in log_lines.getvalue()


async def test_the_connections_of_workers_are_counted_while_they_are_there(
    mirror: Mirror,
) -> None:
    assert mirror.up.team is not None
    clients = [await RawClient.connect(mirror.host, mirror.port) for _ in range(6)]
    for client in clients:
        await client.send(compose("/v2/"))
        assert (await client.answer()).status == 200
    await mirror.becomes("mirror_connections", 6, listener="registry")
    for seat in mirror.up.team._seats:
        assert seat.spawned is not None
        seat.spawned.kill()
    await mirror.becomes("mirror_connections", 0, listener="registry")
    for client in clients:
        client.close()


async def test_without_any_worker_the_main_process_serves(
    tmp_path: Path, upstream: FakeRegistry, log_lines: io.StringIO
) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])

    async def refuse(end: socket.socket, listening: socket.socket) -> Spawned:
        raise OSError(12, "no memory for that")

    wanted = settings(tmp_path / "cache", {"docker.io": upstream}, server=TWO)
    async with running(wanted, spawn=refuse) as up:
        for _ in range(8):
            answer = await raw_get("127.0.0.1", up.listen.port, manifest_path("v1"))
            assert answer.body == IMAGE.content
        assert up.metrics.registry.get_sample_value("mirror_workers") == 0
    assert "a worker cannot be started" in log_lines.getvalue()
    assert "no memory for that" in log_lines.getvalue()


async def test_who_begins_after_a_reload_serves_as_the_others_do(
    mirror: Mirror, tmp_path: Path, upstream: FakeRegistry
) -> None:
    """What needs a restart waits for it: one worker in eight would speak TLS, the others not."""
    team = mirror.up.team
    assert team is not None
    told = team._configure
    certificate, key = write_pair(tmp_path)
    after = settings(
        tmp_path / "cache",
        {"docker.io": upstream},
        server=TWO.model_copy(
            update={
                "workers": 8,
                "tls": ServerTls(certificate=certificate, key=key),
                "limits": Limits(connections=8),
                "catalog": True,
            }
        ),
        cache={"memory_bytes": 1},
    )
    mirror.up.reloading._apply(after)
    for seat in team._seats:
        assert seat.spawned is not None
        seat.spawned.kill()
        while seat.ready.is_set():  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0)
    await team.all_ready()

    answers = await gathered(16, lambda: raw_get(mirror.host, mirror.port, "/v2/_catalog"))

    assert {answer.status for answer in answers} == {200}
    assert team._configure.memory_bytes == told.memory_bytes
    assert team._configure.server == {**told.server, "catalog": True}


async def test_a_seat_outlives_a_lack_of_descriptors(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, log_lines: io.StringIO
) -> None:
    """Nobody would accept at its socket any more, to which the kernel goes on giving clients."""
    assert mirror.up.team is not None
    monkeypatch.setattr(team_module, "_PAUSE_SECONDS", 0.01)
    stand_in, left = mirror.up.team._open, [1, 1]

    async def refuse_once(listening: socket.socket) -> web.BaseSite:
        if left:
            left.pop()
            listening.close()
            raise OSError(24, "Too many open files")
        return await stand_in(listening)

    monkeypatch.setattr(mirror.up.team, "_open", refuse_once)
    seat = mirror.up.team._seats[0]
    assert seat.spawned is not None
    seat.spawned.kill()
    await mirror.becomes("mirror_workers", 1)
    await mirror.becomes("mirror_workers", 2)
    assert not left
    for _ in range(8):
        assert (await raw_get(mirror.host, mirror.port, "/v2/")).status == 200
    assert "Too many open files" in log_lines.getvalue()


async def test_a_worker_that_does_not_answer_holds_nobody_up_for_long(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, log_lines: io.StringIO
) -> None:
    assert mirror.up.team is not None
    monkeypatch.setattr(team_module, "_FORGET_MAX_SECONDS", 0.01)
    desk = mirror.up.team._seats[0].desk
    assert desk is not None
    monkeypatch.setattr(desk, "tell", lambda message: None)
    async with asyncio.timeout(1):
        await mirror.up.team.settled()
    assert "workers do not answer" in log_lines.getvalue()
