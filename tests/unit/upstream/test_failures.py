"""Every way in which an upstream fails to deliver a manifest."""

from pathlib import Path

import pytest

from tests.fakes import faults
from tests.fakes.content import Image, image
from tests.fakes.registry import FakeRegistry
from tests.fakes.script import Fault
from tests.harness import Mirror, mirror_of
from tests.unit.upstream.pulling import REPOSITORY, manifest, objects

IMAGE = image()
OK = (200, None)
TROUBLE = (502, "UNKNOWN")
INVALID = (502, "MANIFEST_INVALID")
MISSING = (404, "MANIFEST_UNKNOWN")
Outcome = tuple[int, str | None]

# By digest and by tag alike, unless the third says what a tag is answered with.
FAILURES: dict[str, tuple[Fault, Outcome] | tuple[Fault, Outcome, Outcome]] = {
    "400": (faults.status(400), TROUBLE),
    "401": (faults.status(401), (403, "DENIED")),
    "403": (faults.status(403), (403, "DENIED")),
    "403 page": (faults.cdn_forbidden(), TROUBLE),
    "405": (faults.status(405), TROUBLE),
    "408": (faults.status(408), (504, "UNKNOWN")),
    "429": (faults.too_many_requests(0), (503, "TOOMANYREQUESTS")),
    "500": (faults.status(500), TROUBLE),
    "502": (faults.status(502), TROUBLE),
    "503": (faults.status(503), TROUBLE),
    "504": (faults.status(504), (504, "UNKNOWN")),
    "508": (faults.status(508), TROUBLE),
    "304": (faults.status(304), TROUBLE),
    "204": (faults.status(204), TROUBLE),
    "gone": (faults.no_answer(), TROUBLE),
    "reset": (faults.no_answer(rst=True), TROUBLE),
    "half a head": (faults.no_answer(after_bytes=30), TROUBLE),
    "cut": (faults.cut(10), TROUBLE),
    "cut by reset": (faults.cut(10, rst=True), TROUBLE),
    "chunks that end early": (faults.chunked(only_bytes=10), TROUBLE),
    "closed early": (faults.until_close(only_bytes=10), TROUBLE),
    "empty": (faults.empty(), TROUBLE),
    "flipped": (faults.flip(20), TROUBLE),
    "announced too long": (faults.content_length(100_000), TROUBLE),
    "announced too short": (faults.content_length(10), TROUBLE),
    "encoded": (faults.gzip(), TROUBLE),
    "a page": (faults.html(), TROUBLE, INVALID),
    "wrong digest told": (faults.wrong_digest(), OK, TROUBLE),
    "no digest told": (faults.header("Docker-Content-Digest", "nonsense"), OK, TROUBLE),
    "in a circle": (faults.redirect_loop(), TROUBLE),
    "broken header": (faults.broken_header(), TROUBLE),
    "huge header": (faults.long_header(40_000), TROUBLE),
    "long header": (faults.long_header(), OK),
    "smuggled header": (faults.crlf(), OK),
    "chunks": (faults.chunked(), OK),
    "until close": (faults.until_close(), OK),
    "without type": (faults.without("Content-Type"), OK),
    "without digest": (faults.without("Docker-Content-Digest"), OK),
    "without length": (faults.without("Content-Length"), OK),
    "wrong type": (faults.header("Content-Type", "application/octet-stream"), OK),
}


async def test_a_manifest_that_does_not_come(tmp_path: Path, upstream: FakeRegistry) -> None:
    async with mirror_of(tmp_path / "cache", {"ghcr.io": upstream}) as mirror:
        for number, (what, (fault, by_digest, *rest)) in enumerate(FAILURES.items()):
            pushed = image(number, layers=0)
            upstream.push(REPOSITORY, pushed, tags=[f"v{number}"])
            references = (pushed.digest, f"v{number}")
            expected = (by_digest, rest[0] if rest else by_digest)
            rule = upstream.fail(fault, kind="manifest")
            before = len(objects(mirror))
            for reference, outcome in zip(references, expected, strict=True):
                assert await _outcome(mirror, pushed, reference) == outcome, what
                assert len(objects(mirror)) == before + (by_digest == OK), what
            rule.cancel()
            for reference in references:  # nothing was remembered but what was found
                assert await _outcome(mirror, pushed, reference) == OK, what


async def _outcome(mirror: Mirror, pushed: Image, reference: str) -> Outcome:
    got = await mirror.get(manifest(reference))
    assert "WWW-Authenticate" not in got.headers
    assert "Set-Cookie" not in got.headers
    if got.status == 200:
        assert got.body == pushed.content
        assert got.headers["Content-Type"] == pushed.media_type
        assert got.headers["Docker-Content-Digest"] == pushed.digest
        return OK
    return got.status, got.error_code


async def test_s12_more_than_was_announced_is_not_taken(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, IMAGE, tags=["v1"])
    upstream.fail(faults.surplus(), method="GET")
    for reference in (IMAGE.digest, "v1"):
        # Whether the surplus is seen depends on how it arrives; it is never a part of it.
        assert await _outcome(mirror, IMAGE, reference) in {OK, TROUBLE}


@pytest.mark.parametrize("status", [405, 501])
async def test_an_upstream_that_knows_no_head(
    mirror: Mirror, upstream: FakeRegistry, status: int
) -> None:
    upstream.push(REPOSITORY, IMAGE, tags=["v1"])
    upstream.fail(faults.status(status), method="HEAD")
    assert (await mirror.get(manifest())).body == IMAGE.content


async def test_not_found_is_remembered_for_a_while(mirror: Mirror, upstream: FakeRegistry) -> None:
    for _ in range(3):
        assert (await mirror.get(manifest())).status == 404
    assert upstream.count() == 1


@pytest.mark.parametrize(
    "fault",
    [faults.status(500), faults.too_many_requests(0), faults.no_answer(), faults.cdn_forbidden()],
    ids=["500", "429", "gone", "bot wall"],
)
async def test_trap_11_an_outage_is_never_a_missing_image(
    mirror: Mirror, upstream: FakeRegistry, fault: Fault
) -> None:
    """Angos and Nexus said 404 for an outage or a rate limit; clients gave up the image."""
    upstream.fail(fault)
    for path in (
        manifest(),
        manifest(IMAGE.digest),
        f"/v2/{REPOSITORY}/blobs/{IMAGE.config.digest}",
        f"/v2/{REPOSITORY}/tags/list",
        f"/v2/{REPOSITORY}/referrers/{IMAGE.digest}",
    ):
        for method in ("GET", "HEAD"):
            got = await mirror.request(method, path)
            assert got.status in {502, 503, 504}, (method, path)
