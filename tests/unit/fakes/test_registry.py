"""The fake registry answers as the specification and distribution 2.8 do."""

import json
from collections.abc import AsyncIterator

import pytest

from tests.fakes import content, pages
from tests.fakes.clients import RawAnswer, get
from tests.fakes.registry import FakeRegistry, Redirect
from tests.fakes.wire import Kind

REPOSITORY = "library/alpine"
IMAGE = content.image()
LAYER = IMAGE.layers[0]
BLOB = f"/v2/{REPOSITORY}/blobs/{LAYER.digest}"
TAGS = f"/v2/{REPOSITORY}/tags/list"


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as running:
        running.push(REPOSITORY, IMAGE, ["latest"])
        yield running


async def ask(
    registry: FakeRegistry, target: str, *headers: tuple[str, str], method: str = "GET"
) -> RawAnswer:
    return await get(registry.host, registry.port, target, headers, method=method)


def codes(answer: RawAnswer) -> list[str]:
    return [error["code"] for error in json.loads(answer.body)["errors"]]


async def test_the_ping_is_answered_with_the_version(registry: FakeRegistry) -> None:
    answer = await ask(registry, "/v2/")
    assert (answer.status, answer.body) == (200, b"{}")
    assert answer.header("Docker-Distribution-Api-Version") == "registry/2.0"


@pytest.mark.parametrize("reference", ["latest", IMAGE.digest])
async def test_head_and_get_of_a_manifest_are_alike(registry: FakeRegistry, reference: str) -> None:
    target = f"/v2/{REPOSITORY}/manifests/{reference}"
    got = await ask(registry, target)
    head = await ask(registry, target, method="HEAD")
    assert got.headers == head.headers
    assert (got.body, head.body) == (IMAGE.content, b"")
    assert got.header("Content-Type") == content.OCI_MANIFEST
    assert got.header("Docker-Content-Digest") == IMAGE.digest
    assert got.header("ETag") == f'"{IMAGE.digest}"'
    assert got.header("Content-Length") == str(len(IMAGE.content))


@pytest.mark.parametrize(
    ("asked", "span"),
    [
        ("0-", slice(None)),
        ("0-9", slice(0, 10)),
        ("5-", slice(5, None)),
        ("-5", slice(-5, None)),
        ("0-99999", slice(None)),
    ],
)
async def test_a_range_of_a_blob(registry: FakeRegistry, asked: str, span: slice) -> None:
    answer = await ask(registry, BLOB, ("Range", f"bytes={asked}"))
    size = LAYER.size_bytes
    first, last, _ = span.indices(size)
    assert answer.status == 206
    assert answer.body == LAYER.content[span]
    assert answer.header("Content-Range") == f"bytes {first}-{last - 1}/{size}"


@pytest.mark.parametrize("asked", ["0-1,4-5", "x", ""])
async def test_other_ranges_get_everything(registry: FakeRegistry, asked: str) -> None:
    answer = await ask(registry, BLOB, ("Range", f"bytes={asked}"))
    assert (answer.status, answer.body) == (200, LAYER.content)


@pytest.mark.parametrize("asked", ["999999-", "9-3", "-0"])
async def test_a_range_beyond_the_end_is_refused(registry: FakeRegistry, asked: str) -> None:
    answer = await ask(registry, BLOB, ("Range", f"bytes={asked}"))
    assert answer.status == 416
    assert answer.header("Content-Range") == f"bytes */{LAYER.size_bytes}"


async def test_a_registry_may_not_know_ranges(registry: FakeRegistry) -> None:
    registry.options.ranges = False
    assert (await ask(registry, BLOB, ("Range", "bytes=0-9"))).status == 200


async def test_what_the_client_has_is_not_sent_again(registry: FakeRegistry) -> None:
    answer = await ask(registry, BLOB, ("If-None-Match", f'"{LAYER.digest}"'))
    assert (answer.status, answer.body, answer.header("Content-Length")) == (304, b"", None)


