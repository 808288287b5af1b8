"""The contract: what holds for every request, whatever it is for."""

import json
from itertools import product
from pathlib import Path

import pytest

from mirror.runtime import via
from mirror.settings import Policy, Upstream
from tests.fakes import faults
from tests.fakes.clients import Ended, RawClient, compose
from tests.fakes.clock import FakeClock
from tests.fakes.content import blob, image
from tests.fakes.registry import FakeRegistry
from tests.fakes.script import Fault
from tests.harness import QUICK, Got, Mirror, mirror_of
from tests.unit.web.wire import (
    NOWHERE,
    REPOSITORY,
    ask,
    blob_path,
    everything,
    lasting,
    manifest_path,
)

IMAGE = image()
WRITES = ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"]


async def test_s17_there_is_no_way_to_write(mirror: Mirror, upstream: FakeRegistry) -> None:
    uploads = f"/v2/{REPOSITORY}/blobs/uploads/"
    for path, method in product(["/v2/", manifest_path("v1"), uploads, "/elsewhere"], WRITES):
        answer = await ask(mirror, path, method=method)

        assert answer.status == 405, (method, path)
        assert answer.header("Allow") == "GET, HEAD"
        assert json.loads(answer.body)["errors"][0]["code"] == "UNSUPPORTED"
    assert not upstream.requests


async def test_a_refused_upload_ends_in_order(mirror: Mirror) -> None:
    received = await everything(
        mirror, f"/v2/{REPOSITORY}/blobs/uploads/", method="POST", body=b"x" * 3_000_000
    )

    assert received.startswith(b"HTTP/1.1 405 ")
    assert received.endswith(b"}]}")


HOSTILE_PATHS = [
    "/v2/a/../../etc/manifests/x",
    "/v2/a/%2e%2e/b/manifests/x",
    "/v2/%2e%2e%2f%2e%2e%2fetc/manifests/x",
    "/v2/a%2fb/manifests/x",
    "/v2/a%5cb/manifests/x",
    "/v2/a\\b/manifests/x",
    "/v2//a/manifests/x",
    "/v2/a//manifests/x",
    "//v2/a/manifests/x",
    "/v2/a/manifests/..",
    "/v2/a/manifests/%2e%2e",
    "/v2/a/manifests/x%00",
    "/v2/a/manifests/x%0d%0aSet-Cookie:%20a",
    "/v2/a%0a/manifests/x",
    "/v2/A/manifests/x",
    "/v2/a/manifests/",
    "/v2/a/manifests/-x",
    f"/v2/a/manifests/{'x' * 129}",
    f"/v2/{'a' * 256}/manifests/x",
    "/v2/a/manifests/sha256:../../x",
    "/v2/a/tags/list/more",
    "/v2/_catalog/more",
    "/v1/a/manifests/x",
    "/v2x/a/manifests/x",
    "/",
    "/metrics",
    "/api/v1/config",
]
BAD_DIGESTS = [
    "sha256:..",
    "sha256:totallywrong",
    "sha256:" + "0" * 63,
    "sha256:" + "A" * 64,
    "sha512:" + "0" * 64,
    "md5:" + "0" * 32,
    "sha256:",
]


