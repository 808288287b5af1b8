"""Tags and the catalogue: proxied, paged, kept."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mirror.settings import Policy, Server
from tests.fakes import answers, faults, profiles
from tests.fakes.answers import Answer
from tests.fakes.clock import FakeClock
from tests.fakes.content import artifact, image
from tests.fakes.registry import FakeRegistry
from tests.fakes.wire import Kind, Recorded
from tests.harness import ANY_PORT, QUICK, Got, Mirror, mirror_of
from tests.unit.web.wire import REPOSITORY, all_pages, following, manifest_path

TAGS = f"/v2/{REPOSITORY}/tags/list"
SUBJECT = image()
REFERRERS = f"/v2/{REPOSITORY}/referrers/{SUBJECT.digest}"
ELSEWHERE = "https://evil.example:9/v2/other/repository/tags/list"


def tag(upstream: FakeRegistry, count: int) -> list[str]:
    names = [f"v{number:02}" for number in range(count)]
    upstream.push(REPOSITORY, SUBJECT, names)
    return names


def tags_of(got: Got) -> list[str]:
    return list(json.loads(got.body)["tags"])


# --- tags ------------------------------------------------------------------------------------


async def test_tags_are_kept_as_long_as_a_tag(
    mirror: Mirror, upstream: FakeRegistry, clock: FakeClock
) -> None:
    names = tag(upstream, 3)

    cold = await mirror.get(TAGS)
    clock.advance(599)
    warm, head = await mirror.get(TAGS), await mirror.head(TAGS)
    assert upstream.count(kind="tags") == 1
    clock.advance(2)
    confirmed = await mirror.get(TAGS)
    upstream.push(REPOSITORY, SUBJECT, ["w"])
    clock.advance(601)
    changed = await mirror.get(TAGS)

    assert json.loads(cold.body) == {"name": REPOSITORY, "tags": names}
    assert cold.headers["Content-Type"] == "application/json"
    assert [each.cache_status for each in (cold, warm, confirmed, changed)] == [
        "mirror; fwd=uri-miss; stored",
        "mirror; hit; ttl=1",
        "mirror; fwd=stale; fwd-status=200",
        "mirror; fwd=stale; stored",
    ]
    assert (head.body, head.headers["Content-Length"]) == (b"", str(len(cold.body)))
    assert tags_of(changed) == [*names, "w"]
    assert upstream.count(kind="tags") == 3


async def test_tags_are_asked_for_once_by_many(mirror: Mirror, upstream: FakeRegistry) -> None:
    tag(upstream, 3)
    gate = upstream.hold_head(kind="tags")
    asking = [asyncio.create_task(mirror.get(TAGS)) for _ in range(10)]
    await gate.reached.wait()
    await mirror.get("/v2/")
    gate.release()

    said = sorted([(await each).cache_status for each in asking])

    assert said == ["mirror; fwd=uri-miss; collapsed"] * 9 + ["mirror; fwd=uri-miss; stored"]
    assert upstream.count(kind="tags") == 1


@pytest.mark.parametrize("paging", ["obeyed", "ignored", "own limit", "absolute links"])
async def test_tags_page_by_page(mirror: Mirror, upstream: FakeRegistry, paging: str) -> None:
    names = tag(upstream, 10)
    upstream.options.tag_paging = paging != "ignored"
    upstream.options.tag_page_limit = 2 if paging == "own limit" else None
    upstream.options.absolute_links = paging == "absolute links"

    pages = await all_pages(mirror, f"{TAGS}?n=3")

    assert [name for page in pages for name in tags_of(page)] == names
    assert all(len(tags_of(page)) <= 3 for page in pages)
    behind = await mirror.get(f"{TAGS}?last=v07")
    assert tags_of(behind) == ["v08", "v09"]


async def test_tags_of_an_upstream_that_pages_as_it_likes(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    names = tag(upstream, 10)
    upstream.before = quay_pages(names)

    pages = await all_pages(mirror, f"{TAGS}?n=3&ns=docker.io")

    assert [name for page in pages for name in tags_of(page)] == names
    assert "next_page=" in (following(pages[0]) or "")
    assert all("ns=docker.io" in (following(page) or "ns=docker.io") for page in pages)
    assert all(each.parameter("ns") in {None, "docker.io"} for each in upstream.requests)


def quay_pages(names: list[str]) -> Callable[[Recorded], Answer | None]:
    """Answer like quay.io, which names the next page by a token of its own."""

    def answer(request: Recorded) -> Answer | None:
        if request.kind is not Kind.TAGS:
            return None
        start = int((request.parameter("next_page") or "T-0").removeprefix("T-"))
        page = answers.json_answer({"name": REPOSITORY, "tags": names[start : start + 3]})
        if start + 3 < len(names):
            token = f"n=3&next_page=T-{start + 3}"
            page.headers.append(("Link", f'<{request.path}?{token}>; rel="next"'))
        return page

    return answer


async def test_no_tags_are_lost_where_upstream_sends_too_many_of_some(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    names = tag(upstream, 10)

    def answer(request: Recorded) -> Answer | None:
        """Send pages of five, whatever ``n`` and ``last`` say."""
        if request.kind is not Kind.TAGS:
            return None
        start = int(request.parameter("page") or 0)
        page = answers.json_answer({"name": REPOSITORY, "tags": names[start : start + 5]})
        if start == 0:
            page.headers.append(("Link", f'<{request.path}?page=5>; rel="next"'))
        return page

    upstream.before = answer

    pages = await all_pages(mirror, f"{TAGS}?n=3")

    assert [name for page in pages for name in tags_of(page)] == names


async def test_s04_a_link_cannot_lead_elsewhere(mirror: Mirror, upstream: FakeRegistry) -> None:
    tag(upstream, 3)
    link = f'<{ELSEWHERE}?last=v01&n=2&ns=ghcr.io>; rel="next"'
    upstream.fail(faults.header("Link", link), kind="tags")

    got = await mirror.get(f"{TAGS}?n=2&ns=docker.io")

    assert following(got) == f"{TAGS}?last=v01&n=2&ns=docker.io"


async def test_a_link_has_the_path_of_the_client(tmp_path: Path, upstream: FakeRegistry) -> None:
    upstream.push("team/app", SUBJECT, ["a", "b", "c"])
    async with mirror_of(
        tmp_path / "cache", {"docker.io": "http://127.0.0.1:1", "ghcr.io": upstream}
    ) as mirror:
        for path, query in (
            ("/v2/team/app/tags/list", "&ns=ghcr.io"),
            ("/v2/ghcr.io/team/app/tags/list", ""),
            ("/ghcr.io/v2/team/app/tags/list", ""),
            ("/ghcr.io/v2/team/app/tags/list", "&ns=ghcr.io"),
        ):
            got = await mirror.get(f"{path}?n=2{query}")
            assert following(got) == f"{path}?n=2&last=b{query}"
    assert upstream.count(kind="tags") == 1


async def test_no_entries_and_no_number(mirror: Mirror, upstream: FakeRegistry) -> None:
    tag(upstream, 3)

    none = await mirror.get(f"{TAGS}?n=0")
    assert (none.status, tags_of(none), following(none)) == (200, [], None)

    for bad in ("-1", "x", "1.5", "%C2%B2", "1e3"):
        got = await mirror.get(f"{TAGS}?n={bad}")
        assert (got.status, got.error_code) == (400, "UNSUPPORTED"), bad
    assert not upstream.requests
    for good in ("", "007", "999999999999999999999"):
        assert (await mirror.get(f"{TAGS}?n={good}")).status == 200, good


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"<html>",
        b'{"tags": "v1"}',
        b'{"tags": [1]}',
        b"[" * 100_000,
        rb'{"tags": ["\ud800"]}',  # half a character, found by `make fuzz`
    ],
)
async def test_a_list_that_is_none_is_trouble(
    mirror: Mirror, upstream: FakeRegistry, body: bytes
) -> None:
    tag(upstream, 1)
    upstream.fail(faults.body(body), kind="tags")

    assert (await mirror.get(TAGS)).status == 502


async def test_a_repository_without_tags(mirror: Mirror, upstream: FakeRegistry) -> None:
    tag(upstream, 1)
    upstream.fail(faults.body(b'{"name": "library/alpine", "tags": null}'), kind="tags")

    assert tags_of(await mirror.get(TAGS)) == []
    assert (await mirror.get("/v2/no/such/tags/list")).error_code == "NAME_UNKNOWN"


@pytest.mark.parametrize("path", [TAGS, REFERRERS], ids=["tags", "referrers"])
async def test_lists_are_stale_in_an_outage_and_gone_when_upstream_says_so(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock, path: str
) -> None:
    tag(upstream, 2)
    upstream.push(REPOSITORY, artifact(SUBJECT))
    policy = Policy(timeouts=QUICK, stale_if_error_seconds=3600)
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, clock=clock, policy=policy
    ) as mirror:
        fresh = await mirror.get(path)
        clock.advance(700)
        for fault, reason in (
            (faults.status(503), "upstream-trouble"),
            (faults.too_many_requests(0), "rate-limited"),
            (faults.status(504), "timeout"),
            (faults.no_answer(rst=True), "upstream-trouble"),
        ):
            upstream.fail(fault)
            stale = await mirror.get(path)
            assert (stale.status, stale.body) == (200, fresh.body)
            assert stale.cache_status == f"mirror; hit; ttl=-100; detail={reason}"
            assert stale.headers["Warning"] == f'299 - "stale: {reason}"'
            upstream.heal()
        upstream.fail(faults.status(403))
        assert (await mirror.get(path)).status == 403
        upstream.heal()
        upstream.fail(faults.status(503))
        clock.advance(3600)
        assert (await mirror.get(path)).status == 502


# --- catalogue -------------------------------------------------------------------------------


@pytest.fixture
async def open_catalogue(tmp_path: Path, upstream: FakeRegistry) -> AsyncIterator[Mirror]:
    server = Server(listen=ANY_PORT, admin_listen=ANY_PORT, shutdown_grace_seconds=1, catalog=True)
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream, "ghcr.io": upstream}, server=server
    ) as running:
        yield running


async def test_the_catalogue_is_closed_by_default(mirror: Mirror) -> None:
    assert (await mirror.get("/v2/_catalog")).error_code == "NAME_UNKNOWN"


async def test_the_catalogue_page_by_page(open_catalogue: Mirror, upstream: FakeRegistry) -> None:
    mirror = open_catalogue
    assert json.loads((await mirror.get("/v2/_catalog")).body) == {"repositories": []}
    for name in ("team/a", "team/b", "team/c"):
        upstream.push(name, SUBJECT, ["v1"])
        await mirror.get(manifest_path("v1", name))
    await mirror.get(manifest_path("v1", "ghcr.io/team/a"))

    pages = await all_pages(mirror, "/v2/_catalog?n=3")

    assert [json.loads(page.body)["repositories"] for page in pages] == [
        ["docker.io/team/a", "docker.io/team/b", "docker.io/team/c"],
        ["ghcr.io/team/a"],
    ]
    assert (await mirror.get("/v2/_catalog?n=x")).status == 400
    assert (await mirror.get("/v2/_catalog?n=0")).status == 200
    assert not upstream.matching(kind=Kind.CATALOG)


async def test_ecr_refuses_a_number_that_is_too_large(tmp_path: Path) -> None:
    async with profiles.ecr() as site:
        site.registry.guard = None
        tag(site.registry, 2)
        async with mirror_of(tmp_path / "cache", {"docker.io": site.registry}) as mirror:
            assert len(tags_of(await mirror.get(f"{TAGS}?n=1000"))) == 2
