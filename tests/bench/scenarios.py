"""What is measured: each scenario takes turns, A B A B, within one run."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Final

from tests.bench import client, growth, lag, pulls, secured, workers
from tests.bench.report import Outcome, Sample
from tests.bench.requests import CONNECTIONS, requests, tool
from tests.bench.servers import Server, registry
from tests.bench.stage import GB, Blob, Scenario, Stage, Starting, cached, caches
from tests.e2e import oci
from tests.e2e.loop_thread import LoopThread
from tests.fakes.tcp_proxy import Misbehaviour, TcpProxy

_WRK_SECONDS: Final = 5
_CACHED_CLIENTS: Final = 6
_COLD_CLIENTS: Final = 32
_GIGABIT_BYTES_PER_SECOND: Final = 125_000_000
_SLOW_CLIENTS: Final = 1000
_SLOW_BYTES_PER_SECOND: Final = 64 * 1024
_SETTLE_SECONDS: Final = 5.0
_HITS: Final = 0.7


@contextlib.contextmanager
def _started(stage: Stage, *, is_secure: bool = False) -> Iterator[dict[str, Server]]:
    """Start all that serve what is there already, with everything in the mirror's cache."""
    with ExitStack() as stack:
        found = {
            name: stack.enter_context(server)
            for name, server in cached(stage, is_secure=is_secure).items()
        }
        for server in found.values():
            for blob in (stage.blob, stage.small):
                stage.check(server, blob)
        yield found


# --- what is there already ---------------------------------------------------------------------


def cached_blob(stage: Stage) -> Outcome:
    """Return how fast and at what cost a blob is served that is there already."""
    return _cached_blob(stage, "cached-blob", is_secure=False)


def cached_blob_tls(stage: Stage) -> Outcome:
    """Return the same over TLS."""
    return _cached_blob(stage, "cached-blob-tls", is_secure=True)


def _cached_blob(stage: Stage, name: str, *, is_secure: bool) -> Outcome:
    def measure(server: Server) -> Sample:
        before = server.cpu_seconds()
        done = stage.download(stage.blob.url(server), _CACHED_CLIENTS)
        size = _CACHED_CLIENTS * stage.blob.size_bytes / GB
        if done.received_bytes < _CACHED_CLIENTS * stage.blob.size_bytes:
            raise client.ClientError(f"{done.received_bytes} bytes from {server.name}")
        return {
            "throughput, GB/s": size / done.wall_seconds,
            "server CPU, s/GB": (server.cpu_seconds() - before) / size,
            "client CPU, s/GB": done.cpu_seconds / size,
        }

    with _started(stage, is_secure=is_secure) as found:
        turns = {each: partial(measure, server) for each, server in found.items()}
        what = f"{_megabytes(stage)} MB, {_CACHED_CLIENTS} clients at once"
        return stage.take_turns(name, what + (", TLS" if is_secure else ""), turns)


def cached_manifest(stage: Stage) -> Outcome:
    """Return how many requests a second for a manifest by digest are served."""
    return _requests(stage, "cached-manifest", "manifest by digest", stage.manifest_url)


def cached_config(stage: Stage) -> Outcome:
    """Return how many requests a second for a small blob are served."""
    return _requests(stage, "cached-config", "blob of 2 KiB", stage.small.url)


def _requests(stage: Stage, name: str, what: str, url_of: Callable[[Server], str]) -> Outcome:
    def measure(server: Server) -> Sample:
        before = server.cpu_seconds()
        rate, asked = requests(url_of(server), oci.MANIFEST, _WRK_SECONDS)
        cpu_seconds = server.cpu_seconds() - before
        return {"requests/s": rate, "server CPU, ms/request": 1000 * cpu_seconds / asked}

    with _started(stage) as found:
        turns = {each: partial(measure, server) for each, server in found.items()}
        return stage.take_turns(name, f"{what}, {CONNECTIONS} connections, {tool()}", turns)


def slow_readers(stage: Stage) -> Outcome:
    """Return what one quick client gets beside a thousand slow ones, and what they cost."""

    def measure(server: Server) -> Sample:
        idle_bytes, before = server.rss_bytes(), server.cpu_seconds()
        done, rss_bytes = stage.clients.submit(
            client.beside_slow_readers,
            stage.blob.url(server),
            _SLOW_CLIENTS,
            _SLOW_BYTES_PER_SECOND,
            _SETTLE_SECONDS,
            server.processes(),
        ).result()
        server.wait_until_quiet()
        return {
            "throughput of the quick one, GB/s": done.received_bytes / GB / done.wall_seconds,
            "memory before, MiB": idle_bytes / 2**20,
            "memory with all of them, MiB": rss_bytes / 2**20,
            "server CPU, s": server.cpu_seconds() - before,
        }

    with _started(stage) as found:
        turns = {each: partial(measure, server) for each, server in found.items()}
        what = f"{_SLOW_CLIENTS} readers of 64 KiB/s each, and one quick one"
        return stage.take_turns("slow-readers", what, turns, rounds=min(3, stage.rounds))


# --- what is not there yet -----------------------------------------------------------------------


def cold_blob(stage: Stage) -> Outcome:
    """Return how long one client waits for a blob that is not there yet."""
    return _cold(stage, "cold-blob", 1, caches(stage))


def cold_blob_tls(stage: Stage) -> Outcome:
    """Return how long one client waits where both sides are TLS: its own, and upstream's."""
    sealed = registry(stage.directory(), storage=stage.storage, certificate=stage.certificate)
    with sealed as origin:
        kinds = caches(stage, origin.url, is_secure=True)
        return _cold(stage, "cold-blob-tls", 1, kinds, "TLS on both sides", origin=origin)


