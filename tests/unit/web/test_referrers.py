"""Referrers: proxied, paged, filtered, kept, and never invented."""

import json
from pathlib import Path

import pytest

from mirror.settings import Policy
from tests.fakes import faults
from tests.fakes.clock import FakeClock
from tests.fakes.content import OCI_INDEX, OCI_MANIFEST, artifact, image
from tests.fakes.pages import fallback_tag
from tests.fakes.registry import FakeRegistry, RegistryOptions
from tests.harness import QUICK, Got, Mirror, mirror_of
from tests.unit.web.wire import NOWHERE, REPOSITORY, all_pages, ask, following

SUBJECT = image()
REFERRERS = f"/v2/{REPOSITORY}/referrers/{SUBJECT.digest}"
SBOM = artifact(SUBJECT)
SIGNATURE = artifact(SUBJECT, artifact_type="application/vnd.example.signature", content=b"s")


def refer(upstream: FakeRegistry) -> None:
    for manifest in (SUBJECT, SBOM, SIGNATURE):
        upstream.push(REPOSITORY, manifest)


def digests_of(got: Got) -> set[str]:
    return {entry["digest"] for entry in json.loads(got.body)["manifests"]}


async def test_referrers(mirror: Mirror, upstream: FakeRegistry) -> None:
    refer(upstream)

    cold, warm = await mirror.get(REFERRERS), await mirror.get(REFERRERS)
    some = await mirror.get(f"{REFERRERS}?artifactType=application/vnd.example.signature")

    assert digests_of(cold) == {SBOM.digest, SIGNATURE.digest}
    assert warm.body == cold.body
    assert cold.headers["Content-Type"] == some.headers["Content-Type"] == OCI_INDEX
    assert "OCI-Filters-Applied" not in cold.headers
    assert digests_of(some) == {SIGNATURE.digest}
    assert some.headers["OCI-Filters-Applied"] == "artifactType"
    assert upstream.count(kind="referrers") == 1, "the list that is here has them all"


@pytest.mark.parametrize("api", ["api", "api without filter", "fallback tag"])
async def test_referrers_are_filtered_here_where_upstream_does_not(
    tmp_path: Path, api: str
) -> None:
    options = RegistryOptions(
        referrers_api=api != "fallback tag", referrers_filter=api == "api", fallback_tags=True
    )
    async with FakeRegistry(options) as upstream:
        refer(upstream)
        async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
            got = await mirror.get(f"{REFERRERS}?artifactType=application/vnd.example.sbom%2Bjson")
            every = await mirror.get(REFERRERS)

    assert digests_of(got) == {SBOM.digest}
    assert got.headers["OCI-Filters-Applied"] == "artifactType"
    assert digests_of(every) == {SBOM.digest, SIGNATURE.digest}
    assert got.headers["Content-Type"] == every.headers["Content-Type"] == OCI_INDEX


@pytest.mark.parametrize("filters", [True, False])
async def test_referrers_page_by_page(
    mirror: Mirror, upstream: FakeRegistry, *, filters: bool
) -> None:
    refer(upstream)
    upstream.options.referrers_page_limit = 1
    upstream.options.referrers_filter = filters

    every = await all_pages(mirror, REFERRERS)
    some = await all_pages(mirror, f"{REFERRERS}?artifactType=application/vnd.example.signature")

    assert [digests_of(page) for page in every] == [{SBOM.digest}, {SIGNATURE.digest}]
    assert set().union(*map(digests_of, some)) == {SIGNATURE.digest}
    assert all(page.headers["OCI-Filters-Applied"] == "artifactType" for page in some)


