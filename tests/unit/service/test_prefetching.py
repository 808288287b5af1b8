"""Prefetches: what comes, what is skipped, what it costs, and how it is watched and stopped."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.service import prefetching
from mirror.service.prefetch_job import ImageState, JobFacts, JobState, Progress
from mirror.service.prefetching import PrefetchWish
from mirror.service.refusals import RefusedError
from mirror.settings import Fill
from mirror.settings.units import SizeOrShare
from tests.fakes import faults
from tests.fakes.clock import FakeClock
from tests.fakes.content import Manifest, artifact, image, index
from tests.fakes.profiles import HubRegistry
from tests.fakes.registry import FakeRegistry
from tests.fakes.wire import Kind
from tests.harness import MIB, Mirror, mirror_of
from tests.unit.web.wire import REPOSITORY, blob_path, manifest_path

AMD64, ARM64 = image(1), image(2, architecture="arm64")
PROOF = image(3, architecture="unknown")
BOTH = index([AMD64, ARM64, PROOF])
NAME = f"docker.io/{REPOSITORY}"


@pytest.fixture
async def mirror(tmp_path: Path, upstream: FakeRegistry, clock: FakeClock) -> AsyncIterator[Mirror]:
    upstream.push(REPOSITORY, BOTH, ["v1"])
    upstream.push("team/app", AMD64, ["v1"])
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, clock=clock) as up:
        up.up.prefetcher._retry_seconds = 0
        yield up


async def fetch(mirror: Mirror, *images: str, **more: object) -> tuple[JobFacts, Progress]:
    """Prefetch to the end."""
    wish = PrefetchWish(images, **more)  # type: ignore[arg-type] # its own fields
    job = mirror.up.prefetcher.start(wish)
    facts = await mirror.up.prefetcher.ended(job.id)
    return facts, mirror.up.prefetcher.progress(job.id)


def here(mirror: Mirror) -> set[str]:
    files = (mirror.directory / "blobs").rglob("*")
    return {f"sha256:{path.name}" for path in files if path.is_file()}


def whole(*manifests: Manifest) -> set[str]:
    blobs = {blob.digest for each in manifests for blob in getattr(each, "blobs", ())}
    return {each.digest for each in manifests} | blobs


def gets(upstream: FakeRegistry, kind: Kind = Kind.BLOB) -> int:
    return sum(each.kind is kind and each.method == "GET" for each in upstream.requests)


async def test_an_image_comes_once_and_then_from_here(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    facts, progress = await fetch(mirror, "alpine:v1")
    assert here(mirror) == whole(BOTH, AMD64)
    size = sum(each.size_bytes for each in AMD64.blobs)
    assert (facts.state, facts.platforms) == (JobState.DONE, ("linux/amd64",))
    assert (facts.total_bytes, facts.done_bytes, facts.fetched_bytes) == (size, size, size)
    (row,) = progress.images
    assert (row.image, row.digest, row.fetched_objects) == (f"{NAME}:v1", BOTH.digest, 5)
    asked = len(upstream.requests)
    again, _ = await fetch(mirror, "alpine:v1")
    assert (again.state, again.fetched_bytes, again.done_bytes) == (JobState.DONE, 0, size)
    assert len(upstream.requests) == asked
    upstream.fail(faults.no_answer())
    assert (await mirror.get(manifest_path("v1"))).cache_status.startswith("mirror; hit")
    assert (await mirror.get(blob_path(AMD64.layers[0].digest))).status == 200


async def test_platforms_are_those_asked_for_else_those_that_are_served(mirror: Mirror) -> None:
    facts, _ = await fetch(mirror, "alpine:v1", platforms=("linux/arm64",))
    assert here(mirror) == whole(BOTH, ARM64)
    facts, _ = await fetch(mirror, "alpine:v1")
    assert facts.platforms == ("linux/arm64",)
    facts, progress = await fetch(mirror, "alpine:v1", platforms=("linux/s390x",))
    assert facts.state is JobState.INCOMPLETE
    assert "has no image for linux/s390x; it has: linux/amd64" in str(progress.images[0].error)


async def test_what_cannot_be_had_does_not_stop_the_rest(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    facts, progress = await fetch(
        mirror, "team/none:v1", "Team/app:x", "nowhere.test/a", "alpine:v1"
    )
    assert (facts.state, facts.done, facts.failed) == (JobState.INCOMPLETE, 1, 3)
    assert [each.state for each in progress.images] == [*[ImageState.FAILED] * 3, ImageState.DONE]
    assert all(each.error for each in progress.images[:3])
    assert await mirror.metric("mirror_prefetch_images_total", outcome="failed") == 3
    labels = {"origin": "command", "outcome": "incomplete"}
    assert await mirror.metric("mirror_prefetch_runs_total", **labels) == 1


async def test_trouble_that_passes_is_tried_again(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.fail(faults.status(503), repository="team/app", times=1)
    facts, _ = await fetch(mirror, "team/app:v1")
    assert (facts.state, facts.failed, facts.done) == (JobState.DONE, 0, 1)
    assert facts.total_bytes == facts.done_bytes == sum(each.size_bytes for each in AMD64.blobs)


async def test_a_blob_of_two_images_is_fetched_and_counted_once(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    facts, progress = await fetch(mirror, "alpine:v1", "team/app:v1")
    size = sum(each.size_bytes for each in AMD64.blobs)
    assert (facts.total_bytes, facts.fetched_bytes) == (size, size)
    assert [each.total_bytes for each in progress.images] == [size, size]
    assert gets(upstream) == len(AMD64.blobs)
    upstream.fail(faults.no_answer())
    assert (await mirror.get(blob_path(AMD64.layers[0].digest, "team/app"))).status == 200


async def test_a_download_is_shared_with_a_client(mirror: Mirror, upstream: FakeRegistry) -> None:
    digest = AMD64.layers[0].digest
    gate = upstream.hold_body(after_bytes=500, reference=digest)
    job = mirror.up.prefetcher.start(PrefetchWish(("team/app:v1",)))
    await gate.arrivals()
    got = asyncio.create_task(mirror.get(blob_path(digest, "team/app")))
    await mirror.becomes("mirror_fill_readers", 2)
    gate.release()
    assert (await got).cache_status.endswith("collapsed")
    assert (await mirror.up.prefetcher.ended(job.id)).state is JobState.DONE
    assert gets(upstream) == len(AMD64.blobs)


async def test_signatures_sboms_and_attestations_come_on_request(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    sbom = artifact(AMD64)
    signature = artifact(sbom, artifact_type="application/vnd.example.signature", content=b"s")
    cosign = image(9, layers=1)
    upstream.push(REPOSITORY, sbom)
    upstream.push(REPOSITORY, signature)
    upstream.push(REPOSITORY, cosign, [f"sha256-{BOTH.digest.partition(':')[2]}.sig"])
    facts, _ = await fetch(mirror, "alpine:v1", referrers=True)
    assert facts.state is JobState.DONE
    wanted = whole(BOTH, AMD64, PROOF, sbom, signature, cosign)
    assert wanted <= here(mirror)
    upstream.fail(faults.no_answer())
    listed = await mirror.get(f"/v2/{REPOSITORY}/referrers/{AMD64.digest}")
    assert [each["digest"] for each in json.loads(listed.body)["manifests"]] == [sbom.digest]


async def test_pulls_are_left_to_clients(tmp_path: Path, upstream: FakeRegistry) -> None:
    """An image behind an index costs two: however many are wanted, no pull is taken too many."""
    async with HubRegistry() as hub:
        hub.budget.limit = 10
        for number in range(8):
            hub.push(f"team/app{number}", index([image(20 + number, layers=1)]), ["v1"])
        async with mirror_of(tmp_path / "cache", {"docker.io": hub}) as mirror:
            names = [f"team/app{number}:v1" for number in range(8)]
            facts, progress = await fetch(mirror, *names, keep_quota=0.35, parallel=8)
    assert hub.budget.used == 6, "4 of 10 are left: one more would leave less than 35%"
    assert (facts.state, facts.failed) == (JobState.INCOMPLETE, 0)
    skipped = [each for each in progress.images if each.state is ImageState.SKIPPED]
    assert len(skipped) == facts.skipped >= 8 - 6
    assert "35% are kept for clients" in str(skipped[-1].error)


async def test_what_is_here_costs_no_pull(mirror: Mirror, upstream: FakeRegistry) -> None:
    upstream.options.manifest_headers = {
        "ratelimit-limit": "100;w=21600",
        "ratelimit-remaining": "20;w=21600",
    }
    await mirror.get(manifest_path("v1", "team/app"))
    facts, progress = await fetch(mirror, "team/app:v1", "alpine:v1")
    app, alpine = progress.images
    assert (app.state, alpine.state) == (ImageState.DONE, ImageState.SKIPPED)
    assert alpine.error == "docker.io has 20 of 100 pulls left, and 20% are kept for clients"
    facts, _ = await fetch(mirror, "alpine:v1", keep_quota=0.0)
    assert facts.state is JobState.DONE


async def test_it_can_be_watched_and_stopped_and_goes_on_later(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    large = image(5, layers=1, layer_bytes=3 * MIB)
    upstream.push(REPOSITORY, large, ["large"])
    digest = large.layers[0].digest
    async with mirror_of(
        tmp_path / "cache", {"docker.io": upstream}, fill=Fill(abandon="stop")
    ) as mirror:
        prefetcher = mirror.up.prefetcher
        gate = upstream.hold_body(after_bytes=2 * MIB, reference=digest)
        job = prefetcher.start(PrefetchWish(("alpine:large",)))
        await gate.arrivals()
        async for progress in prefetcher.watch(job.id):
            layers = [layer for each in progress.images for layer in each.layers]
            if any(each.received_bytes > MIB for each in layers):
                break
        stopped = await prefetcher.cancel(job.id)
        gate.release()
        assert (stopped.state, stopped.done) == (JobState.CANCELLED, 0)
        assert MIB < stopped.done_bytes < stopped.total_bytes
        last = [each async for each in prefetcher.watch(job.id)]
        assert last[-1].images[0].state is ImageState.CANCELLED
        await mirror.settled()
        facts, _ = await fetch(mirror, "alpine:large")
        assert facts.state is JobState.DONE
        assert 0 < facts.fetched_bytes < large.layers[0].size_bytes - MIB
        assert [each.header("range") for each in upstream.requests if each.reference == digest][-1]


async def test_what_there_is_no_room_for_fails(tmp_path: Path, upstream: FakeRegistry) -> None:
    large = image(5, layers=1, layer_bytes=3 * MIB)
    upstream.push(REPOSITORY, large, ["large"])
    cache = {"max_size": SizeOrShare(size_bytes=2 * MIB)}
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, cache=cache) as mirror:
        mirror.up.prefetcher._retry_seconds = 0
        facts, progress = await fetch(mirror, "alpine:large")
        assert facts.state is JobState.INCOMPLETE
        assert "no room in the cache" in str(progress.images[0].error)


async def test_wrong_wishes_are_refused(mirror: Mirror) -> None:
    with pytest.raises(RefusedError, match="not a platform"):
        mirror.up.prefetcher.start(PrefetchWish(("alpine",), ("Linux",)))
    with pytest.raises(RefusedError, match="no prefetch 'nope'"):
        mirror.up.prefetcher.progress("nope")
    with pytest.raises(RefusedError, match="no prefetch 'nope'"):
        await mirror.up.prefetcher.cancel("nope")


async def test_a_prefetch_is_asked_for_over_http(mirror: Mirror) -> None:
    headers = {"X-Mirror-CSRF": "1"}
    url = f"{mirror.admin_url}/api/v1/prefetch"
    wish = json.dumps({"images": ["alpine:v1"], "platforms": ["linux/amd64"]})
    async with mirror.session.post(url, data=wish, headers=headers) as answer:
        job = json.loads(await answer.read())
    async with mirror.session.get(f"{url}/events?id={job['id']}") as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        events = (await answer.read()).split(b"\n\n")
    last = json.loads(events[-2].removeprefix(b"data: "))
    assert last["job"]["state"] == "done"
    async with mirror.session.get(f"{url}/progress?id={job['id']}") as answer:
        assert json.loads(await answer.read())["images"][0]["state"] == "done"
    async with mirror.session.get(url) as answer:
        assert [each["id"] for each in json.loads(await answer.read())["prefetches"]] == [job["id"]]
    async with mirror.session.delete(f"{url}?id={job['id']}", headers=headers) as answer:
        assert json.loads(await answer.read())["state"] == "done"
    async with mirror.session.get(f"{url}/events?id=nope") as answer:
        assert answer.status == 404


async def test_who_looks_on_may_leave(
    tmp_path: Path,
    upstream: FakeRegistry,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefetching, "_TICK_SECONDS", 0.001)
    upstream.push("team/app", AMD64, ["v1"])
    gate = upstream.hold_body(reference=AMD64.layers[0].digest)
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}) as mirror:
        job = mirror.up.prefetcher.start(PrefetchWish(("team/app:v1",)))
        url = f"{mirror.admin_url}/api/v1/prefetch/events?id={job.id}"
        async with mirror.session.get(url) as answer:
            await answer.content.readuntil(b"\n\n")
            answer.close()
        await gate.arrivals()
        gate.release()
        assert (await mirror.up.prefetcher.ended(job.id)).state is JobState.DONE
    assert "Error handling request" not in caplog.text
