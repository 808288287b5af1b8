"""Redirects of blobs to elsewhere (case S3)."""

import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mirror.settings import Upstream, UpstreamTls
from tests.fakes import faults
from tests.fakes.auth import BasicGuard
from tests.fakes.cdn import FakeCdn
from tests.fakes.content import Blob, blob
from tests.fakes.registry import FakeRegistry, Redirect
from tests.fakes.script import Fault
from tests.fakes.tls import loopback_tls
from tests.fakes.wire import Kind, Recorded
from tests.harness import LOOPBACK, Mirror, mirror_of
from tests.unit.upstream import pulling
from tests.unit.upstream.pulling import PASSWORD, REPOSITORY, USER, account, mirrored, objects


@dataclass(slots=True)
class Far:
    """A registry that wants a password, a CDN that wants none, a blob."""

    registry: FakeRegistry
    cdn: FakeCdn
    pushed: Blob

    @property
    def path(self) -> str:
        return pulling.blob(self.pushed.digest)

    @property
    def upstream(self) -> Upstream:
        return Upstream(
            endpoints=(self.registry.url,), credentials=(account(),), redirects=LOOPBACK
        )


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    async with FakeRegistry() as registry, FakeCdn() as cdn:
        pushed = blob(70_000)
        registry.push_blob(REPOSITORY, pushed)
        registry.guard = BasicGuard(users={USER: PASSWORD})
        cdn.refuses_authorization = True
        cdn.serve_blobs_of(registry)
        yield Far(registry, cdn, pushed)


@pytest.fixture
async def mirror(tmp_path: Path, far: Far) -> AsyncIterator[Mirror]:
    async with mirrored(tmp_path, far.upstream) as running:
        yield running


async def test_trap_20_a_redirect_to_another_origin_gets_no_authorization(
    far: Far, mirror: Mirror
) -> None:
    """Forwarding it is a 400 at S3, and a theft elsewhere; rpardini's proxy strips it too."""
    assert (await mirror.head(far.path)).status == 200
    assert (await mirror.get(far.path)).body == far.pushed.content

    assert {request.method for request in far.cdn.requests} == {"HEAD", "GET"}
    assert {request.authorization for request in far.cdn.requests} == {None}
    assert all(request.header("Cookie") is None for request in far.cdn.requests)
    assert far.registry.requests[-1].authorization_kind == "basic"


async def test_a_redirect_within_the_origin_keeps_it(far: Far, mirror: Mirror) -> None:
    def locate(request: Recorded) -> str | None:
        return None if request.query == "again" else f"{far.registry.url}{request.path}?again"

    far.registry.redirects[Kind.BLOB] = Redirect(locate=locate)
    assert (await mirror.get(far.path)).body == far.pushed.content
    assert [request.authorization_kind for request in far.registry.requests] == [
        None,
        "basic",
        "basic",
    ]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_every_kind_of_redirect(far: Far, mirror: Mirror, status: int) -> None:
    far.cdn.serve_blobs_of(far.registry, status=status, body=b"<a>moved</a>", digest_header=True)
    got = await mirror.get(far.path)
    assert got.body == far.pushed.content
    assert got.headers["Content-Type"] == "application/octet-stream"


async def test_a_long_location(far: Far, mirror: Mirror) -> None:
    far.cdn.query_padding_bytes = 12_000
    assert (await mirror.get(far.path)).body == far.pushed.content


@pytest.mark.parametrize(("hops", "status"), [(10, 200), (11, 502)])
async def test_ten_hops_and_no_more(far: Far, mirror: Mirror, hops: int, status: int) -> None:
    far.registry.redirects.clear()
    far.registry.guard = None
    far.registry.fail(faults.redirect_hops(hops), kind="blob")
    assert (await mirror.get(far.path)).status == status
    assert far.registry.count(kind="blob") == 11


async def test_a_circle(far: Far, mirror: Mirror) -> None:
    far.registry.fail(faults.redirect_loop(), kind="blob")
    got = await mirror.get(far.path)
    assert (got.status, got.error_code) == (502, "UNKNOWN")
    assert far.registry.count(kind="blob") == 11