def cold_herd(stage: Stage) -> Outcome:
    """Return what many clients at once cost upstream, and how long they wait."""
    return _cold(stage, "cold-herd", _COLD_CLIENTS, caches(stage))


def cold_gigabit(stage: Stage) -> Outcome:
    """Return how long a client waits where the line to upstream has 1 Gbit/s."""
    line = LoopThread()
    does = Misbehaviour(bytes_per_second=_GIGABIT_BYTES_PER_SECOND)
    proxy = TcpProxy(stage.origin.port, does)
    line.run(proxy.listen())
    try:
        return _cold(stage, "cold-gigabit", 1, caches(stage, proxy.url), "behind 1 Gbit/s")
    finally:
        line.run(proxy.close())
        line.close()


def _cold(
    stage: Stage,
    name: str,
    clients: int,
    kinds: Mapping[str, Starting],
    more: str = "",
    *,
    origin: Server | None = None,
) -> Outcome:
    origin = origin or stage.origin

    def measure(starting: Starting) -> Sample:
        with starting() as server:
            stage.warm_memory()
            cpu_before, sent_before = server.cpu_seconds(), origin.written_bytes()
            done = stage.download(stage.blob.url(server), clients)
            # docker-registry goes on storing when its client has everything.
            origin.wait_until_quiet()
            server.wait_until_quiet()
            sent_bytes = origin.written_bytes() - sent_before
            cpu_seconds = server.cpu_seconds() - cpu_before
            stage.check(server, stage.blob)
        return {
            "wall time, s": done.wall_seconds,
            "first byte, median, ms": 1000 * median(done.first_byte_seconds),
            "upstream bytes ÷ size": sent_bytes / stage.blob.size_bytes,
            "server CPU, s/GB": cpu_seconds / (done.received_bytes / GB),
        }

    turns = {each: partial(measure, kind) for each, kind in kinds.items()}
    who = "1 client" if clients == 1 else f"{clients} clients at once"
    what = ", ".join(filter(None, (f"{_megabytes(stage)} MB, not cached, {who}", more)))
    return stage.take_turns(name, what, turns)


def many_blobs(stage: Stage) -> Outcome:
    """Return how long many different blobs take that are asked for at once."""

    def measure(starting: Starting) -> Sample:
        with starting() as server:
            stage.warm_memory()
            before, sent_before = server.cpu_seconds(), stage.origin.written_bytes()
            urls = [blob.url(server) for blob in stage.many]
            done = stage.clients.submit(client.download_all, urls).result()
            stage.origin.wait_until_quiet()
            server.wait_until_quiet()
            sent_bytes = stage.origin.written_bytes() - sent_before
            return {
                "wall time, s": done.wall_seconds,
                "upstream bytes ÷ size": sent_bytes / done.received_bytes,
                "server CPU, s/GB": (server.cpu_seconds() - before) / (done.received_bytes / GB),
            }

    turns = {each: partial(measure, kind) for each, kind in caches(stage).items()}
    what = f"{len(stage.many)} blobs of 1 MB, not cached, at once"
    return stage.take_turns("many-blobs", what, turns)


def mixed(stage: Stage) -> Outcome:
    """Return how long a mix takes of what is there and what is not."""
    dice = random.Random(1)
    chosen = [dice.choice(stage.many) for _ in range(3 * len(stage.many) // 2)]
    warm = _warm(chosen, dice)

    def measure(starting: Starting) -> Sample:
        with starting() as server:
            stage.clients.submit(client.download_all, [b.url(server) for b in warm]).result()
            server.wait_until_quiet()
            stage.warm_memory()
            before = server.cpu_seconds()
            urls = [blob.url(server) for blob in chosen]
            done = stage.clients.submit(client.download_all, urls).result()
            return {
                "wall time, s": done.wall_seconds,
                "server CPU, s/GB": (server.cpu_seconds() - before) / (done.received_bytes / GB),
            }

    turns = {each: partial(measure, kind) for each, kind in caches(stage).items()}
    what = f"{len(chosen)} blobs of 1 MB at once, {_HITS:.0%} of them cached"
    return stage.take_turns("mixed", what, turns)


def _warm(chosen: list[Blob], dice: random.Random) -> list[Blob]:
    """Return the blobs that make up the share of hits of *chosen*."""
    different = sorted(set(chosen), key=lambda blob: blob.digest)
    dice.shuffle(different)
    warm: list[Blob] = []
    while sum(blob in warm for blob in chosen) < _HITS * len(chosen):
        warm.append(different.pop())
    return warm


def _megabytes(stage: Stage) -> str:
    return f"{stage.blob.size_bytes / 1e6:.0f}"


SCENARIOS: Final[dict[str, Scenario]] = {
    "cached-blob": cached_blob,
    "cached-blob-tls": cached_blob_tls,
    "cached-manifest": cached_manifest,
    "cached-config": cached_config,
    "cold-blob": cold_blob,
    "cold-blob-tls": cold_blob_tls,
    "cold-herd": cold_herd,
    "cold-gigabit": cold_gigabit,
    "many-blobs": many_blobs,
    "mixed": mixed,
    "slow-readers": slow_readers,
    "lag": lag.lag,
    "secured": secured.secured,
    "pulls": pulls.pulls,
    "growth": growth.growth,
    "workers": workers.workers,
}