async def test_the_filter_goes_on_where_the_link_of_upstream_forgets_it(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    refer(upstream)
    upstream.options.referrers_filter = False
    upstream.fail(faults.header("Link", f'<{REFERRERS}?page=1>; rel="next"'), kind="referrers")

    got = await mirror.get(f"{REFERRERS}?artifactType=a/b")

    assert following(got) == f"{REFERRERS}?page=1&artifactType=a%2Fb"


@pytest.mark.parametrize("then", ["offline", "outage"])
async def test_a_type_is_found_in_the_list_that_is_here(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock, then: str
) -> None:
    """What is prefetched or imported is the whole list; notation and oras ask by the type."""
    refer(upstream)
    upstreams, policy = {"docker.io": upstream}, Policy(timeouts=QUICK)
    async with mirror_of(tmp_path / "cache", upstreams, clock=clock, policy=policy) as mirror:
        await mirror.get(REFERRERS)
    clock.advance(86400)
    upstream.fail(faults.status(503))
    mode = policy.model_copy(update={"mode": "offline"}) if then == "offline" else policy
    wanted = f"{REFERRERS}?artifactType=application/vnd.example.signature"
    async with mirror_of(tmp_path / "cache", upstreams, clock=clock, policy=mode) as mirror:
        got = await mirror.get(wanted)
        nothing = await mirror.get(f"{REFERRERS}?artifactType=application/vnd.example.other")
    assert (got.status, digests_of(got)) == (200, {SIGNATURE.digest})
    assert got.headers["OCI-Filters-Applied"] == "artifactType"
    assert (nothing.status, digests_of(nothing)) == (200, set())


async def test_a_list_of_a_type_that_is_here_does_not_hide_what_came_later(
    tmp_path: Path, upstream: FakeRegistry, clock: FakeClock
) -> None:
    """A client asked before the signature was imported, or prefetched, with the whole list."""
    wanted = f"{REFERRERS}?artifactType=application/vnd.example.signature"
    upstream.push(REPOSITORY, SUBJECT)
    upstreams, policy = {"docker.io": upstream}, Policy(timeouts=QUICK)
    async with mirror_of(tmp_path / "cache", upstreams, clock=clock, policy=policy) as mirror:
        assert digests_of(await mirror.get(wanted)) == set()
        refer(upstream)
        assert len(digests_of(await mirror.get(REFERRERS))) == 2
    mode = policy.model_copy(update={"mode": "offline"})
    async with mirror_of(tmp_path / "cache", upstreams, clock=clock, policy=mode) as mirror:
        assert digests_of(await mirror.get(wanted)) == {SIGNATURE.digest}


async def test_pages_are_those_of_upstreams_own_list_of_the_type(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    refer(upstream)
    upstream.options.referrers_page_limit = 1
    first = await mirror.get(REFERRERS)
    assert "Link" in first.headers
    before = upstream.count(kind="referrers")
    await mirror.get(f"{REFERRERS}?artifactType=application/vnd.example.signature")
    assert upstream.count(kind="referrers") == before + 1


async def test_nothing_refers_to_it(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.push(REPOSITORY, SUBJECT, ["v1"])
    path = f"/v2/{REPOSITORY}/referrers/{NOWHERE}"
    for upstream.options.referrers_api in (True, False):
        got = await ask(mirror, path)
        assert got.status == 200
        assert got.header("Content-Type") == OCI_INDEX
        document = json.loads(got.body)
        assert (document["schemaVersion"], document["mediaType"]) == (2, OCI_INDEX)
        assert document["manifests"] == []
        path = path.replace("0" * 64, "1" * 64)


async def test_trouble_is_never_an_empty_list(tmp_path: Path, upstream: FakeRegistry) -> None:
    refer(upstream)
    troubles = {
        "503": (faults.status(503), "referrers", 502),
        "429": (faults.too_many_requests(0), "referrers", 503),
        "504": (faults.status(504), "referrers", 504),
        "rst": (faults.no_answer(rst=True), "referrers", 502),
        "hang": (faults.hang(), "referrers", 504),
        "no index": (faults.body(b"[]", OCI_INDEX), "referrers", 502),
        "fallback 503": (faults.status(503), "manifest", 502),
        "fallback html": (faults.html(), "manifest", 502),
        "forbidden": (faults.status(403), "referrers", 403),
    }
    quick = QUICK.model_copy(update={"response_seconds": 0.3})
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, policy=Policy(timeouts=quick)
    ) as mirror:
        for name, (fault, kind, status) in troubles.items():
            upstream.options.referrers_api = kind == "referrers"
            upstream.fail(fault, kind=kind)
            for _ in range(2):  # nothing of it is remembered
                assert (await mirror.get(REFERRERS)).status == status, name
            upstream.heal()
            await mirror.get("/v2/team/none/tags/list")  # an answer closes the breaker
        upstream.options.referrers_api = True
        assert digests_of(await mirror.get(REFERRERS)) == {SBOM.digest, SIGNATURE.digest}


async def test_a_fallback_tag_that_is_no_index_lists_nothing(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.options.referrers_api = False
    upstream.push(REPOSITORY, SUBJECT, [fallback_tag(SUBJECT.digest)])

    got = await mirror.get(REFERRERS)

    assert digests_of(got) == set()
    assert SUBJECT.media_type == OCI_MANIFEST


async def test_a_stale_fallback_tag_makes_no_fresh_list(
    mirror: Mirror, upstream: FakeRegistry, clock: FakeClock
) -> None:
    upstream.options.referrers_api = False
    upstream.options.fallback_tags = True
    refer(upstream)
    before = await mirror.get(REFERRERS)
    clock.advance(601)
    upstream.fail(faults.status(503), kind="manifest")

    for _ in range(2):
        stale = await mirror.get(REFERRERS)
        assert stale.body == before.body
        assert "detail=upstream-trouble" in stale.cache_status
