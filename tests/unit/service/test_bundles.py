"""A bundle carries images from one mirror to another, or is refused as a whole."""

import asyncio
import io
import json
import random
import tarfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession

from mirror.app import stopped_cache
from mirror.domain.bundles import CONTENTS, CONTENTS_MAX_BYTES, header, object_path, padding
from mirror.domain.names import Digest
from mirror.service.bundles import ExportWish
from mirror.service.cache_admin import CacheAdmin
from mirror.service.refusals import RefusalCode, RefusedError
from mirror.settings import Credential, Policy, Upstream
from mirror.settings.units import SizeOrShare
from mirror.store.changes import Changes
from mirror.store.checking import Finding
from tests.fakes.auth import BasicGuard
from tests.fakes.clock import FakeClock
from tests.fakes.content import Image, artifact, image, index
from tests.fakes.registry import FakeRegistry
from tests.harness import LOOPBACK, Mirror, mirror_of, settings

ONE, TWO, LATER = image(1), image(2, architecture="arm64"), image(3)
BOTH = index([ONE, TWO])
SIGNATURE = artifact(ONE)
NAME = "library/alpine"
CSRF = {"X-Mirror-CSRF": "1"}
OFFLINE = Policy(mode="offline")


async def fill(up: Mirror, upstream: FakeRegistry) -> None:
    """Pull an index with both of its images and the referrers of one."""
    upstream.push(NAME, BOTH, ["both"])
    upstream.push(NAME, SIGNATURE)
    for each in ("both", ONE.digest, TWO.digest, SIGNATURE.digest):
        assert (await up.get(f"/v2/{NAME}/manifests/{each}")).status == 200
    for pulled in (ONE, TWO, SIGNATURE):
        await up.pull_blobs(NAME, pulled)
    assert (await up.get(f"/v2/{NAME}/referrers/{ONE.digest}")).status == 200


_MADE: list[bytes] = []
"""The bundle, which is the same for all tests: it is made once."""


@pytest.fixture
async def bundle(tmp_path: Path) -> bytes:
    if not _MADE:
        clock = FakeClock(1_800_000_000.0)
        async with (
            FakeRegistry() as hub,
            mirror_of(tmp_path / "first", {"docker.io": hub}, clock=clock) as first,
        ):
            await fill(first, hub)
            _MADE.append(await exported(first, "all=1"))
    return _MADE[0]


@pytest.fixture
async def filled(mirror: Mirror, upstream: FakeRegistry) -> Mirror:
    await fill(mirror, upstream)
    return mirror


async def exported(up: Mirror, query: str, inventory: bytes = b"", status: int = 200) -> bytes:
    url = f"{up.admin_url}/api/v1/cache/export?{query}"
    async with up.session.post(url, data=inventory, headers=CSRF) as answer:
        content = await answer.read()
    assert answer.status == status, content
    return content


async def taken(up: Mirror, bundle: bytes, status: int = 200) -> Any:  # noqa: ANN401 -- JSON
    url = f"{up.admin_url}/api/v1/cache/import"
    async with up.session.post(url, data=bundle, headers=CSRF) as answer:
        content = await answer.json()
    assert answer.status == status, content
    return content


async def inventory_of(up: Mirror) -> bytes:
    async with up.session.get(f"{up.admin_url}/api/v1/cache/inventory") as answer:
        return await answer.read()


def target(tmp_path: Path, policy: Policy = OFFLINE) -> AbstractAsyncContextManager[Mirror]:
    return mirror_of(tmp_path / "inside", {"docker.io": "http://127.0.0.1:1"}, policy=policy)


@asynccontextmanager
async def stopped(tmp_path: Path) -> AsyncIterator[CacheAdmin]:
    cache = settings(tmp_path / "inside", {"docker.io": "http://127.0.0.1:1"})
    async with stopped_cache(cache) as admin:
        yield admin


