"""Pulls with real clients while upstream is in trouble, and writes a page about it.

python -m tests.never_worse > docs/never-worse.md
"""

from __future__ import annotations

import argparse
import logging
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import msgspec

from tests.e2e.clients import Client
from tests.e2e.daemon import CommandError, Patience
from tests.e2e.seed import Image
from tests.never_worse.report import Cell, Results, page
from tests.never_worse.targets import Ours, Target, Theirs
from tests.never_worse.town import TROUBLES, Town, Trouble

_PATIENCE_SECONDS = 45
_SOCKET_SECONDS = 60
_KEPT = Path(__file__).parents[2] / "build" / "never-worse"
_KINDS: tuple[type[Ours | Theirs], ...] = (Ours, Theirs)
_log = logging.getLogger("never-worse")


class Run:
    """One target through all troubles."""

    def __init__(self, target: Target, town: Town, work: Path) -> None:
        self._target = target
        self._town = town
        self._clients = [
            kind(work / f"{kind.name}-{target.port}", target.port) for kind in target.clients
        ]
        self.results = Results(target.name)

    def all(self, troubles: tuple[Trouble, ...]) -> Results:
        """Measure the healthy pulls, then those in trouble."""
        kept = self._town.push(f"kept-{self._target.port}")
        self._town.heal()
        assert self._target.start(self._town.endpoint)
        for client in self._clients:
            client.start()
        self._pull(self._clients[0], kept)
        for client in self._clients:
            times = [self._pull(client, kept) for _ in range(3)]
            assert all(cell.is_pulled for cell in times), (client.name, times)
            self.results.healthy[client.name] = sorted(cell.seconds for cell in times)[1]
        self._target.stop()
        for trouble in troubles:
            self._through(trouble, kept)
        for client in self._clients:
            client.stop()
        return self.results

    def _through(self, trouble: Trouble, kept: Image) -> None:
        _log.warning("%s: %s", self._target.name, trouble.name)
        self._town.heal()
        mark = trouble.name.lower().replace(" ", "-").replace(",", "").replace(":", "")
        new = [self._town.push(f"{mark}-{client.name}") for client in self._clients]
        probe = self._town.push(mark)
        is_up = trouble.at_start or self._target.start(self._town.endpoint)
        trouble.begin(self._town)
        if trouble.at_start:
            is_up = self._target.start(self._town.endpoint)
        if not is_up:
            self._does_not_start(trouble)
            return
        if self._target.is_measured:
            cells = {client.name: self._pull(client, kept) for client in self._clients}
        else:
            cells = self._together([kept] * len(self._clients))
        self.results.cached[trouble.name] = cells
        self.results.head[trouble.name] = self._plain(probe)
        self.results.new[trouble.name] = self._together(new)
        self._target.stop()

    def _together(self, images: list[Image]) -> dict[str, Cell]:
        with ThreadPoolExecutor(len(images)) as pool:
            cells = pool.map(self._pull, self._clients, images)
            return {each.name: cell for each, cell in zip(self._clients, cells, strict=True)}

    def _does_not_start(self, trouble: Trouble) -> None:
        cell = Cell("does not start", 0)
        self.results.head[trouble.name] = cell
        self.results.cached[trouble.name] = {client.name: cell for client in self._clients}
        self.results.new[trouble.name] = {client.name: cell for client in self._clients}

    def _pull(self, client: Client, image: Image) -> Cell:
        client.wipe()
        began = time.monotonic()
        try:
            outcome = "pulled" if image.digest in client.pull(image) else "wrong image"
        except CommandError:
            outcome = "fails"
        except grpc.RpcError as error:
            is_late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            outcome = "goes on trying" if is_late else "fails"
        except subprocess.TimeoutExpired:
            outcome = "goes on trying"
        return Cell(outcome, time.monotonic() - began)

    def _plain(self, image: Image) -> Cell:
        """GET what is not cached over a socket; returns the longest wait and for what."""
        waits = [self._get(image, f"manifests/{image.tag}")]
        if waits[0].outcome == "200":
            waits.append(self._get(image, f"blobs/{image.last_layer}"))
        return max(waits, key=lambda cell: cell.seconds)

    def _get(self, image: Image, path: str) -> Cell:
        began = time.monotonic()
        head = b""
        try:
            with socket.create_connection(("127.0.0.1", self._target.port), 5) as connection:
                connection.settimeout(_SOCKET_SECONDS)
                request = f"GET /v2/{image.repository}/{path} HTTP/1.1\r\nHost: mirror\r\n"
                accept = f"Accept: {image.media_type}\r\nConnection: close\r\n\r\n"
                connection.sendall((request + accept).encode())
                while data := connection.recv(1 << 20):
                    head = head or data[:12]
        except TimeoutError:
            return Cell("hangs", time.monotonic() - began)
        return Cell(head[9:12].decode() or "closed", time.monotonic() - began)


def measured(kind: type[Ours | Theirs], troubles: tuple[Trouble, ...]) -> Results:
    """Measure one target, and note the results for the page."""
    town = Town()
    try:
        with tempfile.TemporaryDirectory(prefix="never-") as work:
            directory = Path(work)
            results = Run(kind(directory / "target"), town, directory).all(troubles)
    finally:
        town.close()
    if len(troubles) < len(TROUBLES) and (_KEPT / f"{kind.name}.json").exists():
        before = noted(kind)
        for name in ("healthy", "cached", "new", "head"):
            setattr(results, name, getattr(before, name) | getattr(results, name))
    _KEPT.mkdir(parents=True, exist_ok=True)
    (_KEPT / f"{kind.name}.json").write_bytes(msgspec.json.encode(results))
    return results


def noted(kind: type[Ours | Theirs]) -> Results:
    """Return what was measured before."""
    return msgspec.json.decode((_KEPT / f"{kind.name}.json").read_bytes(), type=Results)


def main() -> int:
    """Run the mirror and docker-registry, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.never_worse")
    parser.add_argument(
        "--trouble",
        action="append",
        help="only these, by their beginning; the others as measured before",
    )
    names = [kind.name for kind in _KINDS]
    parser.add_argument("--measure", nargs="*", choices=names, default=names)
    options = parser.parse_args()
    chosen = tuple(options.trouble or [""])
    troubles = tuple(each for each in TROUBLES if each.name.startswith(chosen))
    Patience.seconds = _PATIENCE_SECONDS
    for kind in _KINDS:
        if kind.name in options.measure:
            measured(kind, troubles)
    results = [noted(kind) for kind in _KINDS if (_KEPT / f"{kind.name}.json").exists()]
    text, complaints = page(results, [each.name for each in TROUBLES])
    sys.stdout.write(text)
    for complaint in complaints:
        _log.error(complaint)
    return 1 if complaints else 0


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    sys.exit(main())
