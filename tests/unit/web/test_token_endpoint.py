"""What becomes of a form for the token endpoint that does not come as a form should."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.settings import Auth, Limits
from tests.fakes.clients import Ended, RawClient, compose
from tests.fakes.registry import FakeRegistry
from tests.harness import Mirror, mirror_of
from tests.unit.web.callers import htpasswd, server

CHUNKED = ("Transfer-Encoding", "chunked")


@pytest.fixture
async def guarded(tmp_path: Path, upstream: FakeRegistry) -> AsyncIterator[Mirror]:
    auth = Auth(htpasswd=htpasswd(tmp_path / "htpasswd", ann="a"))
    limits = Limits(head_seconds=0.1)
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, server=server(auth, limits=limits)
    ) as up:
        yield up


@pytest.mark.parametrize("body", [b"", b"grant_type=pass"], ids=["nothing", "a part"])
async def test_s13_a_form_has_a_deadline(
    guarded: Mirror, log_lines: io.StringIO, body: bytes
) -> None:
    """Nobody has shown a credential yet, so nobody may hold a connection by it."""
    async with await RawClient.connect(guarded.host, guarded.port) as client:
        await client.send(compose("/token", [("Content-Length", "50")], method="POST", body=body))
        dribbling = asyncio.create_task(_dribble(client))
        answer = await client.answer()
        dribbling.cancel()
        after = await client.answer()
    assert (answer.status, answer.header("Connection")) == (408, "close")
    assert json.loads(answer.body)["errors"][0]["code"] == "UNSUPPORTED"
    assert after.ended in {Ended.FIN, Ended.RST}
    assert "Traceback" not in log_lines.getvalue()


async def _dribble(client: RawClient) -> None:
    for _ in range(15):
        await asyncio.sleep(0.02)
        await client.send(b"x")


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (CHUNKED, b"no chunk\r\n\r\n"),
        (CHUNKED, b"3\r\nabc\r\nno chunk\r\n\r\n"),
        (("Content-Encoding", "gzip"), b"this is no gzip"),
    ],
    ids=["first chunk", "second chunk", "encoding"],
)
@pytest.mark.parametrize("is_late", [False, True], ids=["at once", "later"])
async def test_s11_a_form_that_cannot_be_read_is_the_fault_of_its_sender(
    guarded: Mirror, log_lines: io.StringIO, header: tuple[str, str], body: bytes, *, is_late: bool
) -> None:
    headers = [header] if header is CHUNKED else [header, ("Content-Length", str(len(body)))]
    head = compose("/token", headers, method="POST")
    async with await RawClient.connect(guarded.host, guarded.port) as client:
        if is_late:
            await client.send(head)
            await asyncio.sleep(0.02)
            await client.send(body)
        else:
            await client.send(head + body)
        answer = await client.answer()
        after = await client.answer()
    assert answer.status == 400
    assert after.status == 0, "a second answer to one request"
    assert after.ended in {Ended.FIN, Ended.RST}
    assert "Traceback" not in log_lines.getvalue()


async def test_a_client_that_leaves_in_its_form_is_no_error(
    guarded: Mirror, log_lines: io.StringIO
) -> None:
    async with await RawClient.connect(guarded.host, guarded.port) as client:
        await client.send(compose("/token", [("Content-Length", "50")], method="POST"))
    async with asyncio.timeout(5):
        while "client left" not in log_lines.getvalue():  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.001)
    [line] = [json.loads(each) for each in log_lines.getvalue().splitlines() if "/token" in each]
    assert (line["status"], line["level"]) == (499, "info")
    assert "Traceback" not in log_lines.getvalue()