BAD_LOCATIONS = {
    "none": faults.status(307),
    "empty": faults.redirect(""),
    "not http": faults.redirect("ftp://127.0.0.1/x"),
    "a file": faults.redirect("file:///etc/passwd"),
    "with a user": faults.redirect("http://user:word@127.0.0.1/x"),
    "no address": faults.redirect("http://[bad/x"),
    "two readings": faults.redirect("http://127.0.0.1\\@127.0.0.2/x"),
    "no port": faults.redirect("http://127.0.0.1:0/x"),
    "nobody there": faults.redirect("http://127.0.0.1:1/x?sig=canary"),
}


async def test_a_location_that_leads_nowhere(far: Far, mirror: Mirror) -> None:
    for what, fault in BAD_LOCATIONS.items():
        rule = far.registry.fail(fault, kind="blob")
        got = await mirror.get(far.path)
        rule.cancel()
        assert (got.status, got.error_code) == (502, "UNKNOWN"), what
        assert b"canary" not in got.body, what
    assert far.cdn.requests == []


async def test_s03_https_is_not_left(far: Far, tmp_path: Path) -> None:
    server, _, pem = loopback_tls()
    (tmp_path / "ca.pem").write_bytes(pem)
    async with FakeRegistry(tls=server) as secure:
        secure.push_blob(REPOSITORY, far.pushed)
        far.cdn.serve_blobs_of(secure)
        upstream = Upstream(endpoints=(secure.url,), tls=UpstreamTls(ca=tmp_path / "ca.pem"))
        async with mirrored(tmp_path, upstream) as mirror:
            got = await mirror.get(far.path)

    assert got.status == 502
    assert b"https to http" in got.body
    assert far.cdn.requests == []


# --- signed addresses ------------------------------------------------------------------------

EXPIRED: dict[str, Fault] = {
    "S3": faults.status(403),
    "GCS": faults.status(400),
    "Cloudflare": faults.cdn_forbidden(),
}


@pytest.mark.parametrize("what", EXPIRED)
async def test_a_signed_address_that_expired_is_replaced(
    far: Far, mirror: Mirror, what: str
) -> None:
    far.cdn.fail(EXPIRED[what], times=1)
    assert (await mirror.get(far.path)).body == far.pushed.content
    first, second = (request.target for request in far.cdn.requests)
    assert first != second


@pytest.mark.parametrize("what", EXPIRED)
async def test_a_cdn_that_refuses_is_in_trouble_and_denies_nobody(
    far: Far, mirror: Mirror, what: str
) -> None:
    rule = far.cdn.fail(EXPIRED[what])
    got, head = await mirror.get(far.path), await mirror.head(far.path)
    rule.cancel()

    assert (got.status, got.error_code) == (502, "UNKNOWN")
    assert head.status == 502
    assert objects(mirror) == []
    assert (await mirror.get(far.path)).body == far.pushed.content  # it was not remembered


async def test_a_signed_address_is_used_once(far: Far, mirror: Mirror) -> None:
    far.cdn.single_use = True
    far.cdn.fail(faults.cut(30_000), times=2)
    assert (await mirror.get(far.path)).body == far.pushed.content
    targets = [request.target for request in far.cdn.requests]
    assert len(targets) == len(set(targets)) == 3
    assert far.cdn.requests[0].header("Range") is None
    assert all(request.header("Range") for request in far.cdn.requests[1:])


async def test_no_signature_is_logged_or_told(
    far: Far, tmp_path: Path, log_lines: io.StringIO
) -> None:
    far.cdn.query = "X-Amz-Credential=canary"
    await far.cdn.go_down()
    async with mirror_of(tmp_path / "cache", {"docker.io": far.upstream}) as mirror:
        got = await mirror.get(far.path)
    assert got.status == 502
    assert b"canary" not in got.body
    assert "canary" not in log_lines.getvalue()
