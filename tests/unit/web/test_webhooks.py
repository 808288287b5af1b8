"""Webhooks: a real receiver is told what happens, in order, signed; and no pull waits for it."""

import asyncio
import hashlib
import hmac
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mirror.domain.events import EventKind
from mirror.observe.metrics import Metrics
from mirror.runtime.pools import Pools
from mirror.settings import Webhook
from mirror.settings.units import SizeOrShare
from mirror.web.webhooks import ATTEMPTS_MAX, QUEUE_MAX, Webhooks
from tests.fakes import answers, faults
from tests.fakes.content import image
from tests.fakes.origin import Origin
from tests.fakes.registry import FakeRegistry
from tests.fakes.wire import Recorded
from tests.harness import MIB, mirror_of
from tests.unit.web.wire import REPOSITORY, blob_path, manifest_path

ROOT = Path(__file__).parents[3]
ONE = image(1, layers=1)


class Receiver(Origin):
    """Keeps what it is told."""

    def answer(self, request: Recorded) -> answers.Answer:
        return answers.text(204, "")

    async def told(self, count: int) -> list[dict[str, Any]]:
        """Wait for so many events; returns them in their order."""
        await self.until(lambda: len(self.requests) >= count)
        await self.quiet()
        return [json.loads(each.body) for each in self.requests]

    def hook(self, *kinds: EventKind, secret: Path | None = None) -> Webhook:
        return Webhook(url=f"{self.url}/told", events=kinds, secret_file=secret)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as origin:
        yield origin


@asynccontextmanager
async def webhooks(*hooks: Webhook) -> AsyncIterator[tuple[Webhooks, Metrics]]:
    metrics, pools = Metrics(CollectorRegistry()), Pools()
    sender = Webhooks(metrics, pools, base_seconds=0.001, jitter=lambda: 0)
    sender.follow(hooks)
    try:
        yield sender, metrics
    finally:
        await sender.close()
        pools.close()


def counted(metrics: Metrics, outcome: str) -> float:
    name = "mirror_webhook_events_total"
    return metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0


def documented() -> dict[str, dict[str, Any]]:
    """Return the examples of the documentation by type."""
    blocks = re.findall(r"```json\n(.*?)```", (ROOT / "docs/webhooks.md").read_text(), re.DOTALL)
    return {example["type"]: example for example in map(json.loads, blocks)}


def like_documented(event: dict[str, Any]) -> None:
    example = documented()[event["type"]]
    assert event["data"].keys() == example["data"].keys()
    assert {name: type(value) for name, value in event["data"].items()} == {
        name: type(value) for name, value in example["data"].items()
    }
    assert event["subject"].partition(":")[0] == example["subject"].partition(":")[0]


def test_every_event_is_documented() -> None:
    assert documented().keys() == {f"mirror.{kind}" for kind in EventKind}


async def test_a_pull_is_told_as_the_documentation_says(
    tmp_path: Path, upstream: FakeRegistry, receiver: Receiver
) -> None:
    key = tmp_path / "key"
    key.write_text("hunter2\n")
    upstream.push(REPOSITORY, ONE, ["v1"])
    hooks = (receiver.hook(EventKind.CACHED, secret=key),)
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, webhooks=hooks) as mirror:
        await mirror.get(manifest_path("v1"))
        await mirror.pull_blobs(REPOSITORY, ONE)
        await mirror.get(blob_path(ONE.layers[0].digest))
        told = await receiver.told(3)
    assert {each["subject"] for each in told} == {ONE.digest, *(each.digest for each in ONE.blobs)}
    example = documented()["mirror.object.cached"]
    for request, event in zip(receiver.requests, told, strict=True):
        assert event.keys() == example.keys()
        like_documented(event)
        assert request.header("content-type") == "application/cloudevents+json; charset=utf-8"
        expected = hmac.new(b"hunter2", request.body, hashlib.sha256).hexdigest()
        assert request.header("x-mirror-signature-256") == f"sha256={expected}"
    assert len({each["id"] for each in told}) == 3
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told[0]["time"])


async def test_trouble_is_told(tmp_path: Path, upstream: FakeRegistry, receiver: Receiver) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    upstream.options.manifest_headers = {
        "ratelimit-limit": "100;w=21600",
        "ratelimit-remaining": "19;w=21600",
    }
    kinds = set(EventKind) - {EventKind.CACHED}
    hooks = (receiver.hook(*kinds),)
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, webhooks=hooks) as mirror:
        await mirror.get(manifest_path("v1"))
        await mirror.head(manifest_path("v1", "team/none"))
        assert [each["type"] for each in await receiver.told(1)] == ["mirror.ratelimit.low"]
        digest = ONE.layers[0].digest
        upstream.fail(faults.flip(), reference=digest, times=1)
        await mirror.get(blob_path(digest))
        await receiver.told(2)
        rule = upstream.fail(faults.no_answer())
        for number in range(6):
            await mirror.get(manifest_path(f"none{number}"))
        told = await receiver.told(3)
        upstream.heal()
        assert rule.hits
    assert [each["type"] for each in told] == [
        *("mirror.ratelimit.low", "mirror.digest.mismatch", "mirror.upstream.down")
    ]
    for event in told:
        like_documented(event)


