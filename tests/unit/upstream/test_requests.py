"""What every request to an upstream says, and what is read from every answer."""

from pathlib import Path

import pytest

from mirror.domain.media import ACCEPT_MANIFESTS
from mirror.settings import Upstream
from mirror.upstream.transport import USER_AGENT
from tests.fakes import faults
from tests.fakes.cdn import FakeCdn
from tests.fakes.content import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    image,
)
from tests.fakes.profiles import hub
from tests.fakes.registry import FakeRegistry
from tests.harness import Mirror
from tests.unit.upstream.pulling import (
    PASSWORD,
    REPOSITORY,
    USER,
    account,
    blob,
    manifest,
    mirrored,
    objects,
    pull,
)

IMAGE = image()
LIMIT, REMAINING = "mirror_upstream_ratelimit_limit", "mirror_upstream_ratelimit_remaining"


@pytest.fixture(autouse=True)
def _content(upstream: FakeRegistry) -> None:
    upstream.push(REPOSITORY, IMAGE, tags=["v1"])


async def test_upstream_hears_the_mirror_and_not_the_client(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    """The client's words are its own; what is cached must not depend on them."""
    client = {
        "Accept": OCI_MANIFEST,
        "Accept-Encoding": "zstd, gzip",
        "Authorization": "Bearer canary",
        "Cookie": "canary=1",
        "User-Agent": "canary/1",
        "X-Forwarded-For": "canary",
        "If-None-Match": '"canary"',
    }
    assert (await mirror.get(manifest(), client)).status == 200
    assert (await mirror.get(blob(IMAGE.layers[0].digest), client)).status == 200
    assert (await mirror.head(blob(IMAGE.config.digest), client)).status == 200
    assert (await mirror.get(f"/v2/{REPOSITORY}/tags/list", client)).status == 200

    assert upstream.count() >= 5
    for request in upstream.requests:
        assert request.header_lines("User-Agent") == [USER_AGENT]
        assert request.header_lines("Accept-Encoding") == ["identity"]
        assert request.header_lines("Accept") == [
            ACCEPT_MANIFESTS if request.kind == "manifest" else "*/*"
        ]
        assert not any("canary" in value for _, value in request.headers)


def test_all_types_of_manifests_are_accepted() -> None:
    for media_type in (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST):
        assert media_type in ACCEPT_MANIFESTS


async def test_encoded_content_is_refused(mirror: Mirror, upstream: FakeRegistry) -> None:
    """Its digest would be another one (quay/quay#1310)."""
    rule = upstream.fail(faults.gzip(), method="GET")
    layer = blob(IMAGE.layers[0].digest)
    answers = [await mirror.get(path) for path in (manifest(), manifest(IMAGE.digest), layer)]
    stored = objects(mirror)
    rule.cancel()

    assert [(got.status, got.error_code) for got in answers] == [(502, "UNKNOWN")] * 3
    assert stored == []
    await pull(mirror, IMAGE)


async def test_the_length_of_encoded_content_is_no_size(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.fail(faults.gzip(), method="HEAD")
    layer = IMAGE.layers[0]
    head = await mirror.head(blob(layer.digest))
    assert head.headers["Content-Length"] == str(layer.size_bytes)


# --- rate limits ---------------------------------------------------------------------------


async def test_the_budget_of_the_hub_is_a_metric(tmp_path: Path) -> None:
    async with hub() as site:
        site.registry.push(REPOSITORY, IMAGE, tags=["v1"])
        site.tokens.users[USER] = PASSWORD  # type: ignore[union-attr]  # the hub has tokens
        upstream = Upstream(endpoints=(site.url,), realms=("127.0.0.1",))
        known = upstream.model_copy(update={"credentials": (account(name="ci"),)})
        labels = {"upstream": "docker.io", "account": "anonymous"}
        async with mirrored(tmp_path / "a", upstream) as mirror:
            got = await pull(mirror, IMAGE)
            assert await mirror.metric(LIMIT, **labels) == 100
            assert await mirror.metric(REMAINING, **labels) == 99
            assert not [name for name in got.headers if "ratelimit" in name.lower()]
            site.budget.exhaust()  # type: ignore[union-attr]  # the hub has a budget
            limited = await mirror.get(manifest("sha256:" + "0" * 64))
            assert await mirror.metric(REMAINING, **labels) == 0
        async with mirrored(tmp_path / "b", known) as mirror:
            await mirror.get(manifest())
            labels["account"] = "ci"
            assert await mirror.metric(LIMIT, **labels) == 100

    assert (limited.status, limited.error_code) == (503, "TOOMANYREQUESTS")
    assert int(limited.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("given", "told"), [("17", "17"), (" 0 ", "0"), ("soon", "5"), ("-3", "5"), (None, "5")]
)
async def test_retry_after_is_passed_on(
    mirror: Mirror, upstream: FakeRegistry, given: str | None, told: str
) -> None:
    upstream.fail(faults.too_many_requests(given))
    got = await mirror.get(manifest())
    assert (got.status, got.error_code) == (503, "TOOMANYREQUESTS")
    assert got.headers["Retry-After"] == told


async def test_an_absurd_retry_after_is_no_bug_of_ours(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    for given in ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "9" * 400, "\xff"):
        upstream.fail(faults.too_many_requests(given), times=1)
        got = await mirror.get(manifest())
        assert (got.status, got.error_code) == (503, "TOOMANYREQUESTS")
        assert 0 < int(got.headers["Retry-After"]) <= 24 * 3600


@pytest.mark.parametrize("value", ["", "many", "-1;w=5", "1e3", "\xb2", "9" * 5000])
async def test_a_rate_limit_that_is_no_number(
    mirror: Mirror, upstream: FakeRegistry, value: str
) -> None:
    upstream.options.manifest_headers = {"ratelimit-limit": value, "ratelimit-remaining": value}
    assert (await mirror.get(manifest())).status == 200
    shown = await mirror.total(REMAINING)
    assert shown == (999_999_999_999 if value.startswith("9") else 0)


async def test_a_limit_of_a_cdn_is_not_that_of_the_registry(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    async with FakeCdn() as cdn:
        cdn.serve_blobs_of(upstream)
        cdn.fail(faults.header("ratelimit-remaining", "3;w=60"))
        await pull(mirror, IMAGE)
    assert await mirror.total(REMAINING) == 0


# --- counting --------------------------------------------------------------------------------


async def test_every_request_is_counted_once(mirror: Mirror, upstream: FakeRegistry) -> None:
    await pull(mirror, IMAGE)
    await mirror.get(manifest("missing"))
    requests = "mirror_upstream_requests_total"
    assert await mirror.total(requests) == upstream.count()
    assert await mirror.total(requests, kind="manifest", method="HEAD", status="200") == 1
    assert await mirror.total(requests, kind="manifest", status="404") == 1
    assert await mirror.total(requests, kind="blob", method="GET") == len(IMAGE.blobs)
    sent = sum(each.size_bytes for each in (IMAGE, *IMAGE.blobs))
    assert await mirror.metric("mirror_upstream_bytes_total", upstream="docker.io") == sent
    assert await mirror.metric("mirror_upstream_up", upstream="docker.io") == 1
    await upstream.go_down()
    await mirror.get(manifest("other"))
    assert await mirror.total(requests, status="0") >= 1
    assert await mirror.metric("mirror_upstream_up", upstream="docker.io") == 0


async def test_connections_are_used_again(mirror: Mirror, upstream: FakeRegistry) -> None:
    """A refusal costs no connection: towards a real registry each is a TLS handshake."""
    await pull(mirror, IMAGE)
    for number in range(5):
        await mirror.get(manifest(f"missing-{number}"))
        await mirror.head(blob(image(number + 50).config.digest))
    assert upstream.connections == 1
