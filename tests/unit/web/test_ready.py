"""Answers that go out in one write, and what is remembered so that a hit costs little."""

import asyncio
import io
import json
from email.utils import parsedate_to_datetime
from itertools import product

import pytest

from mirror.domain.media import accepts
from mirror.domain.routing import Routes, Table
from mirror.web.ready import Ready
from tests.fakes.clients import RawClient, compose
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.harness import Mirror
from tests.unit.web.wire import REPOSITORY, ask, blob_path, lasting, manifest_path

IMAGE = image(1)


@pytest.fixture
async def hot(mirror: Mirror, upstream: FakeRegistry) -> Mirror:
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    await mirror.get(manifest_path("v1"))
    await mirror.pull_blobs(REPOSITORY, IMAGE)
    return mirror


MORE: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    (("Range", "bytes=3-9"),),
    (("If-None-Match", "*"),),
)


async def test_an_answer_is_the_same_as_by_aiohttp(hot: Mirror) -> None:
    paths = (manifest_path("v1"), blob_path(IMAGE.blobs[0].digest), "/v2/")
    for path, more, method in product(paths, MORE, ("GET", "HEAD")):
        ready = await ask(hot, path, *more, method=method)
        plain = await ask(hot, path, *more, ("Connection", "close"), method=method)
        assert (ready.status, ready.body) == (plain.status, plain.body)
        expected = [each for each in lasting(dict(plain.headers)) if each[0] != "connection"]
        assert sorted(lasting(dict(ready.headers))) == sorted(expected)
        assert parsedate_to_datetime(ready.header("Date") or "").tzinfo is not None


async def test_answers_to_requests_that_come_together_keep_their_order(hot: Mirror) -> None:
    paths = [manifest_path("v1"), blob_path(IMAGE.blobs[0].digest), "/v2/"] * 5
    async with await RawClient.connect(hot.host, hot.port) as client:
        await client.send(b"".join(compose(path, []) for path in paths))
        bodies = [(await client.answer()).body for _ in paths]
    assert bodies == [IMAGE.content, IMAGE.blobs[0].content, b"{}"] * 5


def test_a_header_that_would_end_its_line_is_refused() -> None:
    with pytest.raises(ValueError, match="control"):
        Ready(200, {"X-Note": "a\r\nSet-Cookie: b"}, b"")


async def test_a_small_blob_that_was_removed_is_not_served_from_memory(
    hot: Mirror, upstream: FakeRegistry
) -> None:
    config = IMAGE.blobs[0]
    assert (await hot.get(blob_path(config.digest))).cache_status.startswith("mirror; hit")
    url = f"{hot.admin_url}/api/v1/cache/images?ref={REPOSITORY}:v1"
    async with hot.session.delete(url, headers={"X-Mirror-CSRF": "1"}) as removed:
        assert removed.status == 200
    before = len(upstream.requests)
    again = await hot.get(blob_path(config.digest))
    assert not again.cache_status.startswith("mirror; hit")
    assert (again.body, len(upstream.requests) > before) == (config.content, True)


def test_routes_are_remembered_for_one_table_and_not_without_bound() -> None:
    table = Table({"docker.io": "docker.io", "ghcr.io": "ghcr.io"})
    routes = Routes()
    first = routes.of(table, "/v2/library/alpine/manifests/3", "", "mirror:5000")
    assert routes.of(table, "/v2/library/alpine/manifests/3", "", "mirror:5000") is first
    other = Table(table.names, default="ghcr.io")
    assert routes.of(other, "/v2/library/alpine/manifests/3", "", "mirror:5000") != first
    for number in range(10_000):
        routes.of(other, f"/v2/library/alpine/manifests/{number}", "", "")
    assert len(routes._known) <= 4096


def test_long_accept_lines_are_not_remembered() -> None:
    from mirror.domain import media  # noqa: PLC0415 -- its inside is looked at

    before = media._remembered.cache_info().currsize
    assert accepts(["text/plain, " * 500, "*/*"], "application/json")
    assert media._remembered.cache_info().currsize == before


async def test_requests_are_logged_in_full(hot: Mirror, log_lines: io.StringIO) -> None:
    agent = ("User-Agent", "x Authorization: Bearer canary-4711")
    await ask(hot, manifest_path("v1"), agent)
    for _ in range(3):
        await asyncio.sleep(0)  # lines are written once a turn of the loop
    line = json.loads(log_lines.getvalue().splitlines()[-1])
    assert (line["event"], line["level"], line["status"]) == ("request", "info", 200)
    assert (line["repository"], line["reference"]) == (REPOSITORY, "v1")
    assert line["timestamp"].endswith("Z")
    assert "canary-4711" not in line["user_agent"]