async def pieces(content: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def is_right(cache: CacheAdmin) -> None:
    """Check that nothing in a cache is wrong."""
    findings = [each async for each in cache.verify(repair=False) if isinstance(each, Finding)]
    assert findings == []


def files(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {each.name: _read(tar, each) for each in tar}


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def packed(members: Iterable[tuple[str, bytes]]) -> bytes:
    tar = b"".join(header(name, len(data)) + data + padding(len(data)) for name, data in members)
    return tar + bytes(1024)


def is_empty(directory: Path) -> bool:
    """Tell whether a cache has nothing, not even something that waits."""
    roots = [directory / each for each in ("blobs", "refs", "partial")]
    return not any(path.is_file() for root in roots for path in root.rglob("*"))


@pytest.mark.parametrize("is_running", [True, False])
async def test_what_is_imported_is_served_offline(
    bundle: bytes, tmp_path: Path, *, is_running: bool
) -> None:
    if not is_running:
        async with stopped(tmp_path) as cache:
            done = await cache.bundles.take(pieces(bundle))
            assert done.new_objects == done.objects
    async with target(tmp_path) as inside:
        if is_running:
            missing = await inside.get(f"/v2/{NAME}/manifests/both")
            assert missing.status == 404  # and is not remembered
            await taken(inside, bundle)
        got = await inside.get(f"/v2/{NAME}/manifests/both")
        assert (got.status, got.body) == (200, BOTH.content)
        for each in (ONE, TWO, SIGNATURE):
            assert (await inside.get(f"/v2/{NAME}/manifests/{each.digest}")).body == each.content
            for blob in each.blobs:
                assert (await inside.get(f"/v2/{NAME}/blobs/{blob.digest}")).body == blob.content
        listed = await inside.get(f"/v2/{NAME}/referrers/{ONE.digest}")
        assert json.loads(listed.body)["manifests"][0]["digest"] == SIGNATURE.digest
        tags = await inside.get(f"/v2/{NAME}/tags/list")
        assert json.loads(tags.body)["tags"] == ["both"]
    async with stopped(tmp_path) as cache:
        await is_right(cache)


async def test_it_is_an_oci_layout_and_the_same_each_time(
    bundle: bytes, filled: Mirror, tmp_path: Path
) -> None:
    found = files(bundle)
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    entries = json.loads(found["index.json"])["manifests"]
    names = [each["annotations"]["org.opencontainers.image.ref.name"] for each in entries]
    assert names == [f"docker.io/{NAME}:both"]
    assert entries[0]["digest"] == BOTH.digest
    blobs = [name for name in found if name.startswith("blobs/")]
    assert blobs == sorted(blobs)
    for name in blobs:
        assert Digest.of(found[name]).hex == name.rpartition("/")[2]
    assert await exported(filled, f"ref={NAME}:both") == bundle
    async with target(tmp_path) as inside:
        await taken(inside, bundle)
        again = await taken(inside, bundle)
        assert (again["new_objects"], again["new_bytes"]) == (0, 0)
        assert await exported(inside, "all=1") == bundle


async def test_only_the_difference_travels(
    bundle: bytes, filled: Mirror, upstream: FakeRegistry, tmp_path: Path
) -> None:
    async with target(tmp_path) as inside:
        await taken(inside, bundle)
        inventory = await inventory_of(inside)
        upstream.push(NAME, LATER, ["later"])
        await filled.get(f"/v2/{NAME}/manifests/later")
        await filled.pull_blobs(NAME, LATER)
        difference = await exported(filled, "all=1", inventory)
        assert {f"sha256:{each[13:]}" for each in files(difference) if each[:6] == "blobs/"} == {
            each.digest for each in (LATER, *LATER.blobs)
        }
        done = await taken(inside, difference)
        assert done["new_bytes"] == sum(each.size_bytes for each in (LATER, *LATER.blobs))
        assert (await inside.get(f"/v2/{NAME}/manifests/later")).body == LATER.content
    async with mirror_of(tmp_path / "empty", {"docker.io": upstream}) as empty:
        refused = (await taken(empty, difference, 422))["error"]
        assert "does not carry" in refused["message"]
        assert "--missing-in" in refused["hint"]
        assert is_empty(tmp_path / "empty")


async def test_what_the_disk_has_lost_is_not_taken_for_here(bundle: bytes, tmp_path: Path) -> None:
    layer, config = ONE.layers[0], ONE.config
    async with target(tmp_path) as inside:
        await taken(inside, bundle)
        inside.stored(ONE.digest).unlink()
        inside.stored(layer.digest).unlink()
        inside.stored(config.digest).write_bytes(config.content[:-1])
        there = set(json.loads(await inventory_of(inside))["objects"])
        assert not there & {ONE.digest, layer.digest, config.digest}
        done = await taken(inside, bundle)
        assert done["new_objects"] == len((ONE, layer, config))
        assert (await inside.get(f"/v2/{NAME}/manifests/{ONE.digest}")).body == ONE.content
        for blob in ONE.blobs:
            assert (await inside.get(f"/v2/{NAME}/blobs/{blob.digest}")).body == blob.content
    async with stopped(tmp_path) as cache:
        await is_right(cache)


async def test_platforms_and_dates_choose(bundle: bytes, filled: Mirror) -> None:
    found = files(await exported(filled, f"ref={NAME}:both&platform=linux/arm64"))
    assert f"blobs/sha256/{TWO.digest[7:]}" in found
    assert f"blobs/sha256/{ONE.digest[7:]}" not in found
    assert len(files(await exported(filled, "since=2027-01-16"))) < 4  # on 15 January it came
    assert await exported(filled, "since=2027-01-15") == bundle
    for query, status in (
        ("since=yesterday", 400),
        ("platform=x&all=1", 400),
        ("ref=busybox", 404),
        (f"ref={NAME}:both&platform=linux/s390x", 404),
        ("", 400),
    ):
        assert b"hint" in await exported(filled, query, status=status)
    assert b"inventory" in await exported(filled, "all=1", b"{}", 400)


async def test_a_platform_is_chosen_of_all_images_too(
    filled: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push(NAME, LATER)
    await filled.get(f"/v2/{NAME}/manifests/{LATER.digest}")
    await filled.pull_blobs(NAME, LATER)
    for choice in ("all=1", "since=2027-01-15"):
        found = files(await exported(filled, f"{choice}&platform=linux/arm64"))
        for each in (BOTH, TWO, *TWO.blobs, LATER, *LATER.blobs):  # the last is of no index
            assert f"blobs/sha256/{each.digest[7:]}" in found
        for each in (ONE, *ONE.blobs):
            assert f"blobs/sha256/{each.digest[7:]}" not in found


@pytest.mark.parametrize("found_by", ["list", "tag"])
async def test_a_signature_that_came_since_brings_an_older_image_along(
    filled: Mirror, upstream: FakeRegistry, clock: FakeClock, found_by: str
) -> None:
    late, tag = artifact(ONE, content=b"late"), f"sha256-{ONE.digest[7:]}.sig"

    async def news() -> dict[str, bytes]:
        return files(await exported(filled, f"ref={NAME}:both&since=2027-01-16"))

    async def ask_again() -> None:
        clock.advance(2 * 24 * 3600)
        await filled.get(f"/v2/{NAME}/referrers/{ONE.digest}")

    await ask_again()  # what is only confirmed is no news
    assert json.loads((await news())[CONTENTS])["repositories"] == []
    upstream.push(NAME, late, [tag])
    if found_by == "list":
        await ask_again()
    else:
        await filled.get(f"/v2/{NAME}/manifests/{tag}")
        await filled.pull_blobs(NAME, late)
    found = await news()
    for each in (BOTH, ONE, TWO):
        assert f"blobs/sha256/{each.digest[7:]}" in found
    [listed] = json.loads(found[CONTENTS])["repositories"][0]["lists"]
    is_listed = late.digest.encode() in found[object_path(listed["digest"])]
    is_carried = f"blobs/sha256/{late.digest[7:]}" in found
    assert (is_listed, is_carried) == (found_by == "list", found_by == "tag")


async def test_that_nothing_refers_to_an_image_is_no_news(filled: Mirror, clock: FakeClock) -> None:
    clock.advance(2 * 24 * 3600)
    assert await referrers_of(filled, TWO) == set()  # asked for the first time
    found = files(await exported(filled, f"ref={NAME}:both&since=2027-01-16"))
    assert json.loads(found[CONTENTS])["repositories"] == []


async def test_a_list_in_pages_is_carried_whole_or_not_at_all(
    filled: Mirror, upstream: FakeRegistry, clock: FakeClock, tmp_path: Path
) -> None:
    more = [artifact(ONE, content=bytes([number])) for number in range(2)]
    for each in more:
        upstream.push(NAME, each)
        await filled.get(f"/v2/{NAME}/manifests/{each.digest}")
        await filled.pull_blobs(NAME, each)
    upstream.options.referrers_page_limit = 1
    clock.advance(2 * 24 * 3600)
    wish, left_out = ExportWish((f"{NAME}:both",)), list[int]()
    for page in range(3):
        await filled.get(f"/v2/{NAME}/referrers/{ONE.digest}" + (f"?page={page}" if page else ""))
        found, _ = await filled.up.cache.bundles.export(wish)
        left_out.append(found.lists)
    assert left_out == [1, 1, 0]
    bundle = await exported(filled, f"ref={NAME}:both")
    async with target(tmp_path) as inside:
        await taken(inside, bundle)
        assert await referrers_of(inside, ONE) == {each.digest for each in (SIGNATURE, *more)}
        for each in more:
            got = await inside.get(f"/v2/{NAME}/manifests/{each.digest}")
            assert got.body == each.content
        assert await exported(inside, f"ref={NAME}:both") == bundle


async def test_a_bundle_that_is_corrupt_anywhere_leaves_nothing(
    bundle: bytes, tmp_path: Path
) -> None:
    chance = random.Random(1)
    async with stopped(tmp_path) as cache:
        for position in chance.sample(range(len(bundle)), 40):
            wrong = bytearray(bundle)
            wrong[position] ^= 1 << chance.randrange(8)
            with pytest.raises(RefusedError) as refused:
                await cache.bundles.take(pieces(bytes(wrong)))
            assert refused.value.code in {RefusalCode.UNFIT, RefusalCode.FULL}
            assert is_empty(tmp_path / "inside"), position
        assert cache.totals().reserved_bytes == cache.totals().used_bytes == 0


async def test_an_import_that_is_cut_is_done_again(bundle: bytes, tmp_path: Path) -> None:
    chance = random.Random(7)
    async with stopped(tmp_path) as cache:
        for length in chance.sample(range(len(bundle) - 1), 30):
            with pytest.raises(RefusedError, match="ends in the middle"):
                await cache.bundles.take(pieces(bundle[:length], chance.randrange(1, 9000)))
            assert is_empty(tmp_path / "inside")
        done = await cache.bundles.take(pieces(bundle))
        assert done.new_objects == done.objects


async def test_an_import_that_fails_while_it_enters_goes_on(
    bundle: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = Changes.commit, 0

    async def failing(*arguments: Any) -> None:  # noqa: ANN401 -- those of commit
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(5, "Input/output error")
        await real(*arguments)

    entered = set()
    async with stopped(tmp_path) as cache:
        monkeypatch.setattr(Changes, "commit", failing)
        for moment in range(8):
            left = moment
            with pytest.raises(OSError, match="Input/output"):
                await cache.bundles.take(pieces(bundle))
            entered.add(cache.totals().stored_bytes)
        monkeypatch.undo()
        done = await cache.bundles.take(pieces(bundle))
        assert len(entered) > 3
        assert 0 < done.new_objects < done.objects
        assert cache.totals().reserved_bytes == 0
        assert not list((tmp_path / "inside" / "partial").iterdir())
        await is_right(cache)


def changed(bundle: bytes, change: Callable[[Any], None]) -> bytes:
    """Return a bundle whose contents say something else."""
    found = files(bundle)
    contents = json.loads(found[CONTENTS])
    change(contents)
    found[CONTENTS] = json.dumps(contents, separators=(",", ":")).encode()
    return packed(found.items())


def _path(name: str) -> Callable[[Any], None]:
    return lambda contents: contents["repositories"][0].update(name=name)


def _all_blobs(contents: Any) -> None:  # noqa: ANN401 -- JSON
    for each in contents["objects"]:
        each["kind"] = "blob"


HOSTILE_CONTENTS: dict[str, Callable[[Any], None]] = {
    "repository that climbs": _path("../../etc"),
    "upstream that climbs": lambda c: c["repositories"][0].update(upstream=".."),
    "tag that climbs": lambda c: c["repositories"][0]["tags"][0].update(name="../x"),
    "scope that climbs": lambda c: c["objects"][0].update(scopes=["../x"]),
    "no scope": lambda c: c["objects"][0].update(scopes=[]),
    "digest that climbs": lambda c: c["objects"][0].update(digest="sha256:../../x"),
    "negative size": lambda c: c["objects"][0].update(size_bytes=-1),
    "huge size": lambda c: c["objects"][0].update(size_bytes=1 << 62),
    "another kind": lambda c: c["objects"][0].update(kind="device"),
    "another version": lambda c: c.update(version=2),
    "another index": lambda c: c.update(index="sha256:" + "0" * 64),
    "objects in disorder": lambda c: c["objects"].reverse(),
    "an object twice": lambda c: c["objects"].insert(0, c["objects"][0]),
    "a repository twice": lambda c: c["repositories"].append(c["repositories"][0]),
    "a tag of nothing": lambda c: c["repositories"][0].update(manifests=[]),
    "a blob as a manifest": _all_blobs,
    "what others own": lambda c: c["repositories"][0]["manifests"][0].update(scope="ghcr.io"),
    "a field too many": lambda c: c.update(more=1),
}


async def test_hostile_contents_are_refused(bundle: bytes, tmp_path: Path) -> None:
    async with stopped(tmp_path) as cache:
        for name, change in HOSTILE_CONTENTS.items():
            with pytest.raises(RefusedError) as refused:
                await cache.bundles.take(pieces(changed(bundle, change)))
            assert refused.value.code is RefusalCode.UNFIT, name
            assert is_empty(tmp_path / "inside"), name


def _foreign(bundle: bytes) -> dict[str, bytes]:
    found = list(files(bundle).items())
    link = tarfile.TarInfo("blobs")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    endless = tarfile.TarInfo(CONTENTS)
    endless.size = CONTENTS_MAX_BYTES + 1
    deep = b"[" * 100_000
    return {
        "a name that climbs": packed([*found[:3], ("../../x", b"x"), *found[3:]]),
        "a file too many": packed([*found, ("blobs/sha256/x", b"x")]),
        "another order": packed([*found[:3], *reversed(found[3:])]),
        "a link": link.tobuf(tarfile.GNU_FORMAT) + bundle,
        "endless contents": endless.tobuf(tarfile.GNU_FORMAT) + bytes(1000),
        "deep contents": packed([(CONTENTS, deep), *found[1:]]),
        "contents that are no text": packed([(CONTENTS, b'{"a":"\xff"}'), *found[1:]]),
        "another layout": packed([found[0], ("oci-layout", b"{}"), *found[2:]]),
        "a blob that is missing": packed(found[:-1]),
        "something behind it": bundle + b"x",
        "endless zeros": bundle + bytes(2 << 20),
        "nothing": b"",
        "no tar": b"x" * 5000,
    }


async def test_hostile_tars_are_refused(bundle: bytes, tmp_path: Path) -> None:
    async with stopped(tmp_path) as cache:
        for name, wrong in _foreign(bundle).items():
            with pytest.raises(RefusedError) as refused:
                await cache.bundles.take(pieces(wrong))
            assert refused.value.code is RefusalCode.UNFIT, name
            assert is_empty(tmp_path / "inside"), name
        done = await cache.bundles.take(pieces(bundle + bytes(8192)))  # as tar itself does
        assert done.new_objects


async def test_what_came_with_credentials_stays_private(tmp_path: Path) -> None:
    async with FakeRegistry() as hub:
        hub.push(NAME, ONE, ["one"])
        hub.guard = BasicGuard(users={"me": "canary-secret"})
        account = Credential(username="me", password="canary-secret")
        mine = Upstream(endpoints=(hub.url,), credentials=(account,), redirects=LOOPBACK)
        async with mirror_of(tmp_path / "outside", {"docker.io": mine}) as outside:
            await outside.get(f"/v2/{NAME}/manifests/one")
            await outside.pull_blobs(NAME, ONE)
            refused = json.loads(await exported(outside, f"ref={NAME}:one", status=400))["error"]
            assert "--with-private" in refused["hint"]
            contents = json.loads(files(await exported(outside, "all=1"))[CONTENTS])
            assert contents["objects"] == []
            left_out, _ = await outside.up.cache.bundles.export(ExportWish(everything=True))
            assert (left_out.private, left_out.incomplete) == (1, 0)
            url = f"{outside.admin_url}/api/v1/cache/export?all=1&private=1"
            assert (await outside.session.get(url)).status == 400  # reading is not enough
            bundle = await exported(outside, "all=1&private=1")
        inside = tmp_path / "inside"
        async with mirror_of(inside, {"docker.io": hub}, policy=OFFLINE) as anonymous:
            await taken(anonymous, bundle)
            assert (await anonymous.get(f"/v2/{NAME}/manifests/one")).status == 404
        for is_index_lost in (False, True):
            if is_index_lost:
                for path in (inside / "index").iterdir():
                    path.unlink()
            async with mirror_of(inside, {"docker.io": mine}, policy=OFFLINE) as same:
                assert (await same.get(f"/v2/{NAME}/manifests/one")).body == ONE.content
                for blob in ONE.blobs:
                    got = await same.get(f"/v2/{NAME}/blobs/{blob.digest}")
                    assert got.body == blob.content


async def test_a_digest_alone_opens_nothing(bundle: bytes, tmp_path: Path) -> None:
    """What is here for some only is not made public by a bundle that does not have its bytes."""
    async with stopped(tmp_path) as cache:

        def private(contents: Any) -> None:  # noqa: ANN401 -- JSON
            for each in contents["objects"]:
                each["scopes"] = ["docker.io"]
            for each in contents["repositories"][0]["manifests"]:
                each["scope"] = "docker.io"

        await cache.bundles.take(pieces(changed(bundle, private)))

        def claim(contents: Any) -> None:  # noqa: ANN401 -- JSON
            contents["objects"][0]["carried"] = False

        with pytest.raises(RefusedError, match="does not carry"):
            await cache.bundles.take(pieces(changed(bundle, claim)))


async def test_a_tag_that_was_seen_later_here_stays(
    upstream: FakeRegistry, bundle: bytes, tmp_path: Path
) -> None:
    upstream.push(NAME, LATER, ["both"])
    async with mirror_of(tmp_path / "inside", {"docker.io": upstream}) as inside:
        await inside.get(f"/v2/{NAME}/manifests/both")  # by the real clock: before the bundle's
        await taken(inside, bundle)
        assert (await exported(inside, "ref=alpine:both")) == bundle

        def older(contents: Any) -> None:  # noqa: ANN401 -- JSON
            contents["repositories"][0]["tags"][0].update(seen_at=1.0)
            contents["repositories"][0]["tags"][0].update(digest=ONE.digest)

        done = await taken(inside, changed(bundle, older))
        assert done["kept_tags"] == [f"docker.io/{NAME}:both"]


async def test_what_has_no_room_is_not_begun(bundle: bytes, tmp_path: Path) -> None:
    async with mirror_of(
        tmp_path / "inside",
        {"ghcr.io": "http://127.0.0.1:1"},
        cache={"max_size": SizeOrShare(size_bytes=1000)},
    ) as small:
        assert "max_size" in (await taken(small, bundle, 503))["error"]["hint"]
    async with mirror_of(tmp_path / "other", {"ghcr.io": "http://127.0.0.1:1"}) as other:
        assert (await taken(other, bundle))["unknown_upstreams"] == ["docker.io"]


@pytest.fixture
async def difference(bundle: bytes, filled: Mirror, upstream: FakeRegistry) -> bytes:
    """Make a bundle of all images that carries the bytes of one of them only."""
    carried = [each["digest"] for each in json.loads(files(bundle)[CONTENTS])["objects"]]
    upstream.push(NAME, LATER, ["later"])
    await filled.get(f"/v2/{NAME}/manifests/later")
    await filled.pull_blobs(NAME, LATER)
    there = json.dumps({"version": 1, "objects": carried}).encode()
    return await exported(filled, "all=1", there)


async def test_what_is_new_does_not_drive_out_what_it_needs(
    bundle: bytes, difference: bytes, tmp_path: Path
) -> None:
    sizes = [each["size_bytes"] for each in json.loads(files(difference)[CONTENTS])["objects"]]
    for size_bytes, status in ((sum(sizes) - 1, 503), (sum(sizes), 200)):
        async with mirror_of(
            tmp_path / str(status),
            {"docker.io": "http://127.0.0.1:1"},
            cache={"max_size": SizeOrShare(size_bytes=size_bytes)},
            policy=OFFLINE,
        ) as small:
            await taken(small, bundle)
            await taken(small, difference, status)
            for each in (ONE, TWO, SIGNATURE):
                for blob in each.blobs:
                    got = await small.get(f"/v2/{NAME}/blobs/{blob.digest}")
                    assert got.body == blob.content


async def test_what_goes_while_a_bundle_is_read_is_missed(
    bundle: bytes, difference: bytes, tmp_path: Path
) -> None:
    async with target(tmp_path) as inside:
        await taken(inside, bundle)

        async def evicting(content: bytes, digest: str) -> AsyncIterator[bytes]:
            yield content[:-1000]
            assert await inside.up.store.remove(Digest.parse(digest))
            yield content[-1000:]

        before = await inventory_of(inside)
        for content, gone in ((difference, ONE.layers[0]), (bundle, TWO.layers[0])):
            with pytest.raises(RefusedError, match="has gone") as refused:
                await inside.up.cache.bundles.take(evicting(content, gone.digest))
            assert refused.value.code is RefusalCode.BUSY
            assert (await inside.get(f"/v2/{NAME}/manifests/later")).status == 404
            await taken(inside, difference, 422)
            assert (await taken(inside, bundle))["new_objects"] == 1
            assert await inventory_of(inside) == before
        await taken(inside, difference)


async def referrers_of(up: Mirror, subject: Image) -> set[str]:
    listed = await up.get(f"/v2/{NAME}/referrers/{subject.digest}")
    assert listed.status == 200
    return {each["digest"] for each in json.loads(listed.body)["manifests"]}


async def test_signatures_that_come_later_join_those_that_are_here(
    upstream: FakeRegistry, bundle: bytes, tmp_path: Path
) -> None:
    own = artifact(ONE, content=b"own")
    upstream.push(NAME, ONE)
    upstream.push(NAME, own)
    async with mirror_of(tmp_path / "inside", {"docker.io": upstream}) as before:
        assert await referrers_of(before, ONE) == {own.digest}
    async with target(tmp_path) as inside:
        for _ in range(2):
            await taken(inside, bundle)
            assert await referrers_of(inside, ONE) == {own.digest, SIGNATURE.digest}
        got = await inside.get(f"/v2/{NAME}/manifests/{SIGNATURE.digest}")
        assert got.body == SIGNATURE.content


async def test_a_sender_that_goes_leaves_nothing(bundle: bytes, tmp_path: Path) -> None:
    async with target(tmp_path) as inside:
        bundles = inside.up.cache.bundles

        async def becomes(*, importing: bool) -> None:
            async with asyncio.timeout(10):
                while bundles._is_importing is not importing:  # noqa: ASYNC110 -- nobody tells
                    await asyncio.sleep(0.005)

        async def half() -> AsyncIterator[bytes]:
            yield bundle[: len(bundle) // 2]
            await becomes(importing=True)
            assert (await taken(inside, bundle, 409))["error"]["code"] == "busy"
            raise ConnectionResetError

        url = f"{inside.admin_url}/api/v1/cache/import"
        async with ClientSession() as session:
            with pytest.raises((ClientError, ConnectionResetError)):
                await session.post(url, data=half(), headers=CSRF)
        await becomes(importing=False)
        assert is_empty(tmp_path / "inside")
        await taken(inside, bundle)
        assert not list((tmp_path / "inside" / "partial").iterdir())


async def test_a_corrupt_object_cuts_the_export(filled: Mirror) -> None:
    path = filled.stored(ONE.layers[0].digest)
    path.write_bytes(bytes(path.stat().st_size))
    wish = ExportWish(everything=True)
    _, cut = await filled.up.cache.bundles.export(wish)
    with pytest.raises(RefusedError, match="corrupt"):
        assert [each async for each in cut]
    with pytest.raises(ClientError):
        await exported(filled, "all=1")
