"""Bodies that cannot go on, clients that leave or stall, bugs; and what is noted of each."""

import asyncio
import io
import json
import os
import socket
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from mirror.domain.ranges import Span
from mirror.observe.metrics import Result
from mirror.service.manifests import Manifests
from mirror.service.served import Served
from mirror.settings import Server
from mirror.settings.server import Limits
from mirror.transfer.bodies import StoredBody
from mirror.transfer.parts import FilePart
from mirror.web.exchange import cache_status
from tests.fakes import faults
from tests.fakes.clients import Ended, RawClient, compose, fetch
from tests.fakes.content import blob, image
from tests.fakes.registry import FakeRegistry
from tests.fakes.script import Fault
from tests.harness import ANY_PORT, MIB, Mirror, gathered, in_one_process, mirror_of
from tests.unit.web.wire import REPOSITORY, ask, blob_path, manifest_path

IMAGE = image()


def logged(log_lines: io.StringIO, **wanted: object) -> list[dict[str, object]]:
    entries = [json.loads(line) for line in log_lines.getvalue().splitlines()]
    return [entry for entry in entries if wanted.items() <= entry.items()]


async def until_logged(log_lines: io.StringIO, **wanted: object) -> dict[str, object]:
    """Wait for a line of the log: it is written after the client has its answer."""
    await until(lambda: bool(logged(log_lines, **wanted)))
    return logged(log_lines, **wanted)[-1]


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not happened():  # noqa: ASYNC110 -- nothing tells when a line is written
            await asyncio.sleep(0)


# --- bodies that cannot go on ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "announced"),
    [(faults.content_length(2 * MIB), True), (faults.chunked(), False)],
    ids=["length", "chunked"],
)
async def test_trap_14_a_mismatch_never_ends_cleanly(
    mirror: Mirror, upstream: FakeRegistry, fault: Fault, *, announced: bool
) -> None:
    """Pulp aborts the connection on a digest mismatch; a clean end would be taken for whole."""
    pushed = blob(2 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.body(blob(2 * MIB, seed=1).content), fault, kind="blob")

    answer = await ask(mirror, blob_path(pushed.digest))

    assert answer.status == 200
    assert (answer.header("Content-Length") is not None) is announced
    assert answer.ended is Ended.FIN
    assert len(answer.body) < 2 * MIB
    await mirror.settled()
    assert not mirror.stored(pushed.digest).exists()


