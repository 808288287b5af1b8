"""Clients that would break out of a line, a number or a share (S11, S16, S19)."""

import asyncio
import io
import json

import pytest

from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.harness import Mirror
from tests.unit.web.wire import REPOSITORY, ask

IMAGE = image()


@pytest.mark.parametrize("number", ["-1", "1e9", "9" * 5000, "10001", "0x10", "%31", "", "1&n=2"])
async def test_s11_a_number_is_a_number(
    mirror: Mirror, upstream: FakeRegistry, number: str
) -> None:
    """CVE-2017-11468, CVE-2023-2253: a client could say how much memory is taken."""
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    answer = await ask(mirror, f"/v2/{REPOSITORY}/tags/list?n={number}")
    assert answer.status in {200, 400}
    if answer.status == 400:
        assert json.loads(answer.body)["errors"][0]["code"] == "UNSUPPORTED"
    else:
        assert len(answer.body) < 1000
    for request in upstream.requests:
        assert request.parameter("n") in {None, "10000", "1", "2"}


async def test_s16_what_is_not_there_is_asked_for_once(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    """So that clients cannot spend the pull limit of others on names that they make up."""
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    for _ in range(20):
        assert (await mirror.get(f"/v2/{REPOSITORY}/manifests/none")).status == 404
    assert len(upstream.requests) == 1


async def test_s19_a_request_writes_one_line_and_no_commands(
    mirror: Mirror, log_lines: io.StringIO
) -> None:
    hostile = "/v2/%0a{%22event%22:%22forged%22}%1b[2J\x1b[31m/manifests/x?token=hunter2"
    await ask(mirror, hostile, ("User-Agent", "a\x1b[2Jb"), ("X-Request-Id", "c\x1b[2Jd"))
    async with asyncio.timeout(5):
        while '"path"' not in log_lines.getvalue():  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0)
    written = log_lines.getvalue()
    assert all(ord(letter) >= 32 or letter == "\n" for letter in written)
    entries = [json.loads(line) for line in written.splitlines()]
    assert [entry["event"] for entry in entries].count("forged") == 0
    assert "hunter2" not in written
