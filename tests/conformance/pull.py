"""The pull category of distribution-spec v1.1.1, read from its text and written anew.

The official suite of that version has no module that a Go proxy serves, so it cannot be
installed by its name. These are the requirements of "Pulling manifests", "Pulling blobs",
"Checking if content exists in the registry" and "Error Codes" as one list.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.e2e import oci

from .suites import Content, Verdict

CODES = frozenset(
    {
        "BLOB_UNKNOWN",
        "DENIED",
        "DIGEST_INVALID",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "UNSUPPORTED",
    }
)
NOWHERE = "sha256:" + "0" * 64
Check = tuple[str, bool]


def run_pull(content: Content) -> Verdict:
    """Check every requirement and count."""
    base = f"http://{content.address}/v2/{content.repository}"
    outcomes = dict(_checks(base, content))
    failed = [name for name, good in outcomes.items() if not good]
    summary = f"{len(outcomes) - len(failed)} Passed | {len(failed)} Failed"
    output = "\n".join(f"failed: {name}" for name in failed)
    return Verdict("pull category v1.1.1", content.repository, not failed, summary, output)


def _checks(base: str, content: Content) -> Iterator[Check]:
    yield "the API says that it is there", _ask(f"{base.partition('/v2/')[0]}/v2/") == 200
    for digest in content.blobs:
        url = f"{base}/blobs/{digest}"
        yield f"GET blob {digest}", _has(url, digest)
        yield f"HEAD blob {digest}", _heads(url)
        yield f"range of blob {digest}", _ranges(url)
    for reference, digest in [
        (content.tag, content.subject),
        *((digest, digest) for digest in content.manifests),
    ]:
        url = f"{base}/manifests/{reference}"
        yield f"GET manifest {reference}", _has(url, digest)
        yield f"HEAD manifest {reference}", _heads(url)
        yield f"type of manifest {reference}", _typed(url)
    for path in (
        f"blobs/{NOWHERE}",
        f"manifests/{NOWHERE}",
        "manifests/no-such-tag",
        "manifests/.INVALID_MANIFEST_NAME",
    ):
        for method in ("GET", "HEAD"):
            url = f"{base}/{path}"
            yield f"{method} {path} is 404", _ask(url, method) == 404
        yield f"{path} has a known code", _code(url) in CODES
    malformed = f"{base}/blobs/sha256:totallywrong"
    yield "a malformed digest is refused", _ask(malformed) in {400, 404}
    yield "a malformed digest has a known code", _code(malformed) in CODES


def _get(url: str, method: str = "GET", **headers: str) -> oci.Answer:
    return oci.request(url, method, headers={"Accept": oci.ANY_MANIFEST, **headers})


def _ask(url: str, method: str = "GET") -> int:
    return _get(url, method).status


def _has(url: str, digest: str) -> bool:
    answer = _get(url)
    right = oci.digest_of(answer.body) == answer.headers["docker-content-digest"] == digest
    return answer.status == 200 and right


def _heads(url: str) -> bool:
    head, whole = _get(url, "HEAD"), _get(url)
    same = ("content-type", "content-length", "docker-content-digest")
    return head.status == 200 and all(head.headers[name] == whole.headers[name] for name in same)


def _ranges(url: str) -> bool:
    part, whole = _get(url, Range="bytes=1-"), _get(url)
    return part.status == 206 and part.body == whole.body[1:]


def _typed(url: str) -> bool:
    answer = _get(url)
    return answer.headers["content-type"] == str(answer.json()["mediaType"])


def _code(url: str) -> str:
    return str(_get(url).json()["errors"][0]["code"])
