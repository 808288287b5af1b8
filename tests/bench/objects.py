"""An index of a million objects: how long until ready, a look-up, and an eviction beside pulls.

python -m tests.bench.objects [--objects 1000000]

The rows of the index are those of whole images, ten objects each. Files are written only for
the images that will be evicted: nothing else of ``blobs/`` is looked at here.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirror.domain.manifests import LinkKind
from mirror.domain.names import ANONYMOUS_SCOPE, Digest, Repository
from mirror.observe import logs
from mirror.store.facts import link_key
from mirror.store.index import Index, object_key
from mirror.store.layout import Layout
from mirror.store.rows import Commit, LinkRow, ObjectKind, ObjectRow
from tests.bench.report import machine
from tests.crash.client import ask
from tests.e2e.loop_thread import LoopThread
from tests.e2e.mirror_process import Mirror
from tests.fakes.content import OCI_MANIFEST, blob
from tests.fakes.registry import FakeRegistry

_LAYERS: Final = 9
_LAYER_BYTES: Final = 1000
_EVICTABLE_IMAGES: Final = 1300
_EVICTED: Final = 10_000
_INCOMING_BYTES: Final = 11_000_000
"""Needs the room of a little more than ``_EVICTED`` objects."""
_REPOSITORIES: Final = 1000
_LOOK_UPS: Final = 20_000
_STARTS: Final = 3
_CLIENTS: Final = 4
_PATIENCE_SECONDS: Final = 180
_POLL_SECONDS: Final = 0.2
_SPAN_SECONDS: Final = 10_000_000


@dataclass(frozen=True)
class GeneratedImage:
    """An image of the generated store."""

    number: int

    @property
    def repository(self) -> Repository:
        return Repository("docker.io", f"library/image-{self.number % _REPOSITORIES}")

    @property
    def layers(self) -> list[bytes]:
        return [f"{self.number}/{layer}".encode().ljust(_LAYER_BYTES) for layer in range(_LAYERS)]

    def manifest(self, layers: Sequence[Digest]) -> bytes:
        described = [
            {"mediaType": "application/octet-stream", "digest": str(one), "size": _LAYER_BYTES}
            for one in layers
        ]
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": described[0],
            "layers": described[1:],
        }
        return json.dumps(manifest).encode()


@dataclass
class Store:
    """What was generated."""

    size_bytes: int = 0
    objects: int = 0

    def generate(self, cache: Path, images: int) -> None:
        layout = Layout(cache)
        layout.prepare()
        index = Index(layout.index)
        index.commit_all(self._commits(layout, images))
        index.complete()
        index.close()

    def _commits(self, layout: Layout, images: int) -> Iterator[Commit]:
        start = time.time() - _SPAN_SECONDS
        for number in range(images):
            image, used_at = GeneratedImage(number), start + number
            contents = {_digest(content): content for content in image.layers}
            manifest = image.manifest(list(contents))
            children = tuple(str(layer) for layer in contents)
            yield self._commit(image, _digest(manifest), manifest, used_at, children)
            for digest, content in contents.items():
                yield self._commit(image, digest, content, used_at)
            if number < _EVICTABLE_IMAGES:
                for digest, content in {_digest(manifest): manifest, **contents}.items():
                    path = layout.blob(digest)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)

    def _commit(
        self,
        image: GeneratedImage,
        digest: Digest,
        content: bytes,
        used_at: float,
        children: tuple[str, ...] = (),
    ) -> Commit:
        self.size_bytes += len(content)
        self.objects += 1
        kind: ObjectKind = "manifest" if children else "blob"
        link = LinkKind.MANIFEST if children else LinkKind.BLOB
        owners = (str(image.repository),)
        return Commit(
            str(digest),
            ObjectRow(len(content), kind, (ANONYMOUS_SCOPE,), used_at, owners, "docker.io"),
            (link_key(image.repository, digest, link), LinkRow(len(content), None, used_at)),
            children=children,
        )


def _digest(content: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(content).hexdigest())


class Bench:
    """One mirror on the generated store."""

    def __init__(self, work: Path, images: int) -> None:
        self._images = images
        self._thread = LoopThread()
        self._registry = FakeRegistry()
        self._incoming = blob(_INCOMING_BYTES)
        self._registry.push_blob("library/new", self._incoming)
        self._thread.run(self._registry.come_up())
        self.mirror = Mirror(work, {"docker.io": {"endpoints": [self._registry.url]}})
        self._dice = random.Random(1)

    def close(self) -> None:
        self.mirror.kill()
        self._thread.run(self._registry.close())
        self._thread.close()

    def run(self) -> None:
        store, begun = Store(), time.monotonic()
        store.generate(self.mirror.cache, self._images)
        _say("objects", f"{store.objects:,} (made in {time.monotonic() - begun:.0f} s)")
        self._look_up_rows()
        cache = {
            "directory": str(self.mirror.cache),
            "max_size": store.size_bytes + _LAYER_BYTES,
            "min_free": "0B",
        }
        self.mirror.configure(cache=cache)
        self._start()
        self._look_up_by_http()
        self._evict()
        self.mirror.stop()

    def _look_up_rows(self) -> None:
        index = Index(Layout(self.mirror.cache).index)
        seconds = []
        for _ in range(_LOOK_UPS):
            key = object_key(str(self._any()[1]))
            begun = time.perf_counter()
            row = index.get(key, ObjectRow)
            seconds.append(time.perf_counter() - begun)
            assert row is not None
        index.close()
        _say("look-up of a row", _percentiles(seconds))

    def _start(self) -> None:
        seconds = []
        for start in range(_STARTS):
            begun = time.monotonic()
            self.mirror.start()
            seconds.append(time.monotonic() - begun)
            if start < _STARTS - 1:
                self.mirror.stop()
        _say("ready after", f"{sorted(seconds)[len(seconds) // 2]:.2f} s (median of {_STARTS})")

    def _look_up_by_http(self) -> None:
        seconds = [each[1] for each in self._heads(self._dice, lambda done: done >= _LOOK_UPS)]
        _say("HEAD of a blob", _percentiles(seconds))

    def _evict(self) -> None:
        before = self._evicted()
        stopped = threading.Event()
        with ThreadPoolExecutor(_CLIENTS) as pool:
            clients = [
                pool.submit(self._heads, random.Random(seed), lambda _: stopped.is_set())
                for seed in range(_CLIENTS)
            ]
            time.sleep(1)
            begun = time.monotonic()
            got = ask(self.mirror.port, f"/v2/library/new/blobs/{self._incoming.digest}")
            pulled_seconds = time.monotonic() - begun
            while (
                self._evicted() < before + _EVICTED and time.monotonic() < begun + _PATIENCE_SECONDS
            ):
                time.sleep(_POLL_SECONDS)
            seconds = time.monotonic() - begun
            stopped.set()
        assert got.is_whole, got
        assert self._evicted() >= before + _EVICTED, f"not evicted within {_PATIENCE_SECONDS} s"
        during = [
            took for one in clients for at, took in one.result() if begun <= at <= begun + seconds
        ]
        said = got.headers["cache-status"]
        _say("blob that needs room", f"{pulled_seconds:.2f} s ({said})")
        _say("evicted for it", f"{_EVICTED:,} objects in {seconds:.2f} s")
        _say(f"{_CLIENTS} clients meanwhile", _percentiles(during))

    def _evicted(self) -> float:
        return self.mirror.metric("mirror_cache_evictions_total")

    def _heads(
        self, dice: random.Random, is_enough: Callable[[int], bool]
    ) -> list[tuple[float, float]]:
        """Ask for random blobs, one after the other; returns when, and how long each took."""
        connection = http.client.HTTPConnection("127.0.0.1", self.mirror.port, timeout=60)
        found: list[tuple[float, float]] = []
        while not is_enough(len(found)):
            repository, digest = self._any(dice)
            at, begun = time.monotonic(), time.perf_counter()
            connection.request("HEAD", f"/v2/{repository.name}/blobs/{digest}")
            answer = connection.getresponse()
            answer.read()
            found.append((at, time.perf_counter() - begun))
            assert answer.status == http.client.OK, answer.status
        connection.close()
        return found

    def _any(self, dice: random.Random | None = None) -> tuple[Repository, Digest]:
        """Return a blob that will not be evicted."""
        drawn = dice or self._dice
        image = GeneratedImage(drawn.randrange(_EVICTABLE_IMAGES, self._images))
        layer = f"{image.number}/{drawn.randrange(_LAYERS)}".encode().ljust(_LAYER_BYTES)
        return image.repository, _digest(layer)


def look_up_seconds(objects: int, times: int = _LOOK_UPS) -> float:
    """Return the median time of a look-up in an index of so many objects, on the disk."""
    dice, images = random.Random(1), objects // (_LAYERS + 1)
    with tempfile.TemporaryDirectory(prefix="mirror-bench-") as directory:
        cache = Path(directory) / "cache"
        Store().generate(cache, images)
        index = Index(Layout(cache).index)
        seconds = []
        for _ in range(times):
            image = GeneratedImage(dice.randrange(images))
            key = object_key(str(_digest(image.layers[dice.randrange(_LAYERS)])))
            begun = time.perf_counter()
            row = index.get(key, ObjectRow)
            seconds.append(time.perf_counter() - begun)
            assert row is not None
        index.close()
    return statistics.median(seconds)


def _percentiles(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    p50, p99 = (1000 * ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99))
    worst = 1000 * ordered[-1]
    return f"median {p50:.3f} ms, p99 {p99:.3f} ms, worst {worst:.1f} ms of {len(ordered):,}"


def _say(name: str, value: str) -> None:
    sys.stdout.write(f"{name:24} {value}\n")
    sys.stdout.flush()


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.objects", description=__doc__)
    parser.add_argument("--objects", type=int, default=1_000_000, help="how many (1,000,000)")
    options = parser.parse_args()
    images = options.objects // (_LAYERS + 1)
    if images <= 2 * _EVICTABLE_IMAGES:
        parser.error(f"--objects: at least {20 * (_EVICTABLE_IMAGES + 1)}")
    logs.configure("json", "error")
    for name, value in machine().items():
        _say(name, str(value))
    with tempfile.TemporaryDirectory(prefix="mirror-bench-") as directory:
        bench = Bench(Path(directory) / "mirror", images)
        try:
            bench.run()
        finally:
            bench.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
