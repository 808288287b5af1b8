"""The upstream of these pulls, and the ways in which it gets into trouble."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from tests.e2e.loop_thread import LoopThread
from tests.e2e.seed import Image
from tests.fakes import faults
from tests.fakes.answers import Answer
from tests.fakes.auth import FakeTokenServer
from tests.fakes.content import OCI_CONFIG, OCI_MANIFEST, digest_of
from tests.fakes.registry import FakeRegistry, Redirect
from tests.fakes.script import Fault
from tests.fakes.tcp_proxy import TcpProxy
from tests.fakes.wire import Kind, Recorded

OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
_LAYER_BYTES = 400_000
_NOWHERE = "http://no-such-host.invalid"


class Town:
    """A registry behind a TCP proxy, with a token server and a CDN that it may use."""

    def __init__(self) -> None:
        self.loop = LoopThread()
        self._stack = AsyncExitStack()
        self.registry, self.cdn = FakeRegistry(), FakeRegistry()
        self.tokens = FakeTokenServer()
        self._names = 0
        self.loop.run(self._open())

    async def _open(self) -> None:
        for origin in (self.registry, self.cdn, self.tokens):
            await self._stack.enter_async_context(origin)
        self.proxy = TcpProxy(self.registry.port)
        await self._stack.enter_async_context(self.proxy)
        self.cdn.fail(faults.cdn_forbidden())
        self.endpoint = self.proxy.url

    def close(self) -> None:
        """Close everything."""
        self.loop.run(self._stack.aclose())
        self.loop.close()

    def heal(self) -> None:
        """End all trouble."""
        self.loop.run(self._heal())

    async def _heal(self) -> None:
        self.registry.heal()
        self.tokens.heal()
        self.registry.guard = None
        self.registry.redirects.clear()
        self.proxy.refuse()
        await self.proxy.listen()
        self.endpoint = self.proxy.url

    def do(self, change: Callable[[], object]) -> None:
        """Change something where the servers run."""

        async def work() -> None:
            change()

        self.loop.run(work())

    def push(self, name: str) -> Image:
        """Serve a new image of one layer under *name*."""
        self._names += 1
        layer = _layer(self._names)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
            }
        ).encode()
        blobs = [(OCI_CONFIG, config), (OCI_LAYER, layer)]
        described = [
            {"mediaType": kind, "digest": digest_of(blob), "size": len(blob)}
            for kind, blob in blobs
        ]
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": described[0],
                "layers": described[1:],
            }
        ).encode()

        def put() -> None:
            for _, blob in blobs:
                self.registry.put_blob(f"library/{name}", blob)
            self.registry.put_manifest(f"library/{name}", "v1", manifest, OCI_MANIFEST)

        self.do(put)
        reference = f"docker.io/library/{name}:v1"
        digest = digest_of(manifest)
        return Image(reference, digest, OCI_MANIFEST, digest_of(layer), len(layer))


def _layer(number: int) -> bytes:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        entry = tarfile.TarInfo(f"file-{number}")
        entry.size = _LAYER_BYTES
        content = random.Random(number).randbytes(_LAYER_BYTES)
        archive.addfile(entry, io.BytesIO(content))
    return layer.getvalue()


@dataclass(frozen=True, slots=True)
class Trouble:
    """A way in which upstream fails; ``at_start``: the mirror is restarted meanwhile."""

    name: str
    begin: Callable[[Town], object]
    at_start: bool = False


def _refuse(town: Town) -> None:
    town.do(town.proxy.refuse)


def _always(*fault: Fault, kind: str | None = None) -> Callable[[Town], object]:
    return lambda town: town.do(lambda: town.registry.fail(*fault, kind=kind))


def _down_in_mid_pull(town: Town) -> None:
    cut = faults.cut(100_000, rst=True)

    def cut_and_go(request: Recorded, answer: Answer) -> Answer:
        town.loop.loop.call_later(0.05, town.proxy.refuse)
        return cut(request, answer)

    town.do(lambda: town.registry.fail(cut_and_go, kind="blob"))


def _hang_in_body(town: Town) -> None:
    def hang_once_and_for_all() -> None:
        town.registry.fail(faults.hang_in_body(50_000), kind="blob", times=1)
        town.registry.fail(faults.hang_in_body(), kind="blob")

    town.do(hang_once_and_for_all)


def _no_name(town: Town) -> None:
    town.endpoint = _NOWHERE


def _no_tokens(town: Town) -> None:
    def ask_for_tokens() -> None:
        town.registry.guard = town.tokens.guard()
        town.tokens.fail(faults.no_answer(rst=True))

    town.do(ask_for_tokens)


def _expired(town: Town) -> None:
    def redirect() -> None:
        town.registry.redirects[Kind.BLOB] = Redirect(
            locate=lambda request: f"{town.cdn.url}{request.path}?expired"
        )

    town.do(redirect)


TROUBLES = (
    Trouble("down at start", _refuse, at_start=True),
    Trouble("goes down in mid-pull", _down_in_mid_pull),
    Trouble("hangs before headers", _always(faults.hang())),
    Trouble("hangs in the body", _hang_in_body),
    Trouble("429, Retry-After: 30", _always(faults.too_many_requests(30))),
    Trouble("429", _always(faults.too_many_requests())),
    Trouble("500", _always(faults.status(500))),
    Trouble("503", _always(faults.status(503))),
    Trouble("DNS failure", _no_name, at_start=True),
    Trouble("token server down", _no_tokens, at_start=True),
    Trouble("expired redirect", _expired),
)
