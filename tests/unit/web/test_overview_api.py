"""What the dashboard is told: totals, downloads, upstreams, and the stream of events."""

import asyncio
import json
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest
import yaml

from mirror.service import feed as feed_module
from mirror.service.feed import Feed
from mirror.service.refusals import RefusedError
from mirror.settings import Policy
from mirror.web import overview_api
from tests.fakes import faults
from tests.fakes.clock import FakeClock
from tests.fakes.content import artifact, blob, image
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, QUICK, Mirror, mirror_of
from tests.unit.web.wire import REPOSITORY, blob_path, manifest_path

ONE = image(1)
BIG = blob(3 * MIB)


async def ask(mirror: Mirror, path: str, status: int = 200) -> Any:  # noqa: ANN401 -- JSON
    async with mirror.session.get(f"{mirror.admin_url}/api/v1{path}") as response:
        content = json.loads(await response.read())
        assert response.status == status, content
        return content


async def events(mirror: Mirror, count: int) -> list[tuple[str, Any]]:
    """Return the events of so many overviews."""
    async with mirror.session.get(f"{mirror.admin_url}/api/v1/events?count={count}") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        return parsed((await response.read()).decode())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


def feed_tasks() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "feed"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have events once a millisecond."""
    monkeypatch.setattr(Feed, "interval_seconds", 0.001)


def parsed(text: str) -> list[tuple[str, Any]]:
    blocks = [block.split("\n") for block in text.split("\n\n") if block]
    return [(one.removeprefix("event: "), json.loads(two[6:])) for one, two in blocks]


# --- totals ----------------------------------------------------------------------------------


async def test_what_was_saved(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    empty = (await ask(mirror, "/overview"))["traffic"]
    assert (empty["byte_hit_ratio"], empty["hit_ratio"], empty["requests"]) == (None, None, 0)
    for _ in range(4):
        await mirror.get(manifest_path("v1"))
    await mirror.pull_blobs(REPOSITORY, ONE)
    traffic = (await ask(mirror, "/overview"))["traffic"]
    size, blobs = len(ONE.content), sum(each.size_bytes for each in ONE.blobs)
    assert traffic["sent_bytes"] == 4 * size + blobs
    assert traffic["received_bytes"] == size + blobs
    assert traffic["saved_bytes"] == 3 * size
    assert (traffic["pulls"], traffic["saved_pulls"]) == (4, 3)
    assert traffic["byte_hit_ratio"] == pytest.approx(3 * size / (4 * size + blobs))
    assert traffic["results"]["hit"] == 3
    assert traffic["hit_ratio"] == pytest.approx(3 / (4 + len(ONE.blobs)))
    (hub,) = (await ask(mirror, "/upstreams"))["upstreams"]
    assert (hub["upstream"], hub["state"]) == ("docker.io", "up")
    assert (hub["pulls"], hub["upstream_pulls"], hub["saved_pulls"]) == (4, 1, 3)
    assert hub["head_seconds"] > 0


async def test_the_last_hour_is_kept_by_the_minute(
    mirror: Mirror, upstream: FakeRegistry, clock: FakeClock
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    began = clock()
    for _ in range(3):
        clock.advance(60)
        await mirror.get(manifest_path("v1"))
    history = (await ask(mirror, "/overview"))["history"]
    assert [each["at"] - began for each in history] == [0, 60, 120, 180, 180]
    assert [each["requests"] for each in history] == [0, 0, 1, 2, 3]
    assert history[-1]["sent_bytes"] == 3 * len(ONE.content)
    clock.advance(7200)
    assert [each["requests"] for each in (await ask(mirror, "/overview"))["history"]] == [2, 3]


# --- downloads and upstreams -----------------------------------------------------------------


async def test_a_running_download_is_shown_with_its_readers(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push_blob(REPOSITORY, BIG)
    gate = upstream.hold_body(BIG.digest, after_bytes=2 * MIB)
    pulls = [asyncio.create_task(mirror.get(blob_path(BIG.digest))) for _ in range(2)]
    await gate.reached.wait()
    await mirror.becomes("mirror_fill_readers", 2)
    await until(lambda: mirror.up.fills.all()[0].size_bytes is not None)
    (fill,) = (await ask(mirror, "/fills"))["fills"]
    assert (fill["repository"], fill["digest"]) == (REPOSITORY, BIG.digest)
    assert (fill["size_bytes"], fill["readers"]) == (3 * MIB, 2)
    assert not fill["is_waiting"]
    ((_, overview),) = await events(mirror, 1)
    assert overview["fills"][0]["digest"] == BIG.digest
    gate.release()
    await asyncio.gather(*pulls)
    await mirror.settled()
    assert (await ask(mirror, "/fills"))["fills"] == []


async def test_an_upstream_in_trouble_says_so(mirror: Mirror, upstream: FakeRegistry) -> None:
    assert (await ask(mirror, "/upstreams"))["upstreams"][0]["state"] == "idle"
    upstream.fail(faults.no_answer())
    for number in range(3):
        await mirror.get(manifest_path(f"v{number}"))
    (hub,) = (await ask(mirror, "/upstreams"))["upstreams"]
    (endpoint,) = hub["endpoints"]
    assert (hub["state"], hub["answered_seconds"]) == ("down", None)
    assert (endpoint["is_open"], endpoint["failures"]) == (False, 3)
    assert endpoint["closed_seconds"] > 0
    assert hub["failed_requests"] == hub["requests"] >= 3


async def test_an_upstream_that_limits_is_left_alone(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.fail(faults.too_many_requests(30))
    await mirror.get(manifest_path("v1"))
    assert (await ask(mirror, "/upstreams"))["upstreams"][0]["state"] == "limited"


@pytest.mark.parametrize(("mode", "state"), [("offline", "offline"), ("deny", "denied")])
async def test_an_upstream_that_is_not_asked(
    tmp_path: Path,
    upstream: FakeRegistry,
    mode: Literal["offline", "deny"],
    state: str,
) -> None:
    policy = Policy(timeouts=QUICK, mode=mode)
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, policy=policy) as mirror:
        assert (await ask(mirror, "/upstreams"))["upstreams"][0]["state"] == state


# --- events ----------------------------------------------------------------------------------


async def test_events_tell_of_requests_since_the_last(
    quick: None, mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, ONE, ["v1"])
    await mirror.get(manifest_path("v1"))
    async with mirror.session.get(f"{mirror.admin_url}/api/v1/events?count=50") as response:
        await response.content.readuntil(b"\n\n")
        await mirror.get(manifest_path("nope"))
        told = parsed((await response.read()).decode())
    names = [name for name, _ in told]
    assert names.count("requests") == 1
    assert [each["reference"] for each in told[names.index("requests")][1]] == ["nope"]


async def test_a_listener_that_leaves_leaves_nothing(quick: None, mirror: Mirror) -> None:
    assert feed_tasks() == []
    url = f"{mirror.admin_url}/api/v1/events"
    async with aiohttp.ClientSession() as session:
        first, second = await session.get(url), await session.get(url)
        await first.content.readuntil(b"\n\n")
        await second.content.readuntil(b"\n\n")
        assert feed_tasks() == ["feed"]
        first.close()
        second.close()
    await until(lambda: not feed_tasks())


async def test_the_end_of_the_mirror_ends_the_streams(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    async with aiohttp.ClientSession() as session:
        async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
            response = await session.get(f"{mirror.admin_url}/api/v1/events")
            await response.content.readuntil(b"\n\n")
        parsed((await response.read()).decode())  # raises if it was cut short
        assert response.content.at_eof()


async def test_a_listener_that_takes_nothing_is_dropped(
    quick: None, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview_api, "_STALL_SECONDS", 0.05)
    monkeypatch.setattr(overview_api, "_events_of", lambda *_: b":" * MIB + b"\n\n")
    feeding = feed_tasks()
    reader, writer = await asyncio.open_connection(mirror.host, mirror.up.admin_listen.port)
    writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await until(lambda: len(feed_tasks()) > len(feeding))
    await until(lambda: feed_tasks() == feeding)
    async with asyncio.timeout(10):  # to who would still be served, there is no end
        with suppress(ConnectionError):
            while await reader.read(MIB):
                pass
    assert feed_tasks() == feeding
    writer.close()


async def test_one_listener_too_many_is_told_what_to_do(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "LISTENERS_MAX", 1)
    url = f"{mirror.admin_url}/api/v1/events"
    async with mirror.session.get(url) as response:
        await response.content.readuntil(b"\n\n")
        content = await ask(mirror, "/events", 503)
    assert content["error"]["code"] == "full"
    assert "/api/v1/overview" in content["error"]["hint"]


@pytest.mark.parametrize("count", ["0", "x", "10001", "-1"])
async def test_a_wrong_count_is_explained(mirror: Mirror, count: str) -> None:
    content = await ask(mirror, f"/events?count={count}", 400)
    assert "count" in content["error"]["message"]


async def test_listeners_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "LISTENERS_MAX", 1)
    feed = Feed(_something)
    with feed.listening():
        with pytest.raises(RefusedError), feed.listening():
            pass
        assert feed.listeners == 1
    feed.close()
    with pytest.raises(RefusedError), feed.listening():
        pass


async def test_a_slow_listener_gets_the_latest_and_a_failure_is_got_over(quick: None) -> None:
    made = 0

    async def make() -> bytes:
        nonlocal made
        made += 1
        if made == 2:
            raise ValueError("once")
        return f"{made}".encode()

    feed = Feed(make)
    with feed.listening():
        first = await feed.after(0)
        assert first == (1, b"1")
        await until(lambda: made >= 10)
        late = await feed.after(1)
        assert late is not None
        assert int(late[1]) >= 9
    seen = made
    await asyncio.sleep(0.01)
    assert made == seen, "nobody listens"
    with feed.listening():
        again = await feed.after(0)
        assert again is not None
        assert int(again[1]) > seen, "what it was before is no news"
        feed.close()
        assert await feed.after(again[0]) is None


async def _something() -> bytes:
    return b"something"


# --- clients ---------------------------------------------------------------------------------


async def test_files_for_clients_can_be_read_by_them(mirror: Mirror) -> None:
    content = await ask(mirror, "/clients?address=mirror.example:5000")
    clients = {each["name"]: each for each in content["clients"]}
    hosts = tomllib.loads(clients["containerd"]["files"][0]["content"])
    assert hosts["server"] == "https://registry-1.docker.io"
    assert hosts["host"]["http://mirror.example:5000"]["capabilities"] == ["pull", "resolve"]
    docker = json.loads(clients["docker"]["files"][0]["content"])
    assert docker == {
        "registry-mirrors": ["http://mirror.example:5000"],
        "insecure-registries": ["mirror.example:5000"],
    }
    podman = tomllib.loads(clients["podman"]["files"][0]["content"])["registry"]
    assert podman[0]["mirror"] == [{"location": "mirror.example:5000/docker.io", "insecure": True}]
    k3s = yaml.safe_load(clients["k3s"]["files"][0]["content"])
    assert k3s["mirrors"]["docker.io"]["endpoint"] == ["http://mirror.example:5000"]
    talos = yaml.safe_load(clients["talos"]["files"][0]["content"])
    assert "docker.io" in talos["machine"]["registries"]["mirrors"]
    buildkit = tomllib.loads(clients["buildkit"]["files"][0]["content"])["registry"]
    assert buildkit["docker.io"]["mirrors"] == ["mirror.example:5000"]
    assert buildkit["mirror.example:5000"] == {"http": True}


async def test_with_a_certificate_nothing_is_called_insecure(mirror: Mirror) -> None:
    content = await ask(mirror, "/clients?address=mirror.example&https=1")
    text = json.dumps(content["clients"])
    assert "https://mirror.example" in text
    assert "insecure" not in text
    assert "http://" not in text


@pytest.mark.parametrize("address", ["", "a b:1", 'x"]\nserver="y', "x/y:1", "a:123456", "-a"])
async def test_an_address_is_one(mirror: Mirror, address: str) -> None:
    async with mirror.session.get(
        f"{mirror.admin_url}/api/v1/clients", params={"address": address}
    ) as response:
        assert response.status == 400


# --- one image -------------------------------------------------------------------------------


async def test_what_refers_to_an_image_and_what_it_shares(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    signature = artifact(ONE, artifact_type="application/vnd.example.signature")
    upstream.push(REPOSITORY, ONE, ["v1"])
    upstream.push(REPOSITORY, signature, [])
    await mirror.get(manifest_path("v1"))
    assert (await ask(mirror, "/cache/referrers?ref=alpine:v1"))["referrers"] == []
    await mirror.get(f"/v2/{REPOSITORY}/referrers/{ONE.digest}")
    (referrer,) = (await ask(mirror, "/cache/referrers?ref=alpine:v1"))["referrers"]
    assert referrer["digest"] == signature.digest
    assert referrer["artifact_type"] == "application/vnd.example.signature"
    assert not referrer["stored"]
    parts = (await ask(mirror, "/cache/image?ref=alpine:v1"))["parts"]
    assert {each["manifests"] for each in parts} == {1}
    upstream.push("team/app", image(1, layers=3), ["v1"])  # has the same layers, and one more
    await mirror.get(manifest_path("v1", "team/app"))
    parts = (await ask(mirror, "/cache/image?ref=alpine:v1"))["parts"]
    assert [each["manifests"] for each in parts] == [1, 2, 2]


async def test_a_cosign_signature_is_found_by_its_tag(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    tag = ONE.digest.replace(":", "-") + ".sig"
    upstream.push(REPOSITORY, ONE, ["v1"])
    upstream.push(REPOSITORY, image(4), [tag])
    await mirror.get(manifest_path("v1"))
    await mirror.get(manifest_path(tag))
    (referrer,) = (await ask(mirror, "/cache/referrers?ref=alpine:v1"))["referrers"]
    assert (referrer["tag"], referrer["artifact_type"]) == (tag, "cosign signature")
    assert referrer["stored"]
