"""Budgets, explanations, past requests and refreshes, asked of a running mirror."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mirror.settings import Policy, Upstream
from mirror.settings.policy import TagRule
from mirror.settings.upstreams import Credential
from tests.fakes import faults
from tests.fakes.clock import FakeClock
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.harness import QUICK, Mirror, mirror_of
from tests.unit.web.wire import REPOSITORY, manifest_path

ONE, TWO = image(1), image(2)
ALPINE = "docker.io/library/alpine"
CSRF = {"X-Mirror-CSRF": "1"}
LIMITED = {
    "ratelimit-limit": "100;w=21600",
    "ratelimit-remaining": "90;w=21600",
    "docker-ratelimit-source": "203.0.113.7",
}


@pytest.fixture
async def mirror(tmp_path: Path, upstream: FakeRegistry, clock: FakeClock) -> AsyncIterator[Mirror]:
    upstream.push(REPOSITORY, ONE, ["v1"])
    rules = (TagRule(match="**:release-*", immutable=True),)
    hub = Upstream(
        endpoints=(upstream.url,),
        credentials=(Credential(name="ci", repositories=("team/**",), token="t"),),
    )
    async with mirror_of(
        tmp_path / "cache",
        {"docker.io": hub},
        clock=clock,
        policy=Policy(timeouts=QUICK, tag_rules=rules),
    ) as up:
        yield up


async def ask(
    mirror: Mirror, path: str, body: object = None, method: str = "GET"
) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body)
    url = f"{mirror.admin_url}/api/v1{path}"
    async with mirror.session.request(method, url, headers=CSRF, data=data) as response:
        return response.status, json.loads(await response.read())


async def explained(mirror: Mirror, reference: str) -> Any:  # noqa: ANN401 -- JSON
    status, content = await ask(mirror, f"/explain?ref={reference}")
    assert status == 200, content
    return content


async def test_budgets_are_told_with_a_forecast(
    mirror: Mirror, upstream: FakeRegistry, clock: FakeClock
) -> None:
    assert [each["limit"] for each in (await ask(mirror, "/ratelimit"))[1]["rates"]] == [None, None]
    upstream.options.manifest_headers = dict(LIMITED)
    await mirror.get(manifest_path("v1"))
    clock.advance(1200)
    upstream.options.manifest_headers["ratelimit-remaining"] = "10;w=21600"
    upstream.push(REPOSITORY, TWO, ["v2"])
    await mirror.get(manifest_path("v2"))
    status, content = await ask(mirror, "/ratelimit")
    assert status == 200
    first, second = content["rates"]
    assert first == {
        "upstream": "docker.io",
        "account": "anonymous",
        "limit": 100,
        "remaining": 10,
        "window_seconds": 21600,
        "source": "203.0.113.7",
        "observed_at": clock(),
        "empty_in_seconds": 150.0,
        "is_low": True,
        "pause_seconds": 0.0,
    }
    assert (second["account"], second["limit"]) == ("ci", None)
    labels = {"upstream": "docker.io", "account": "anonymous"}
    assert await mirror.metric("mirror_upstream_ratelimit_remaining", **labels) == 10
    assert await mirror.metric("mirror_upstream_ratelimit_empty_in_seconds", **labels) == 150


async def test_each_account_has_a_budget_and_pauses_of_its_own(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.fail(faults.too_many_requests(77), repository="team/app")
    await mirror.get(manifest_path("v1", "team/app"))
    assert (await mirror.get(manifest_path("v1"))).status == 200
    rates = {each["account"]: each for each in (await ask(mirror, "/ratelimit"))[1]["rates"]}
    assert rates["ci"]["pause_seconds"] == 77
    assert rates["anonymous"]["pause_seconds"] == 0


async def test_what_the_next_pull_would_do_is_what_it_does(
    mirror: Mirror, upstream: FakeRegistry, clock: FakeClock
) -> None:
    about = await explained(mirror, "alpine:v1")
    assert (about["image"], about["here"], about["digest"]) == (f"{ALPINE}:v1", "nothing", None)
    assert about["action"] == "ask, for up to `timeouts.response`"
    await mirror.get(manifest_path("v1"))
    await mirror.pull_blobs(REPOSITORY, ONE)
    clock.advance(100)
    about = await explained(mirror, "alpine:v1")
    assert (about["action"], about["here"], about["age"]) == ("serve it", "all of it", "fresh")
    assert (about["age_seconds"], about["fresh_seconds"], about["ttl_seconds"]) == (100, 600, 500)
    assert (about["believed_by"], about["digest"]) == ("policy.tag_ttl", ONE.digest)
    clock.advance(501)
    assert "timeouts.revalidate" in (await explained(mirror, "alpine:v1"))["action"]
    upstream.fail(faults.too_many_requests(60))
    await mirror.get(manifest_path("v1"))
    about = await explained(mirror, "alpine:v1")
    assert about["action"] == "serve it, marked stale"
    assert "limits the rate" in about["trouble"]
    requests = len(upstream.requests)
    await explained(mirror, "alpine:v1")
    assert len(upstream.requests) == requests, "to explain costs nothing"


async def test_an_explanation_names_the_rule(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.push(REPOSITORY, ONE, ["release-1"])
    await mirror.get(manifest_path("release-1"))
    about = await explained(mirror, "alpine:release-1")
    assert about["believed_by"] == "policy.tag_rules **:release-*"
    assert about["fresh_seconds"] is None
    assert (await explained(mirror, f"alpine@{ONE.digest}"))["believed_by"] == "digest"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/explain?ref=Alpine:v1", 400, "invalid_reference"),
        ("/explain?ref=no.such.host/app:v1", 400, "invalid_reference"),
        ("/explain", 400, "invalid_request"),
        ("/requests?limit=0", 400, "invalid_request"),
        ("/requests?limit=1001", 400, "invalid_request"),
        ("/requests?limit=x", 400, "invalid_request"),
        ("/cache/image?ref=alpine:nope", 404, "not_found"),
    ],
)
async def test_wrong_input_is_explained(mirror: Mirror, path: str, status: int, code: str) -> None:
    got, content = await ask(mirror, path)
    assert (got, content["error"]["code"]) == (status, code)


async def test_the_last_requests_are_told(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.push("team/app", TWO, ["v1"])
    await mirror.get(manifest_path("v1"), {"X-Request-Id": "first"})
    await mirror.get(manifest_path("v1", "team/app"))
    await mirror.get(manifest_path("nope"))
    _, content = await ask(mirror, f"/requests?repository={ALPINE}")
    last, first = content["requests"]
    assert (first["request_id"], first["status"], first["result"]) == ("first", 200, "miss")
    assert (first["sent_bytes"], first["reference"]) == (len(ONE.content), "v1")
    assert 0 < first["waited_seconds"] <= first["seconds"]
    assert (last["status"], last["result"]) == (404, "error")
    assert "manifest unknown" in last["error"]
    assert len((await ask(mirror, "/requests?limit=1"))[1]["requests"]) == 1


async def test_a_past_request_says_who_was_asked_and_what_it_cost(
    mirror: Mirror, upstream: FakeRegistry, clock: FakeClock
) -> None:
    upstream.options.manifest_headers = dict(LIMITED)
    blob = f"/v2/{REPOSITORY}/blobs/{ONE.blobs[0].digest}"
    for path in (manifest_path("v1"), manifest_path("v1"), blob):
        await mirror.get(path)
    clock.advance(700)
    await mirror.get(manifest_path("v1"))  # a HEAD, which is free
    upstream.fail(faults.status(503))
    await mirror.get(manifest_path("nope"))
    requests = (await ask(mirror, "/requests"))[1]["requests"]
    told = [(each["result"], each["endpoint"], each["pulls"]) for each in reversed(requests)]
    assert told == [
        ("miss", upstream.url, 1),
        ("hit", "", 0),
        ("miss", upstream.url, 0),
        ("revalidated", upstream.url, 0),
        ("error", upstream.url, 0),
    ]


async def test_who_joins_has_cost_nothing(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.options.manifest_headers = dict(LIMITED)
    await asyncio.gather(*(mirror.get(manifest_path("v1")) for _ in range(5)))
    requests = (await ask(mirror, "/requests"))[1]["requests"]
    assert sorted(each["pulls"] for each in requests) == [0, 0, 0, 0, 1]


async def test_hits_are_counted_by_tag_and_by_digest(mirror: Mirror) -> None:
    for reference in ("v1", "v1", ONE.digest, "nope"):
        await mirror.get(manifest_path(reference))
    _, content = await ask(mirror, "/cache/images")
    assert [each["hits"] for each in content["images"]] == [3]
    _, shown = await ask(mirror, f"/cache/image?ref=alpine@{ONE.digest}")
    assert (shown["image"]["hits"], shown["tags"]) == (1, ["v1"])


async def test_a_refresh_asks_whatever_the_age(mirror: Mirror, upstream: FakeRegistry) -> None:
    wish = {"image": "alpine:v1"}
    _, first = await ask(mirror, "/cache/refresh", wish, "POST")
    assert first == {
        "image": f"{ALPINE}:v1",
        "before": None,
        "now": ONE.digest,
        "moved": False,
    }
    upstream.push(REPOSITORY, TWO, ["v1"])
    assert (await mirror.get(manifest_path("v1"))).body == ONE.content
    _, second = await ask(mirror, "/cache/refresh", wish, "POST")
    assert (second["before"], second["now"], second["moved"]) == (ONE.digest, TWO.digest, True)
    assert (await mirror.get(manifest_path("v1"))).body == TWO.content
    status, content = await ask(mirror, "/cache/refresh", {"image": "alpine:nope"}, "POST")
    assert (status, content["error"]["code"]) == (404, "manifest_unknown")
    upstream.fail(faults.status(503))
    status, content = await ask(mirror, "/cache/refresh", wish, "POST")
    assert (status, content["error"]["code"]) == (502, "unknown")


async def test_an_image_is_shown_with_what_its_tag_meant(
    mirror: Mirror, upstream: FakeRegistry, clock: FakeClock
) -> None:
    await mirror.get(manifest_path("v1"))
    began = clock()
    clock.advance(700)
    upstream.push(REPOSITORY, TWO, ["v1"])
    await mirror.get(manifest_path("v1"))
    _, shown = await ask(mirror, "/cache/image?ref=alpine:v1")
    assert shown["image"]["digest"] == TWO.digest
    assert shown["history"] == [
        {"digest": TWO.digest, "since": clock()},
        {"digest": ONE.digest, "since": began},
    ]
    assert {each["digest"] for each in shown["parts"]} == {each.digest for each in TWO.blobs}
    assert not any(each["stored"] for each in shown["parts"])
    status, by_digest = await ask(mirror, f"/cache/image?ref=alpine@{ONE.digest}")
    assert (status, by_digest["history"], by_digest["confirmed_at"]) == (200, [], None)


async def test_a_tag_can_be_held_at_a_digest(
    mirror: Mirror, upstream: FakeRegistry, clock: FakeClock
) -> None:
    """To roll back what upstream has done wrong, with one call."""
    await mirror.get(manifest_path("v1"))
    upstream.push(REPOSITORY, TWO, ["v1"])
    clock.advance(700)
    assert (await mirror.get(manifest_path("v1"))).body == TWO.content
    name = f"alpine:v1@{ONE.digest}"
    _, pin = await ask(mirror, "/cache/pins", {"image": name}, "POST")
    assert (pin["image"], pin["digest"], pin["held"]) == (f"{ALPINE}:v1", ONE.digest, True)
    clock.advance(700)
    held = await mirror.get(manifest_path("v1"))
    assert (held.body, held.headers["Docker-Content-Digest"]) == (ONE.content, ONE.digest)
    about = await explained(mirror, "alpine:v1")
    assert (about["is_held"], about["believed_by"], about["digest"]) == (True, "pin", ONE.digest)
    status, content = await ask(mirror, "/cache/refresh", {"image": "alpine:v1"}, "POST")
    assert (status, "unpin" in content["error"]["hint"]) == (400, True)
    assert (await ask(mirror, "/cache/pins?image=alpine:v1", method="DELETE"))[0] == 200
    assert (await mirror.get(manifest_path("v1"))).body == TWO.content
