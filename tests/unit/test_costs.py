"""How much of our code runs for what is asked most: a guard in calls, not in seconds."""

import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import pytest

import mirror as package
from tests.fakes.clients import RawClient, compose
from tests.fakes.content import blob, image
from tests.fakes.registry import FakeRegistry
from tests.harness import Mirror
from tests.unit.web.wire import REPOSITORY, ask, blob_path, manifest_path

IMAGE = image(1)
_OURS = str(Path(package.__file__).parent)
_TIMES = 20


@pytest.fixture
async def hot(mirror: Mirror, upstream: FakeRegistry) -> Mirror:
    upstream.push(REPOSITORY, IMAGE, ["v1"])
    await mirror.get(manifest_path("v1"))
    await mirror.pull_blobs(REPOSITORY, IMAGE)
    return mirror


@pytest.mark.parametrize(
    ("path", "most"),
    [
        (manifest_path(IMAGE.digest), 150),
        (manifest_path("v1"), 220),
        (blob_path(IMAGE.blobs[0].digest), 140),
    ],
    ids=["manifest by digest", "manifest by tag", "small blob"],
)
async def test_a_hit_takes_few_calls_of_ours(hot: Mirror, path: str, most: int) -> None:
    await ask(hot, path)
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_OURS):
            calls[frame.f_code.co_qualname] += 1

    sys.setprofile(count)
    try:
        for _ in range(_TIMES):
            await ask(hot, path)
    finally:
        sys.setprofile(None)
    per_hit = calls.total() / _TIMES
    assert 10 < per_hit < most, calls.most_common(20)


@pytest.mark.parametrize(
    ("path", "most"),
    [(manifest_path(IMAGE.digest), 60), (blob_path(IMAGE.blobs[0].digest), 50)],
    ids=["manifest by digest", "small blob"],
)
async def test_the_same_hit_again_takes_fewer(hot: Mirror, path: str, most: int) -> None:
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_OURS):
            calls[frame.f_code.co_qualname] += 1

    async with await RawClient.connect(hot.host, hot.port) as client:
        for turn in range(3 + _TIMES):
            if turn == 3:
                sys.setprofile(count)
            await client.send(compose(path))
            assert (await client.answer()).status == 200
        sys.setprofile(None)
    per_hit = calls.total() / _TIMES
    assert 5 < per_hit < most, calls.most_common(20)
    assert calls["RegistryApi.handle"] == 0


async def test_a_small_miss_wakes_few_threads(mirror: Mirror, upstream: FakeRegistry) -> None:
    """One look, one file, what has come, and three steps to keep it."""
    misses = [blob(200_000, seed) for seed in range(_TIMES)]
    for each in misses:
        upstream.push_blob(REPOSITORY, each)
    woken: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_qualname == "Pool.start":
            woken["threads"] += 1

    sys.setprofile(count)
    try:
        for each in misses:
            await mirror.get(blob_path(each.digest))
        await mirror.settled()
    finally:
        sys.setprofile(None)
    per_miss = woken.total() / _TIMES
    assert 3 < per_miss < 10
