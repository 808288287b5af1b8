"""What every scenario has: the registry that all comes from, the clients, and taking turns."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

from tests.bench import client, servers
from tests.bench.report import Outcome, Sample
from tests.bench.servers import Certificate, Server
from tests.e2e import oci

GB: Final = 1e9
REPOSITORY: Final = "library/bench"
SMALL_BYTES: Final = 2048
MANY: Final = 200
MANY_BYTES: Final = 1_000_000
_PIECE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class Blob:
    """A blob of the origin."""

    digest: str
    size_bytes: int

    def url(self, server: Server) -> str:
        """Return where a server has it."""
        return f"{server.url}/v2/{REPOSITORY}/blobs/{self.digest}"


@dataclass(frozen=True)
class Stage:
    """The registry that everything comes from, and the process that downloads."""

    work: Path
    origin: Server
    clients: ProcessPoolExecutor
    certificate: Certificate
    rounds: int
    blob: Blob
    small: Blob
    many: tuple[Blob, ...]
    manifest: str
    files: Mapping[str, bytes]
    """What nginx serves, by the paths of the registry API."""
    _numbers: count[int] = field(default_factory=count)

    def directory(self) -> Path:
        """Return a directory that nobody has used."""
        return self.work / f"server-{next(self._numbers)}"

    @property
    def storage(self) -> Path:
        """The storage of the origin, which others serve, too."""
        return self.work / "origin" / "storage"

    def manifest_url(self, server: Server) -> str:
        """Return where a server has the manifest, by its digest."""
        return f"{server.url}/v2/{REPOSITORY}/manifests/{self.manifest}"

    def download(self, url: str, clients: int) -> client.Downloads:
        """Download the large blob so many times at once."""
        size_bytes = self.blob.size_bytes
        return self.clients.submit(client.download, url, clients, size_bytes).result()

    def check(self, server: Server, blob: Blob) -> None:
        """Raise unless a server delivers the right bytes; they are in its cache then."""
        got = self.clients.submit(client.digest, blob.url(server)).result()
        if got != blob.digest:
            raise client.ClientError(f"{server.name} sent {got}")

    def warm_memory(self) -> None:
        """Use as much memory for the kernel's cache as what follows will, and give it back.

        A virtual machine gives memory that nobody uses back to its host, block by block. Who gets
        such a block next pays seven times for it, and which server that is is mere chance.
        """
        scratch, piece = self.directory(), bytes(_PIECE_BYTES)
        with scratch.open("wb", buffering=0) as file:
            for _ in range(3 * self.blob.size_bytes // (2 * _PIECE_BYTES)):
                file.write(piece)
        scratch.unlink()

    def take_turns(
        self, name: str, what: str, turns: Mapping[str, Callable[[], Sample]], rounds: int = 0
    ) -> Outcome:
        """Measure each in turn, and all of them in every round; each round begins with another."""
        samples: dict[str, list[Sample]] = {server: [] for server in turns}
        rounds = rounds or self.rounds
        for number in range(rounds):
            first = number % len(turns)
            order = [*turns.items()][first:] + [*turns.items()][:first]
            for server, measure in order:
                load = os.getloadavg()[0]
                sys.stderr.write(f"{name}: {number + 1} of {rounds}, {server}; load {load:.1f}\n")
                samples[server].append(measure())
        return Outcome(name, what, samples)


Starting = Callable[[], AbstractContextManager[Server]]
Scenario = Callable[[Stage], Outcome]


def prepared(
    work: Path,
    origin: Server,
    clients: ProcessPoolExecutor,
    certificate: Certificate,
    *,
    rounds: int,
    size_bytes: int,
) -> Stage:
    """Return a stage whose origin holds images of random bytes."""
    repository = oci.Repository(origin.url, REPOSITORY)
    layer, small = oci.random_layer(size_bytes), os.urandom(SMALL_BYTES)
    pushed = repository.push_image("v1", layer)
    repository.push_blob(oci.LAYER, small)
    many = [os.urandom(MANY_BYTES) for _ in range(MANY)]
    _push_many(repository, many)
    blobs = f"/v2/{REPOSITORY}/blobs"
    digest, manifest = oci.digest_of(layer), str(pushed["digest"])
    answer = oci.request(
        f"{origin.url}/v2/{REPOSITORY}/manifests/{manifest}", headers={"Accept": oci.MANIFEST}
    )
    return Stage(
        work=work,
        origin=origin,
        clients=clients,
        certificate=certificate,
        rounds=rounds,
        blob=Blob(digest, len(layer)),
        small=Blob(oci.digest_of(small), SMALL_BYTES),
        many=tuple(Blob(oci.digest_of(each), len(each)) for each in many),
        manifest=manifest,
        files={
            f"{blobs}/{digest}": layer,
            f"{blobs}/{oci.digest_of(small)}": small,
            f"/v2/{REPOSITORY}/manifests/{manifest}": answer.body,
        },
    )


def _push_many(repository: oci.Repository, contents: list[bytes]) -> None:
    """Push an image of many layers, so that all its blobs belong to the repository."""
    layers = [repository.push_blob(oci.LAYER, content) for content in contents]
    config = repository.push_blob(oci.CONFIG, b'{"architecture": "amd64", "os": "linux"}')
    repository.push_manifest(
        "many",
        {"schemaVersion": 2, "mediaType": oci.MANIFEST, "config": config, "layers": layers},
    )


def cached(stage: Stage, *, is_secure: bool = False) -> dict[str, Server]:
    """Return all that serve what is there already, not started: the mirror, and the others."""
    certificate = stage.certificate if is_secure else None
    found = {
        servers.MIRROR: servers.mirror(
            stage.directory(), upstream=stage.origin.url, certificate=certificate
        ),
        servers.REGISTRY: servers.registry(
            stage.directory(), storage=stage.storage, certificate=certificate
        ),
        servers.NGINX: servers.nginx_files(stage.directory(), stage.files, certificate=certificate),
    }
    if servers.distribution() is not None:
        found[servers.DISTRIBUTION] = servers.registry(
            stage.directory(),
            storage=stage.storage,
            certificate=certificate,
            name=servers.DISTRIBUTION,
        )
    return found


def caches(
    stage: Stage, upstream: str | None = None, *, is_secure: bool = False
) -> dict[str, Starting]:
    """Return what makes caches with nothing in them, by name.

    If they are secure, they speak TLS with their clients, and trust an upstream that does.
    """
    url, certificate = upstream or stage.origin.url, stage.certificate if is_secure else None

    def registry(name: str) -> Server:
        return servers.registry(stage.directory(), upstream=url, certificate=certificate, name=name)

    def mirror() -> Server:
        return servers.mirror(stage.directory(), upstream=url, certificate=certificate)

    def nginx() -> Server:
        return servers.nginx_cache(stage.directory(), upstream=url, certificate=certificate)

    found: dict[str, Starting] = {
        servers.MIRROR: mirror,
        servers.REGISTRY: lambda: registry(servers.REGISTRY),
        servers.NGINX: nginx,
    }
    if servers.distribution() is not None:
        found[servers.DISTRIBUTION] = lambda: registry(servers.DISTRIBUTION)
    return found
