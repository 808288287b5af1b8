"""Real clients pull while the line to the upstream is cut every 20 MB."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.tcp_proxy import TcpProxy

from . import seed as names
from .clients import Client, Containerd, Docker, Skopeo
from .conftest import StartClient, StartMirror
from .loop_thread import LoopThread
from .registry import Registry
from .seed import Seed

CUT_EVERY_BYTES = 20_000_000
WASTE_MAX = 1.02


@pytest.fixture
def line(loop_thread: LoopThread, plain_registry: Registry) -> Iterator[TcpProxy]:
    proxy = TcpProxy(int(plain_registry.url.rsplit(":", 1)[1]))
    proxy.does.cut_after_bytes = CUT_EVERY_BYTES
    loop_thread.run(proxy.listen())
    yield proxy
    loop_thread.run(proxy.close())


@pytest.mark.parametrize("kind", [Containerd, Docker, Skopeo])
def test_a_pull_is_whole_although_the_line_is_cut(
    kind: type[Client],
    line: TcpProxy,
    seed: Seed,
    start_mirror: StartMirror,
    start_client: StartClient,
) -> None:
    image = seed.images[names.BIG]
    mirror = start_mirror({"docker.io": {"endpoints": [line.url]}})

    assert image.digest in start_client(kind, mirror).pull(image)

    assert line.passed.cuts >= names.BIG_BYTES // CUT_EVERY_BYTES
    received_bytes = mirror.metric("mirror_upstream_bytes_total")
    assert names.BIG_BYTES <= received_bytes <= WASTE_MAX * names.BIG_BYTES