@pytest.mark.parametrize("is_right", [True, False], ids=["right", "wrong"])
async def test_without_length_and_chunks_only_the_right_body_has_a_clean_end(
    mirror: Mirror, upstream: FakeRegistry, *, is_right: bool
) -> None:
    """To HTTP/1.0, which knows no chunks, a FIN is the end of the body, and must not be late."""
    pushed = blob(2 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    if not is_right:
        upstream.fail(faults.body(blob(2 * MIB, seed=1).content), faults.chunked(), kind="blob")
    else:
        upstream.fail(faults.chunked(), kind="blob")
    asked = compose(blob_path(pushed.digest), [("Connection", "keep-alive")])

    answer = await fetch(mirror.host, mirror.port, asked.replace(b"HTTP/1.1", b"HTTP/1.0", 1))

    assert (answer.status, answer.header("Content-Length")) == (200, None)
    assert answer.header("Connection") in {None, "close"}
    assert answer.ended is (Ended.FIN if is_right else Ended.RST)
    assert (answer.body == pushed.content) is is_right


async def test_trap_13_a_short_body_is_not_framed_as_complete(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    """Harbor c9e825a5e6: headers after the first write made a short body look whole."""
    pushed = blob(2 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    upstream.fail(faults.chunked(only_bytes=MIB), kind="blob")  # ended properly, but too early

    answer = await ask(mirror, blob_path(pushed.digest))

    assert answer.ended is Ended.FIN
    assert pushed.content.startswith(answer.body)
    assert len(answer.body) < MIB


async def test_a_bug_before_the_head_is_one_answer_without_its_traceback(
    mirror: Mirror,
    upstream: FakeRegistry,
    log_lines: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(self: Manifests, *_args: object) -> None:
        raise ZeroDivisionError("a private thing")

    monkeypatch.setattr(Manifests, "resolve", broken)

    answer = await ask(mirror, manifest_path("v1"), ("X-Request-Id", "me"))

    assert (answer.status, answer.ended) == (503, Ended.COMPLETE)
    assert json.loads(answer.body)["errors"] == [
        {"code": "UNKNOWN", "message": "internal error, request me"}
    ]
    [entry] = logged(log_lines, event="a request failed unexpectedly")
    assert entry["request_id"] == "me"
    assert "ZeroDivisionError" in str(entry["exception"])
    assert (await ask(mirror, "/v2/")).status == 200


@in_one_process
async def test_a_bug_in_a_body_ends_it_and_nothing_is_said_into_it(
    mirror: Mirror,
    upstream: FakeRegistry,
    log_lines: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pushed = blob(200_000)
    upstream.push_blob(REPOSITORY, pushed)
    await mirror.get(blob_path(pushed.digest))
    await mirror.settled()
    whole = StoredBody.parts

    async def broken(self: StoredBody, span: Span | None) -> AsyncGenerator[FilePart | bytes, None]:
        async for _part in whole(self, span):
            yield b"x" * 1000
            raise ZeroDivisionError

    monkeypatch.setattr(StoredBody, "parts", broken)

    answer = await ask(mirror, blob_path(pushed.digest))

    assert (answer.status, answer.ended, answer.body) == (200, Ended.FIN, b"x" * 1000)
    assert len(logged(log_lines, event="a body failed unexpectedly")) == 1
    line = await until_logged(log_lines, event="answer cut short")
    assert line["error"] == "internal error"


async def test_a_file_that_shrank_ends_the_body(
    mirror: Mirror, upstream: FakeRegistry, log_lines: io.StringIO
) -> None:
    pushed = blob(32 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    await mirror.get(blob_path(pushed.digest))
    await mirror.settled()
    async with await narrow(mirror) as client:
        await client.send(compose(blob_path(pushed.digest)))
        await client.read(1)  # it is open: one that is short already would be fetched again
        os.truncate(mirror.stored(pushed.digest), 16 * MIB)
        answer = await client.answer()

    assert answer.ended is Ended.FIN
    assert len(answer.body) <= 16 * MIB
    line = await until_logged(log_lines, event="answer cut short")
    assert line["error"] == "the cache disk: the file is shorter than it was"


# --- clients ---------------------------------------------------------------------------------


async def test_a_client_that_leaves_is_not_an_error(
    mirror: Mirror, upstream: FakeRegistry, log_lines: io.StringIO
) -> None:
    pushed = blob(16 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    await mirror.get(blob_path(pushed.digest))
    await mirror.settled()

    async def leave() -> None:
        async with await RawClient.connect(mirror.host, mirror.port) as client:
            await client.send(compose(blob_path(pushed.digest)))
            await client.read(8192)

    await gathered(5, leave)
    await until(lambda: len(logged(log_lines, event="client left")) == 5)

    assert not logged(log_lines, level="error")
    assert not logged(log_lines, level="warning")
    line = logged(log_lines, event="client left")[0]
    assert line["status"] == 200
    assert "error" not in line


async def test_a_client_that_does_not_wait_for_an_answer_is_noted(
    mirror: Mirror, upstream: FakeRegistry, log_lines: io.StringIO
) -> None:
    pushed = blob(16 * MIB)
    upstream.push_blob(REPOSITORY, pushed)
    gate = upstream.hold_head("blob", pushed.digest)

    async with await RawClient.connect(mirror.host, mirror.port) as client:
        await client.send(compose(blob_path(pushed.digest)))
        await gate.reached.wait()
    line = await until_logged(log_lines, event="client left")

    assert line["status"] == 499
    assert "error" not in line
    assert not logged(log_lines, level="error")
    gate.release()
    await mirror.settled()
    assert mirror.stored(pushed.digest).exists()


@pytest.mark.parametrize("what", ["manifest", "tags"])
async def test_a_client_that_does_not_wait_for_a_large_answer_is_noted(
    mirror: Mirror, upstream: FakeRegistry, log_lines: io.StringIO, what: str
) -> None:
    """A list is not waited for any more; the head of a manifest finds nobody there."""
    large = image(annotations={"x": "y" * 100_000})
    upstream.push(REPOSITORY, large, ["large"])
    gate = upstream.hold_head(what)
    path = manifest_path("large") if what == "manifest" else f"/v2/{REPOSITORY}/tags/list"

    async with await RawClient.connect(mirror.host, mirror.port) as client:
        await client.send(compose(path))
        await gate.reached.wait()
    await mirror.becomes("mirror_connections", 0, listener="registry")
    if what == "manifest":
        gate.release()
    line = await until_logged(log_lines, event="client left")

    assert line["status"] == 499
    assert not logged(log_lines, level="error")
    gate.release()


async def narrow(mirror: Mirror) -> RawClient:
    """Connect with next to no room for what has not been read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)  # noqa: FBT003 -- the socket's own signature
    await asyncio.get_running_loop().sock_connect(sock, (mirror.host, mirror.port))
    return RawClient(sock)


@pytest.mark.parametrize("what", ["blob", "manifest"])
async def test_a_client_that_takes_nothing_is_let_go(
    tmp_path: Path, upstream: FakeRegistry, log_lines: io.StringIO, what: str
) -> None:
    pushed = blob(16 * MIB)
    large = image(annotations={"x": "y" * (4 * MIB - 2000)})
    upstream.push_blob(REPOSITORY, pushed)
    upstream.push(REPOSITORY, large, ["large"])
    path = blob_path(pushed.digest) if what == "blob" else manifest_path("large")
    content = pushed.content if what == "blob" else large.content
    server = Server(
        listen=ANY_PORT,
        admin_listen=ANY_PORT,
        shutdown_grace_seconds=1,
        limits=Limits(send_stall_seconds=0.2),
    )
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, server=server) as mirror:
        assert (await mirror.get(path)).body == content
        await mirror.settled()
        async with await narrow(mirror) as client:
            await client.send(compose(path))
            line = await until_logged(log_lines, event="answer cut short")
            answer = await client.answer()
    assert answer.ended in {Ended.FIN, Ended.RST}
    assert content.startswith(answer.body)
    if what == "manifest":  # what Python had buffered is dropped, it does not wait for the client
        assert len(answer.body) < 3 * MIB
    assert line["error"] == "the client took nothing for too long"
    assert line["status"] == 200


# --- what is noted ---------------------------------------------------------------------------


async def test_the_line_of_a_request_has_its_facts_and_no_secret(
    mirror: Mirror, upstream: FakeRegistry, log_lines: io.StringIO
) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    secrets = [
        ("Authorization", "Bearer s3cr3t-token-of-mine"),
        ("Cookie", "session=s3cr3t"),
        ("User-Agent", "containerd/2.1"),
        ("X-Request-Id", "r1"),
    ]

    await ask(mirror, f"{manifest_path('v1')}?token=s3cr3t", *secrets)
    line = await until_logged(log_lines, request_id="r1")
    await ask(mirror, "/v2/%1b[31mx/tags/list?token=s3cr3t", ("X-Request-Id", "r2"))
    odd = await until_logged(log_lines, request_id="r2")

    assert {key: value for key, value in line.items() if key not in {"seconds", "timestamp"}} == {
        "event": "request",
        "level": "info",
        "request_id": "r1",
        "client": "127.0.0.1",
        "endpoint": upstream.url,
        "pulls": 0,
        "method": "GET",
        "status": 200,
        "kind": "manifest",
        "upstream": "docker.io",
        "repository": REPOSITORY,
        "reference": "v1",
        "result": "miss",
        "sent_bytes": IMAGE.size_bytes,
        "user_agent": "containerd/2.1",
    }
    assert isinstance(line["seconds"], float)
    assert odd["path"] == "/v2/%1b[31mx/tags/list"
    assert odd["result"] == "error"
    assert "s3cr3t" not in log_lines.getvalue()
    assert "\x1b" not in log_lines.getvalue()


async def test_each_request_is_counted_by_how_it_came_about(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    layer = IMAGE.layers[0]

    async def count(kind: str, result: str, status: int) -> float:
        labels = {"kind": kind, "result": result, "status": str(status)}
        return await mirror.total("mirror_requests_total", **labels)

    for path in (manifest_path("v1"), blob_path(layer.digest), f"/v2/{REPOSITORY}/tags/list"):
        for _ in range(2):
            await mirror.get(path)
            await mirror.settled()
    await mirror.get("/v2/")
    await mirror.get(manifest_path("nope"))
    await mirror.get(blob_path(layer.digest), {"Range": "bytes=0-9"})
    await mirror.get(blob_path(layer.digest), {"Range": "bytes=999999-"})
    await mirror.get("/v2/")  # by now the ones before are counted

    for kind in ("manifest", "blob", "tags"):
        assert await count(kind, "miss", 200) == 1, kind
        assert await count(kind, "hit", 200) == 1, kind
    assert await count("ping", "hit", 200) >= 1
    assert await count("manifest", "error", 404) == 1
    assert await count("blob", "hit", 206) == 1
    assert await count("blob", "error", 416) == 1
    sent = await mirror.total("mirror_client_bytes_total", upstream="docker.io", result="hit")
    assert sent >= IMAGE.size_bytes + layer.size_bytes + 10
    first = await mirror.total("mirror_first_byte_seconds_count", kind="blob", result="hit")
    assert first == await mirror.total("mirror_request_seconds_count", kind="blob", result="hit")


def test_every_result_has_a_word() -> None:
    said = {
        cache_status(Served(Result.HIT)): "mirror; hit",
        cache_status(Served(Result.HIT, 12.9)): "mirror; hit; ttl=12",
        cache_status(Served(Result.MISS, None, "uri-miss")): "mirror; fwd=uri-miss; stored",
        cache_status(Served(Result.MISS, None, "uri-miss", kept=False)): (
            "mirror; fwd=uri-miss; fwd-status=200"
        ),
        cache_status(Served(Result.JOINED, 600, "uri-miss")): "mirror; fwd=uri-miss; collapsed",
        cache_status(Served(Result.REVALIDATED, 600, "stale")): (
            "mirror; fwd=stale; fwd-status=200"
        ),
        cache_status(Served(Result.STALE, -5, "stale", "timeout")): (
            "mirror; hit; ttl=-5; detail=timeout"
        ),
    }

    assert all(value == wanted for value, wanted in said.items())


async def test_a_blob_is_closed_when_its_client_asks_for_too_much(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    pushed = blob(1000)
    upstream.push_blob(REPOSITORY, pushed)
    await mirror.get(blob_path(pushed.digest))
    await mirror.settled()

    assert (await mirror.get(blob_path(pushed.digest), {"Range": "bytes=5000-"})).status == 416
    assert await mirror.metric("mirror_fill_readers") == 0
