"""What is measured: each scenario takes turns, A B A B, within one run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench import client, servers
from tests.bench.report import Outcome, Sample
from tests.bench.requests import CONNECTIONS, requests, tool
from tests.bench.servers import MIRROR, REGISTRY, Server
from tests.e2e import oci

GB: Final = 1e9
REPOSITORY: Final = "library/bench"
_WRK_SECONDS: Final = 5
_CACHED_CLIENTS: Final = 6
_COLD_CLIENTS: Final = 32


@dataclass(frozen=True)
class Stage:
    """The registry that everything comes from, and the process that downloads."""

    work: Path
    origin: Server
    clients: ProcessPoolExecutor
    rounds: int
    blob: str
    blob_bytes: int
    manifest: str
    _numbers: count[int] = field(default_factory=count)

    def directory(self) -> Path:
        """Return a directory that nobody has used."""
        return self.work / f"server-{next(self._numbers)}"

    def mirror(self) -> Server:
        """Return a mirror of the origin with an empty cache, not started."""
        return servers.mirror(self.directory(), upstream=self.origin.url)

    def proxy(self) -> Server:
        """Return docker-registry as a proxy of the origin with an empty cache, not started."""
        return servers.registry(self.directory(), upstream=self.origin.url)

    def blob_url(self, server: Server) -> str:
        """Return where a server has the blob."""
        return f"{server.url}/v2/{REPOSITORY}/blobs/{self.blob}"

    def download(self, server: Server, clients: int) -> client.Downloads:
        """Download the blob so many times at once."""
        done = self.clients.submit(client.download, self.blob_url(server), clients).result()
        if done.received_bytes != clients * self.blob_bytes:
            raise client.ClientError(f"{done.received_bytes} bytes from {server.name}")
        return done

    def check(self, server: Server) -> None:
        """Raise unless a server delivers the right bytes; they are in its cache then."""
        got = self.clients.submit(client.digest, self.blob_url(server)).result()
        if got != self.blob:
            raise client.ClientError(f"{server.name} sent {got}")

    def take_turns(
        self, name: str, what: str, turns: Mapping[str, Callable[[], Sample]]
    ) -> Outcome:
        """Measure each in turn, and all of them in every round."""
        samples: dict[str, list[Sample]] = {server: [] for server in turns}
        for number in range(self.rounds):
            for server, measure in turns.items():
                sys.stderr.write(f"{name}: round {number + 1} of {self.rounds}, {server}\n")
                samples[server].append(measure())
        return Outcome(name, what, samples)


Scenario = Callable[[Stage], Outcome]


def prepared(
    work: Path, origin: Server, clients: ProcessPoolExecutor, *, rounds: int, size_bytes: int
) -> Stage:
    """Return a stage whose origin holds one image with one layer of random bytes."""
    layer = oci.random_layer(size_bytes)
    pushed = oci.Repository(origin.url, REPOSITORY).push_image("v1", layer)
    return Stage(
        work=work,
        origin=origin,
        clients=clients,
        rounds=rounds,
        blob=oci.digest_of(layer),
        blob_bytes=len(layer),
        manifest=str(pushed["digest"]),
    )


def cached_blob(stage: Stage) -> Outcome:
    """Return how fast and at what cost a blob is served that is there already."""

    def measure(server: Server) -> Sample:
        before = server.cpu_seconds()
        done = stage.download(server, _CACHED_CLIENTS)
        return {
            "throughput, GB/s": done.received_bytes / GB / done.wall_seconds,
            "server CPU, s/GB": (server.cpu_seconds() - before) / (done.received_bytes / GB),
            "client CPU, s/GB": done.cpu_seconds / (done.received_bytes / GB),
        }

    with stage.mirror() as mirror:
        stage.check(mirror)
        turns = {MIRROR: lambda: measure(mirror), REGISTRY: lambda: measure(stage.origin)}
        what = f"{_megabytes(stage)} MB, {_CACHED_CLIENTS} clients at once"
        return stage.take_turns("cached-blob", what, turns)


def cached_manifest(stage: Stage) -> Outcome:
    """Return how many requests a second for a manifest by digest are served."""

    def measure(server: Server) -> Sample:
        url = f"{server.url}/v2/{REPOSITORY}/manifests/{stage.manifest}"
        before = server.cpu_seconds()
        rate, asked = requests(url, oci.MANIFEST, _WRK_SECONDS)
        cpu_seconds = server.cpu_seconds() - before
        return {"requests/s": rate, "server CPU, ms/request": 1000 * cpu_seconds / asked}

    with stage.mirror() as mirror:
        turns = {MIRROR: lambda: measure(mirror), REGISTRY: lambda: measure(stage.origin)}
        what = f"by digest, {CONNECTIONS} connections, {tool()}"
        return stage.take_turns("cached-manifest", what, turns)


def cold_blob(stage: Stage) -> Outcome:
    """Return how long one client waits for a blob that is not there yet."""
    return _cold(stage, "cold-blob", 1)


def cold_herd(stage: Stage) -> Outcome:
    """Return what many clients at once cost upstream, and how long they wait."""
    return _cold(stage, "cold-herd", _COLD_CLIENTS)


def _cold(stage: Stage, name: str, clients: int) -> Outcome:
    def measure(starting: AbstractContextManager[Server]) -> Sample:
        with starting as server:
            cpu_before, sent_before = server.cpu_seconds(), stage.origin.written_bytes()
            done = stage.download(server, clients)
            # docker-registry goes on storing when its client has everything.
            stage.origin.wait_until_quiet()
            server.wait_until_quiet()
            sent_bytes = stage.origin.written_bytes() - sent_before
            cpu_seconds = server.cpu_seconds() - cpu_before
            stage.check(server)
        return {
            "wall time, s": done.wall_seconds,
            "first byte, median, ms": 1000 * median(done.first_byte_seconds),
            "upstream bytes ÷ size": sent_bytes / stage.blob_bytes,
            "server CPU, s/GB": cpu_seconds / (done.received_bytes / GB),
        }

    turns = {MIRROR: lambda: measure(stage.mirror()), REGISTRY: lambda: measure(stage.proxy())}
    who = "1 client" if clients == 1 else f"{clients} clients at once"
    return stage.take_turns(name, f"{_megabytes(stage)} MB, not cached, {who}", turns)


def _megabytes(stage: Stage) -> str:
    return f"{stage.blob_bytes / 1e6:.0f}"


SCENARIOS: Final[dict[str, Scenario]] = {
    "cached-blob": cached_blob,
    "cached-manifest": cached_manifest,
    "cold-blob": cold_blob,
    "cold-herd": cold_herd,
}