async def test_s01_a_path_that_means_nothing_is_404_and_asks_nobody(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    for path in HOSTILE_PATHS:
        answer = await ask(mirror, path)

        assert answer.status == 404, path
        assert json.loads(answer.body)["errors"][0]["code"] in {"NAME_UNKNOWN", "MANIFEST_UNKNOWN"}
        assert answer.header("Set-Cookie") is None
    assert not upstream.requests


async def test_s01_a_bad_digest_is_refused_and_asks_nobody(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    for kind, digest in product(["manifests", "blobs", "referrers"], BAD_DIGESTS):
        answer = await ask(mirror, f"/v2/{REPOSITORY}/{kind}/{digest}")

        assert answer.status == 400, (kind, digest)
        assert json.loads(answer.body)["errors"][0]["code"] == "DIGEST_INVALID"
    assert (await ask(mirror, blob_path("latest"))).status == 400
    assert not upstream.requests


async def test_s05_a_namespace_is_a_key_and_never_an_address(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])

    for query in ("ns=169.254.169.254", "ns=evil.example", "ns=localhost:6443", "ns=a&ns=b", "ns="):
        answer = await ask(mirror, f"{manifest_path('v1')}?{query}")

        assert answer.status == 404, query
        assert json.loads(answer.body)["errors"][0]["code"] == "NAME_UNKNOWN"
    assert not upstream.requests


async def test_s06_the_namespace_that_answered_is_the_configured_name(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    hub = Upstream(endpoints=(upstream.url,), aliases=("index.docker.io",))
    layer = IMAGE.layers[0].digest
    async with mirror_of(tmp_path / "cache", {"docker.io": hub}) as mirror:
        for path in (
            manifest_path("v1"),
            blob_path(layer),
            f"/v2/{REPOSITORY}/tags/list",
            f"/v2/{REPOSITORY}/referrers/{NOWHERE}",
        ):
            asked = await mirror.get(f"{path}?ns=index.docker.io")
            assert asked.headers["OCI-Namespace"] == "docker.io"
            assert "OCI-Namespace" not in (await mirror.get(path)).headers
    assert upstream.count("GET", "manifest") == 1  # one key, whatever the URL looks like


async def test_a_request_id_is_taken_over_if_it_is_harmless(mirror: Mirror) -> None:
    for given in ("abc-1.2_3", "x" * 64):
        assert (await mirror.get("/v2/", {"X-Request-Id": given})).headers["X-Request-Id"] == given

    for given in ("", "a b", 'a"b', "x" * 65, "a;b", "é"):
        answer = await ask(mirror, "/v2/", ("X-Request-Id", given))
        assert len(answer.header("X-Request-Id") or "") == 16, given


async def test_every_answer_says_how_it_came_about(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])

    said = {
        path: (await mirror.get(path)).cache_status
        for path in (
            "/v2/",
            "/elsewhere",
            manifest_path("nope"),
            blob_path(NOWHERE),
            manifest_path(".bad"),
        )
    }

    assert said == {
        "/v2/": "mirror; hit",
        "/elsewhere": "mirror; detail=NAME_UNKNOWN",
        manifest_path("nope"): "mirror; detail=MANIFEST_UNKNOWN",
        blob_path(NOWHERE): "mirror; detail=BLOB_UNKNOWN",
        manifest_path(".bad"): "mirror; detail=MANIFEST_UNKNOWN",
    }
    refused = await mirror.request("DELETE", manifest_path("v1"))
    assert refused.cache_status == "mirror; detail=UNSUPPORTED"


MAPPING: dict[str, tuple[Fault, int, str | dict[str, str]]] = {
    "404": (faults.status(404), 404, {"manifest": "MANIFEST_UNKNOWN", "blob": "BLOB_UNKNOWN"}),
    "401": (faults.status(401), 403, "DENIED"),
    "401 with a challenge": (faults.challenge('Basic realm="x"'), 403, "DENIED"),
    "403": (faults.status(403), 403, "DENIED"),
    "429": (faults.too_many_requests(7), 503, "TOOMANYREQUESTS"),
    "429 without a time": (faults.too_many_requests(), 503, "TOOMANYREQUESTS"),
    "500": (faults.status(500), 502, "UNKNOWN"),
    "502": (faults.status(502), 502, "UNKNOWN"),
    "503": (faults.status(503), 502, "UNKNOWN"),
    "504": (faults.status(504), 504, "UNKNOWN"),
    "no answer": (faults.hang(), 504, "UNKNOWN"),
    "fin": (faults.no_answer(), 502, "UNKNOWN"),
    "rst": (faults.no_answer(rst=True), 502, "UNKNOWN"),
    "half a head": (faults.no_answer(after_bytes=20), 502, "UNKNOWN"),
    "bot wall": (faults.cdn_forbidden(), 502, "UNKNOWN"),
    "redirect loop": (faults.redirect_loop(), 502, "UNKNOWN"),
    "redirect to nowhere": (faults.redirect(""), 502, "UNKNOWN"),
}


@pytest.mark.parametrize("kind", ["manifest", "blob"])
async def test_trap_11_error_classes_survive(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock, kind: str
) -> None:
    """Angos before 1.4.5, Nexus, Harbor#23750: an outage or a 429 reported as not found."""
    target = "manifests/v1" if kind == "manifest" else f"blobs/{IMAGE.layers[0].digest}"
    quick = QUICK.model_copy(update={"response_seconds": 0.3})
    policy = Policy(timeouts=quick, negative_ttl_seconds=0)

    async with mirror_of(
        tmp_path / "cache", {"ghcr.io": upstream}, clock=clock, policy=policy
    ) as mirror:
        for number, (name, (fault, status, code)) in enumerate(MAPPING.items()):
            clock.advance(61)  # the pause after a 429 is over
            await mirror.get("/v2/team/none/tags/list")  # an answer closes the breaker
            repository = f"team/app-{number}"
            upstream.push(repository, IMAGE, ["v1"])
            upstream.fail(fault, repository=repository)
            path = f"/v2/{repository}/{target}"
            got, head = await mirror.get(path), await everything(mirror, path, method="HEAD")

            assert got.status == status, name
            assert got.error_code == (code if isinstance(code, str) else code[kind]), name
            wait = {"429": "7", "429 without a time": "5"}.get(name)
            assert got.headers.get("Retry-After") == wait, name
            assert "WWW-Authenticate" not in got.headers, name
            check_head(head, got)


def check_head(received: bytes, got: Got) -> None:
    """Assert that a HEAD has the status and headers of the GET, and no body."""
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert first.split(" ")[1] == str(got.status)
    names = {line.partition(":")[0].lower() for line in lines} - {"connection"}
    assert names == {name.lower() for name in got.headers}
    assert not body


async def test_the_hub_says_401_for_what_does_not_exist(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.fail(faults.status(401))

    for path in (manifest_path("v1"), blob_path(NOWHERE)):
        assert (await mirror.get(path)).status == (await mirror.head(path)).status == 404


async def test_a_head_of_an_error_has_the_headers_of_the_get(mirror: Mirror) -> None:
    get, head = await mirror.get(manifest_path("nope")), await mirror.head(manifest_path("nope"))

    assert lasting(get.headers) == lasting(head.headers)
    assert get.cache_status == head.cache_status
    assert head.body == b""


async def test_a_request_that_came_back_is_refused(mirror: Mirror, upstream: FakeRegistry) -> None:
    got = await mirror.get(manifest_path("v1"), {"Via": f"1.1 other, 1.1 {via.INSTANCE}"})

    assert got.status == 508
    assert not upstream.requests


async def test_a_connection_carries_several_requests(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    pushed = blob(100_000)
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    upstream.push_blob(REPOSITORY, pushed)
    async with await RawClient.connect(mirror.host, mirror.port) as client:
        for target, status in (
            (manifest_path("v1"), 200),
            (manifest_path("nope"), 404),
            (blob_path(pushed.digest), 200),
            (blob_path(pushed.digest), 200),
            ("/v2/", 200),
        ):
            await client.send(compose(target))
            answer = await client.answer()
            assert (answer.status, answer.ended) == (status, Ended.COMPLETE)


async def test_s14_an_encoding_is_never_used_nor_asked_for(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    accepting = {"Accept-Encoding": "gzip, zstd"}
    for path in (manifest_path("v1"), blob_path(IMAGE.layers[0].digest)):
        assert "Content-Encoding" not in (await mirror.get(path, accepting)).headers
    assert {each.header("Accept-Encoding") for each in upstream.requests} == {"identity"}


@pytest.mark.parametrize("kind", ["manifest", "blob"])
async def test_s14_an_encoded_answer_is_not_taken(
    mirror: Mirror, upstream: FakeRegistry, kind: str
) -> None:
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    upstream.fail(faults.gzip(), kind=kind, method="GET")
    layer = IMAGE.layers[0].digest

    path = manifest_path("v1") if kind == "manifest" else blob_path(layer)

    assert (await mirror.get(path)).status == 502
    assert not mirror.stored(IMAGE.digest if kind == "manifest" else layer).exists()
