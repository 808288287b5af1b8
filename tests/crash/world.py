"""What upstream has: images in a few repositories that share layers, and tags that move."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field
from typing import Final

from tests.e2e.loop_thread import LoopThread
from tests.fakes.answers import Answer
from tests.fakes.content import (
    OCI_CONFIG,
    OCI_MANIFEST,
    OCTETS,
    Blob,
    Image,
    Index,
    Manifest,
    digest_of,
    index,
)
from tests.fakes.registry import FakeRegistry
from tests.fakes.wire import Connection, Kind, Recorded

REPOSITORIES: Final = ("library/one", "library/two", "team/three")
TAGS: Final = ("latest", "stable", "edge")
_PACES_SECONDS: Final = (0.0, 0.002, 0.01, 0.05)
_LAYER_BYTES: Final = (3_000, 70_000, 400_000, 1_500_000, 4_000_000)


class PacedRegistry(FakeRegistry):
    """A registry whose bodies take some time, so that a kill hits in the middle of them."""

    @staticmethod
    async def _write(connection: Connection, part: memoryview, answer: Answer) -> None:
        await asyncio.sleep(random.choice(_PACES_SECONDS))
        await FakeRegistry._write(connection, part, answer)


@dataclass
class World:
    """The truth: every content by its digest, and what each tag has meant, oldest first."""

    contents: dict[str, bytes] = field(default_factory=dict, repr=False)
    images: dict[str, list[Image]] = field(default_factory=dict, repr=False)
    indexes: dict[str, list[Index]] = field(default_factory=dict, repr=False)
    tags: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def manifests(self, repository: str) -> list[Manifest]:
        """Return everything that a tag of *repository* may mean."""
        return [*self.images[repository], *self.indexes[repository]]

    def manifest(self, repository: str, digest: str) -> Manifest:
        """Return the manifest of a digest, that of an image in an index included."""
        return next(one for one in self.manifests(repository) if one.digest == digest)

    @staticmethod
    def parts(manifest: Manifest) -> set[str]:
        """Return the digests of the blobs of an image; those of an index are in its images."""
        return {blob.digest for blob in manifest.blobs} if isinstance(manifest, Image) else set()

    def blobs(self, repository: str) -> list[str]:
        """Return the digests of all blobs of *repository*, each once."""
        found = {blob.digest: None for image in self.images[repository] for blob in image.blobs}
        return list(found)

    def home(self, digest: str) -> str:
        """Return a repository that has the blob *digest*."""
        return next(name for name in REPOSITORIES if digest in self.blobs(name))

    @property
    def size_bytes(self) -> int:
        """How much a cache that has everything holds."""
        return sum(map(len, self.contents.values()))


def build(dice: random.Random, images: int) -> World:
    """Build *images* for each repository; a third of their layers is shared."""
    world, shared = World(), [_layer(dice) for _ in range(images)]
    for repository in REPOSITORIES:
        made = [_image(dice, shared) for _ in range(images)]
        world.images[repository] = made
        world.indexes[repository] = [index(made[-2:]), index(made[-3:-1])]
        for manifest in world.manifests(repository):
            world.contents[manifest.digest] = manifest.content
        for image in made:
            world.contents.update((blob.digest, blob.content) for blob in image.blobs)
        for tag in TAGS:
            world.tags[repository, tag] = [dice.choice(world.manifests(repository)).digest]
    return world


def _layer(dice: random.Random) -> Blob:
    content = dice.randbytes(int(dice.choice(_LAYER_BYTES) * dice.uniform(0.5, 1.5)))
    return Blob(content=content, media_type=OCTETS, digest=digest_of(content))


def _image(dice: random.Random, shared: list[Blob]) -> Image:
    layers = [dice.choice(shared), *(_layer(dice) for _ in range(dice.randint(1, 3)))]
    configured = json.dumps({"os": "linux", "architecture": "amd64", "id": dice.random()}).encode()
    config = Blob(content=configured, media_type=OCI_CONFIG, digest=digest_of(configured))
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor(),
        "layers": [layer.descriptor() for layer in layers],
    }
    content = json.dumps(document).encode()
    return Image(
        content=content,
        media_type=OCI_MANIFEST,
        digest=digest_of(content),
        config=config,
        layers=tuple(layers),
        architecture="amd64",
    )


class Upstream:
    """The registry of a world, in a thread of its own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.registry = PacedRegistry()
        self._thread = LoopThread()
        for repository in REPOSITORIES:
            for manifest in world.manifests(repository):
                self.registry.push(repository, manifest)
            for tag in TAGS:
                self.registry.move_tag(repository, tag, world.tags[repository, tag][-1])
        self.is_down = True
        self.come_up()

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.registry.url

    def come_up(self) -> None:
        """Accept connections, on the same port as before."""
        self._thread.run(self.registry.come_up())
        self.is_down = False

    def go_down(self) -> None:
        """Refuse connections and drop those there are."""
        self._thread.run(self.registry.go_down())
        self.is_down = True

    def close(self) -> None:
        """Stop for good."""
        self._thread.run(self.registry.close())
        self._thread.close()

    def move_tag(self, repository: str, tag: str, digest: str) -> None:
        """Let a tag mean something else; the truth is told first."""
        self.world.tags[repository, tag].append(digest)
        self.registry.move_tag(repository, tag, digest)

    def blob_gets(self, digest: str | None = None) -> list[Recorded]:
        """Return the downloads so far, of one blob or of all."""
        return self.registry.matching(method="GET", kind=Kind.BLOB, reference=digest)
