"""Several endpoints of one upstream: their order, their names, and whose error counts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from mirror.settings import Policy, Timeouts, Upstream
from tests.fakes import faults
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.fakes.script import Fault
from tests.fakes.wire import Recorded
from tests.harness import mirror_of
from tests.unit.upstream.pulling import REPOSITORY, blob, manifest, mirrored, objects, pull

IMAGE = image()
MISSING, DENIED = faults.status(404), faults.status(403)
TROUBLE, LIMITED = faults.status(503), faults.too_many_requests(9)


@dataclass(slots=True)
class Two:
    """A mirror of a registry, and the registry itself."""

    mirror: FakeRegistry
    registry: FakeRegistry

    def upstream(self, *, registry_first: bool = False, policy: Policy | None = None) -> Upstream:
        endpoints = (self.mirror.url, self.registry.url)
        return Upstream(
            endpoints=endpoints[::-1] if registry_first else endpoints,
            aliases=(self.registry.authority,),
            policy=policy or Policy(),
        )


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    async with FakeRegistry() as mirror, FakeRegistry() as registry:
        for each in (mirror, registry):
            each.push(REPOSITORY, IMAGE, tags=["v1"])
        yield Two(mirror, registry)


async def test_the_first_that_delivers_is_enough(two: Two, tmp_path: Path) -> None:
    async with mirrored(tmp_path, two.upstream()) as mirror:
        await pull(mirror, IMAGE)
    assert two.registry.requests == []


async def test_who_is_not_the_registry_is_told_its_name(two: Two, tmp_path: Path) -> None:
    two.mirror.fail(TROUBLE)
    async with mirrored(tmp_path, two.upstream()) as mirror:
        await pull(mirror, IMAGE)
        await mirror.get(f"/v2/{REPOSITORY}/tags/list?n=5")
    assert two.mirror.requests
    assert {request.parameter("ns") for request in two.mirror.requests} == {"docker.io"}
    assert {request.parameter("ns") for request in two.registry.requests} == {None}
    assert two.mirror.count(kind="tags") == two.registry.count(kind="tags") == 1


ORDERS: dict[str, tuple[Fault, Fault, int, str]] = {
    "both missing": (MISSING, MISSING, 404, "MANIFEST_UNKNOWN"),
    "missing, denied": (MISSING, DENIED, 403, "DENIED"),
    "denied, missing": (DENIED, MISSING, 404, "MANIFEST_UNKNOWN"),
    "trouble, missing": (TROUBLE, MISSING, 404, "MANIFEST_UNKNOWN"),
    "missing, trouble": (MISSING, TROUBLE, 502, "UNKNOWN"),
    "missing, limited": (MISSING, LIMITED, 503, "TOOMANYREQUESTS"),
    "limited, denied": (LIMITED, DENIED, 403, "DENIED"),
    "limited, trouble": (LIMITED, TROUBLE, 503, "TOOMANYREQUESTS"),
    "trouble, limited": (TROUBLE, LIMITED, 502, "UNKNOWN"),
}


@pytest.mark.parametrize("what", ORDERS)
async def test_whose_error_counts(two: Two, tmp_path: Path, what: str) -> None:
    at_mirror, at_registry, status, code = ORDERS[what]
    two.mirror.fail(at_mirror)
    two.registry.fail(at_registry)
    async with mirrored(tmp_path, two.upstream()) as mirror:
        got = await mirror.get(manifest())
    assert (got.status, got.error_code) == (status, code)


@pytest.mark.parametrize("fault", [MISSING, DENIED], ids=["missing", "denied"])
async def test_what_the_registry_says_is_final(two: Two, tmp_path: Path, fault: Fault) -> None:
    """A mirror may still have what has been deleted, or closed to the public."""
    two.registry.fail(fault)
    async with mirrored(tmp_path, two.upstream(registry_first=True)) as mirror:
        assert (await mirror.get(manifest())).status in {403, 404}
    assert two.mirror.requests == []


FAILURES: dict[str, Fault] = {
    "500": faults.status(500),
    "429": faults.too_many_requests(60),
    "404": faults.status(404),
    "403": faults.status(403),
    "gone": faults.no_answer(),
    "reset": faults.no_answer(rst=True),
    "half a head": faults.no_answer(after_bytes=20),
    "encoded": faults.gzip(),
    "in a circle": faults.redirect_loop(),
    "bad header": faults.broken_header(),
}


async def test_the_next_one_helps(two: Two, tmp_path: Path) -> None:
    async with mirrored(tmp_path, two.upstream()) as mirror:
        for number, (what, fault) in enumerate(FAILURES.items()):
            pushed = image(number + 10, layers=1)
            two.registry.push(REPOSITORY, pushed, tags=[what.replace(" ", "-")])
            two.mirror.push(REPOSITORY, pushed, tags=[what.replace(" ", "-")])
            rule = two.mirror.fail(fault)
            await pull(mirror, pushed, what.replace(" ", "-"))
            assert two.registry.count(kind="manifest", reference=pushed.digest), what
            rule.cancel()


async def test_the_next_one_helps_while_the_first_is_down(two: Two, tmp_path: Path) -> None:
    await two.mirror.go_down()
    async with mirrored(tmp_path, two.upstream()) as mirror:
        await pull(mirror, IMAGE)
        assert len(objects(mirror)) == 1 + len(IMAGE.blobs)
    assert two.registry.count(kind="blob") == len(IMAGE.blobs)


SHARED_OUT = Policy(timeouts=Timeouts(response_seconds=2))
"""Of which the second has a half: enough on a busy machine, too."""


async def test_one_that_hangs_leaves_time_for_the_next(two: Two, tmp_path: Path) -> None:
    """One deadline is over all; so none of several may use it up."""
    two.mirror.hold_head()
    async with mirrored(tmp_path, two.upstream(policy=SHARED_OUT)) as mirror:
        got = await mirror.get(manifest())
    assert got.body == IMAGE.content
    assert two.mirror.count(kind="manifest") >= 1


async def test_one_that_hangs_at_a_blob_leaves_time_for_the_next(two: Two, tmp_path: Path) -> None:
    two.mirror.hold_head("blob")
    wanted = IMAGE.layers[0]
    async with mirrored(tmp_path, two.upstream(policy=SHARED_OUT)) as mirror:
        await mirror.get(manifest())
        assert (await mirror.get(blob(wanted.digest))).body == wanted.content
    assert two.mirror.count(kind="blob") == two.registry.count(kind="blob") == 1


async def test_all_that_hang_end_in_time(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        hanging = [await stack.enter_async_context(FakeRegistry()) for _ in range(3)]
        for each in hanging:
            each.hold_head()
        thirds = Policy(timeouts=Timeouts(response_seconds=0.9, idle_seconds=30))
        upstream = Upstream(endpoints=tuple(each.url for each in hanging), policy=thirds)
        async with mirrored(tmp_path, upstream) as mirror:
            began = asyncio.get_running_loop().time()
            got = await mirror.get(manifest())
            seconds = asyncio.get_running_loop().time() - began
        assert [each.count() for each in hanging] == [1, 1, 1]
    assert (got.status, got.error_code) == (504, "UNKNOWN")
    assert seconds < 10


async def test_wrong_bytes_are_nobodys_answer(two: Two, tmp_path: Path) -> None:
    """They are found out by the one who checks; here it is enough that nothing is kept."""
    for each in (two.mirror, two.registry):
        each.fail(faults.flip(3), kind="manifest", method="GET")
    async with mirrored(tmp_path, two.upstream()) as mirror:
        assert (await mirror.get(manifest(IMAGE.digest))).status == 502
        assert objects(mirror) == []


class PrefixedRegistry(FakeRegistry):
    """A registry under ``/hub/proxy``, as Artifactory and Harbor have them."""

    def classify(self, request: Recorded) -> None:
        assert request.target.startswith("/hub/proxy/v2/")
        request.target = request.target.removeprefix("/hub/proxy")
        super().classify(request)


async def test_an_endpoint_with_a_path(tmp_path: Path) -> None:
    async with PrefixedRegistry() as registry:
        registry.push(REPOSITORY, IMAGE, tags=["v1"])
        upstreams = {"docker.io": f"{registry.url}/hub/proxy"}
        async with mirror_of(tmp_path / "cache", upstreams) as mirror:
            await pull(mirror, IMAGE)
        assert {request.parameter("ns") for request in registry.requests} == {"docker.io"}