async def test_what_is_missing_has_its_code(registry: FakeRegistry) -> None:
    nothing = "sha256:" + "0" * 64
    for path, code in [
        (f"/v2/{REPOSITORY}/manifests/nope", "MANIFEST_UNKNOWN"),
        (f"/v2/{REPOSITORY}/blobs/{nothing}", "BLOB_UNKNOWN"),
        (f"/v2/other/blobs/{LAYER.digest}", "BLOB_UNKNOWN"),
        ("/v2/other/tags/list", "NAME_UNKNOWN"),
    ]:
        answer = await ask(registry, path)
        assert (answer.status, codes(answer)) == (404, [code])
    assert (await ask(registry, "/v2/_catalog")).status == 404
    assert (await ask(registry, "/somewhere")).status == 404
    assert (await ask(registry, BLOB, method="DELETE")).status == 405


async def test_accept_may_be_taken_seriously(registry: FakeRegistry) -> None:
    registry.options.checks_accept = True
    target = f"/v2/{REPOSITORY}/manifests/latest"
    docker_only = ("Accept", content.DOCKER_MANIFEST)
    assert (await ask(registry, target, docker_only)).status == 404
    two_lines = (docker_only, ("Accept", f"{content.OCI_MANIFEST};q=0.5"))
    assert (await ask(registry, target, *two_lines)).status == 200


async def test_a_tag_can_be_moved_and_deleted(registry: FakeRegistry) -> None:
    newer = content.image(2)
    registry.push(REPOSITORY, newer)
    registry.move_tag(REPOSITORY, "latest", newer.digest)
    target = f"/v2/{REPOSITORY}/manifests/latest"
    assert (await ask(registry, target)).body == newer.content
    registry.delete_tag(REPOSITORY, "latest")
    assert (await ask(registry, target)).status == 404
    registry.delete_manifest(REPOSITORY, newer.digest)
    assert (await ask(registry, f"/v2/{REPOSITORY}/manifests/{newer.digest}")).status == 404
    registry.delete_blob(REPOSITORY, LAYER.digest)
    assert (await ask(registry, BLOB)).status == 404
    registry.delete_repository(REPOSITORY)
    assert not registry.has(REPOSITORY)


async def test_content_may_have_a_wrong_digest(registry: FakeRegistry) -> None:
    wrong = "sha256:" + "a" * 64
    registry.put_blob(REPOSITORY, b"other", wrong)
    assert (await ask(registry, f"/v2/{REPOSITORY}/blobs/{wrong}")).body == b"other"
    registry.put_manifest(REPOSITORY, ["odd", wrong], b"{}", content.OCI_MANIFEST)
    by_digest = await ask(registry, f"/v2/{REPOSITORY}/manifests/{wrong}")
    assert by_digest.header("Docker-Content-Digest") == wrong
    by_tag = await ask(registry, f"/v2/{REPOSITORY}/manifests/odd")
    assert by_tag.header("Docker-Content-Digest") == content.digest_of(b"{}")


async def test_an_index_brings_its_images(registry: FakeRegistry) -> None:
    made = content.index([content.image(5, algorithm="sha512")])
    registry.push("a/b", made, ["multi"])
    child = made.manifests[0]
    assert (await ask(registry, f"/v2/a/b/manifests/{child.digest}")).body == child.content


@pytest.mark.parametrize("absolute", [False, True])
async def test_tags_come_in_pages(registry: FakeRegistry, *, absolute: bool) -> None:
    registry.options.absolute_links = absolute
    registry.push(REPOSITORY, IMAGE, ["a", "b", "c"])
    answer = await ask(registry, f"{TAGS}?n=2")
    base = registry.url if absolute else ""
    assert json.loads(answer.body) == {"name": REPOSITORY, "tags": ["a", "b"]}
    assert answer.header("Link") == f'<{base}{TAGS}?n=2&last=b>; rel="next"'
    answer = await ask(registry, f"{TAGS}?n=2&last=b")
    assert json.loads(answer.body)["tags"] == ["c", "latest"]
    assert answer.header("Link") is None
    assert json.loads((await ask(registry, f"{TAGS}?n=0")).body)["tags"] == []