async def test_an_eviction_is_told(
    tmp_path: Path, upstream: FakeRegistry, receiver: Receiver
) -> None:
    small = {"max_size": SizeOrShare(size_bytes=2 * MIB)}
    hooks = (receiver.hook(EventKind.EVICTED),)
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, webhooks=hooks, cache=small
    ) as mirror:
        for number in (1, 2):
            each = image(number, layers=1, layer_bytes=MIB)
            upstream.push(REPOSITORY, each, [f"v{number}"])
            await mirror.get(manifest_path(f"v{number}"))
            await mirror.pull_blobs(REPOSITORY, each)
        event = (await receiver.told(1))[0]
    like_documented(event)
    assert event["type"] == "mirror.object.evicted"


async def test_it_is_tried_again_until_it_is_accepted(receiver: Receiver) -> None:
    receiver.fail(faults.status(503), times=2)
    receiver.fail(faults.no_answer(), times=1, skip=0)
    async with webhooks(receiver.hook()) as (sender, metrics):
        metrics.events.tell(EventKind.UP, "docker.io", endpoint="x")
        metrics.events.tell(EventKind.DOWN, "docker.io", endpoint="x", reason="y")
        told = await receiver.told(5)
        types = [each["type"].rpartition(".")[2] for each in told]
        assert types == ["up", "up", "up", "up", "down"]
        assert len({each["id"] for each in told[:4]}) == 1
        await sender.idle()
    assert (counted(metrics, "delivered"), counted(metrics, "failed")) == (2, 0)


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (302, 1), (500, ATTEMPTS_MAX)])
async def test_what_is_not_accepted_is_given_up(
    receiver: Receiver, status: int, tries: int
) -> None:
    receiver.fail(faults.status(status), times=tries)
    async with webhooks(receiver.hook()) as (sender, metrics):
        metrics.events.tell(EventKind.UP, "docker.io", endpoint="x")
        metrics.events.tell(EventKind.UP, "docker.io", endpoint="y")
        await sender.idle()
    assert len(receiver.requests) == tries + 1
    assert (counted(metrics, "delivered"), counted(metrics, "failed")) == (1, 1)


async def test_nothing_waits_for_a_receiver_that_hangs(receiver: Receiver) -> None:
    gate = receiver.hold_head()
    async with webhooks(receiver.hook()) as (_, metrics):
        metrics.events.tell(EventKind.UP, "first", endpoint="x")
        await gate.arrivals()
        for number in range(QUEUE_MAX + 5):
            metrics.events.tell(EventKind.UP, str(number), endpoint="x")
        assert counted(metrics, "dropped") == 5
        gate.release()
        told = await receiver.told(2)
    assert [each["subject"] for each in told[:2]] == ["first", "5"], "the oldest were dropped"


async def test_a_reload_is_followed_and_a_lost_key_is_no_way_around_it(
    receiver: Receiver, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("")
    signed = receiver.hook(EventKind.DOWN, secret=key)
    async with webhooks(signed) as (sender, metrics):
        metrics.events.tell(EventKind.UP, "not wanted", endpoint="x")
        metrics.events.tell(EventKind.DOWN, "unsigned", endpoint="x", reason="y")
        await sender.idle()
        assert counted(metrics, "failed") == 1
        assert receiver.requests == []
        sender.follow([receiver.hook()])
        metrics.events.tell(EventKind.UP, "docker.io", endpoint="x")
        await receiver.told(1)
        sender.follow([])
        metrics.events.tell(EventKind.UP, "docker.io", endpoint="x")
    assert len(receiver.requests) == 1


async def test_an_answer_that_is_no_http_does_not_bring_the_address_to_the_log(
    log_lines: io.StringIO,
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example ESMTP\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        hook = Webhook(url=f"http://127.0.0.1:{port}/services/hunter2", events=())
        async with webhooks(hook) as (sender, metrics):
            metrics.events.tell(EventKind.CACHED, "sha256:" + "0" * 64)
            await sender.idle()
            assert counted(metrics, "failed") == 1
    assert "a webhook was not delivered" in log_lines.getvalue()
    assert "hunter2" not in log_lines.getvalue()
