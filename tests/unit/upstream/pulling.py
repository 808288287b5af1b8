"""What the tests of the upstream room have in common: a guarded registry, and a pull."""

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from mirror.settings import Credential, Policy, Timeouts, Upstream
from tests.fakes.auth import FakeTokenServer
from tests.fakes.content import Image, image
from tests.fakes.registry import FakeRegistry
from tests.fakes.wire import Recorded
from tests.harness import Got, Mirror, mirror_of

REPOSITORY = "library/alpine"
USER, PASSWORD = "robot", "canary-secret-1"
HASTY = Policy(
    timeouts=Timeouts(
        connect_seconds=0.3, response_seconds=0.3, revalidate_seconds=0.2, idle_seconds=1
    )
)
"""Time limits for tests that wait for one of them."""


def manifest(reference: str = "v1", repository: str = REPOSITORY) -> str:
    return f"/v2/{repository}/manifests/{reference}"


def blob(digest: str, repository: str = REPOSITORY) -> str:
    return f"/v2/{repository}/blobs/{digest}"


def account(password: str | Path = PASSWORD, **more: object) -> Credential:
    """Return the account of the robot; a path is the file with its password."""
    proof: dict[str, object] = (
        {"password_file": password}
        if isinstance(password, Path)
        else {"password": SecretStr(password)}
    )
    return Credential.model_validate({"username": USER, **proof, **more})


def basic(user: str = USER, password: str = PASSWORD) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def pull(mirror: Mirror, pushed: Image, tag: str = "v1", repository: str = REPOSITORY) -> Got:
    """Pull an image by its tag and check every byte; returns the manifest's answer."""
    got = await mirror.get(manifest(tag, repository))
    assert got.status == 200, got.body
    assert got.body == pushed.content
    for each in pushed.blobs:
        answer = await mirror.get(blob(each.digest, repository))
        assert answer.status == 200, answer.body
        assert answer.body == each.content
        assert answer.headers["Content-Type"] == "application/octet-stream"
    await mirror.settled()
    return got


@dataclass(slots=True)
class Guarded:
    """A registry that asks for tokens, the server that has them, an image in it."""

    registry: FakeRegistry
    tokens: FakeTokenServer
    image: Image

    def upstream(
        self, credentials: Sequence[Credential] = (), policy: Policy | None = None
    ) -> Upstream:
        return Upstream(
            endpoints=(self.registry.url,),
            realms=(self.tokens.host,),
            credentials=tuple(credentials),
            policy=policy or Policy(),
        )


@asynccontextmanager
async def guarded() -> AsyncIterator[Guarded]:
    async with FakeTokenServer() as tokens, FakeRegistry() as registry:
        pushed = image()
        registry.push(REPOSITORY, pushed, tags=["v1"])
        registry.guard = tokens.guard()
        yield Guarded(registry, tokens, pushed)


@asynccontextmanager
async def mirrored(
    directory: Path, upstream: Upstream | str, name: str = "docker.io"
) -> AsyncIterator[Mirror]:
    """Run a mirror of one upstream."""
    async with mirror_of(directory / "cache", {name: upstream}) as mirror:
        yield mirror


def objects(mirror: Mirror) -> list[Path]:
    """Return the files that are stored as verified."""
    return [path for path in (mirror.directory / "blobs").rglob("*") if path.is_file()]


def statuses(requests: Sequence[Recorded]) -> list[int | None]:
    return [request.status for request in requests]
