"""What the tests of the registry listener share: paths, and answers as they are on the wire."""

from collections.abc import Mapping

from tests.fakes.clients import RawAnswer, RawClient, compose
from tests.fakes.clients import get as raw_get
from tests.harness import Got, Mirror

REPOSITORY = "library/alpine"
NOWHERE = "sha256:" + "0" * 64
OF_THE_MOMENT = frozenset({"date", "x-request-id", "cache-status"})


def manifest_path(reference: str, repository: str = REPOSITORY) -> str:
    return f"/v2/{repository}/manifests/{reference}"


def blob_path(digest: str, repository: str = REPOSITORY) -> str:
    return f"/v2/{repository}/blobs/{digest}"


def lasting(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the headers that must be the same each time."""
    named = [(name.lower(), value) for name, value in headers.items()]
    return [(name, value) for name, value in named if name not in OF_THE_MOMENT]


async def ask(
    mirror: Mirror, target: str, *headers: tuple[str, str], method: str = "GET"
) -> RawAnswer:
    """Send exactly this target and these header lines."""
    return await raw_get(mirror.host, mirror.port, target, headers, method=method)


async def everything(
    mirror: Mirror, target: str, *headers: tuple[str, str], method: str = "GET", body: bytes = b""
) -> bytes:
    """Return every byte up to the end of the connection, head included."""
    lines = [*headers, ("Connection", "close")]
    if body:
        lines.append(("Content-Length", str(len(body))))
    received = bytearray()
    async with await RawClient.connect(mirror.host, mirror.port) as client:
        await client.send(compose(target, lines, method=method, body=body))
        try:
            while True:
                received += await client.read(1)
        except EOFError:
            return bytes(received)


def following(got: Got) -> str | None:
    link = got.headers.get("Link")
    if link is None:
        return None
    assert link.endswith('>; rel="next"')
    return link[1:].partition(">")[0]


async def all_pages(mirror: Mirror, first: str) -> list[Got]:
    pages, path = [], first
    while True:
        pages.append(await mirror.get(path))
        nearby = following(pages[-1])
        if nearby is None:
            return pages
        assert nearby.startswith(first.partition("?")[0] + "?")
        assert len(pages) < 20
        path = nearby