async def test_a_registry_may_limit_or_ignore_pages(registry: FakeRegistry) -> None:
    registry.push(REPOSITORY, IMAGE, ["a", "b"])
    registry.options.tag_n_limit = 1000
    assert (await ask(registry, f"{TAGS}?n=1001")).status == 400
    registry.options.tag_page_limit = 1
    assert json.loads((await ask(registry, f"{TAGS}?n=2")).body)["tags"] == ["a"]
    registry.options.tag_page_limit = None
    registry.options.tag_paging = False
    assert json.loads((await ask(registry, f"{TAGS}?n=1&last=a")).body)["tags"] == [
        "a",
        "b",
        "latest",
    ]


async def test_referrers_are_listed_filtered_and_paged(registry: FakeRegistry) -> None:
    target = f"/v2/{REPOSITORY}/referrers/{IMAGE.digest}"
    answer = await ask(registry, target)
    assert answer.header("Content-Type") == content.OCI_INDEX
    assert json.loads(answer.body)["manifests"] == []
    sbom = content.artifact(IMAGE)
    note = content.artifact(IMAGE, artifact_type="text/note", content=b"n")
    registry.push(REPOSITORY, sbom)
    registry.push(REPOSITORY, note)
    answer = await ask(registry, f"{target}?artifactType=text/note")
    assert [each["digest"] for each in json.loads(answer.body)["manifests"]] == [note.digest]
    assert answer.header("OCI-Filters-Applied") == "artifactType"
    registry.options.referrers_page_limit = 1
    answer = await ask(registry, target)
    assert answer.header("Link") == f'<{target}?page=1>; rel="next"'
    assert len(json.loads((await ask(registry, f"{target}?page=1")).body)["manifests"]) == 1
    assert (await ask(registry, f"/v2/{REPOSITORY}/referrers/sha256:x")).status == 400


async def test_referrers_may_be_kept_under_a_fallback_tag(registry: FakeRegistry) -> None:
    registry.options.referrers_api = False
    registry.options.fallback_tags = True
    sbom = content.artifact(IMAGE)
    registry.push(REPOSITORY, sbom)
    answer = await ask(registry, f"/v2/{REPOSITORY}/referrers/{IMAGE.digest}")
    assert (answer.status, answer.header("Content-Type")) == (404, "text/plain; charset=utf-8")
    tag = pages.fallback_tag(IMAGE.digest)
    assert tag == IMAGE.digest.replace(":", "-")
    answer = await ask(registry, f"/v2/{REPOSITORY}/manifests/{tag}")
    assert [each["digest"] for each in json.loads(answer.body)["manifests"]] == [sbom.digest]


async def test_kinds_of_requests_can_be_redirected(registry: FakeRegistry) -> None:
    registry.redirects[Kind.BLOB] = Redirect(
        locate=lambda request: f"https://elsewhere.test{request.path}",
        status=302,
        body=b"<html>",
        media_type="text/html",
        digest_header=True,
    )
    answer = await ask(registry, BLOB)
    assert (answer.status, answer.body) == (302, b"<html>")
    assert answer.header("Location") == f"https://elsewhere.test{BLOB}"
    assert answer.header("Docker-Content-Digest") == LAYER.digest


async def test_a_digest_may_be_percent_encoded(registry: FakeRegistry) -> None:
    target = f"/v2/{REPOSITORY}/blobs/{LAYER.digest.replace(':', '%3A')}"
    assert (await ask(registry, target)).status == 200
    assert registry.requests[-1].target == target
    assert registry.requests[-1].reference == LAYER.digest
