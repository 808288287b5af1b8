"""A mirror behind a mirror, and mirrors that lead to each other (invariant 15).

The other mirror is a process of its own: how a mirror calls itself in ``Via`` belongs to the
process.
"""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mirror.runtime import via
from mirror.settings import ListenAddress, Server, Upstream
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.harness import ANY_PORT, QUICK, Mirror, mirror_of
from tests.unit.upstream.pulling import REPOSITORY, blob, manifest, pull

OURS, HUBS = image(1), image(2)


def configuration(directory: Path, endpoints: Mapping[str, str]) -> Path:
    directory.mkdir()
    config = directory / "mirror.json"  # JSON is YAML
    document = {
        "server": {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"},
        "cache": {"directory": str(directory / "cache"), "max_size": "64MiB", "min_free": "0%"},
        "builtin_upstreams": False,
        "upstreams": {name: {"endpoints": [url]} for name, url in endpoints.items()},
        "log": {"format": "json", "level": "info"},
    }
    config.write_text(json.dumps(document), encoding="utf-8")
    return config


@asynccontextmanager
async def another_mirror(directory: Path, endpoints: Mapping[str, str]) -> AsyncIterator[str]:
    """Run a mirror in a process of its own; docker.io is its default."""
    config = configuration(directory, endpoints)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "mirror", "serve", "--config", str(config)),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield f"http://{await _address(process)}"
    finally:
        process.terminate()
        await process.communicate()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(10):
        async for line in process.stderr:
            event = json.loads(line)
            if event["event"] == "serving":
                return str(event["listen"])
    raise AssertionError("the other mirror did not start")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_another_registry_through_a_mirror_whose_default_is_the_hub(tmp_path: Path) -> None:
    async with FakeRegistry() as hub, FakeRegistry() as ghcr:
        hub.push(REPOSITORY, HUBS, tags=["v1"])
        ghcr.push(REPOSITORY, OURS, tags=["v1"])
        inner = another_mirror(tmp_path / "inner", {"docker.io": hub.url, "ghcr.io": ghcr.url})
        async with (
            inner as url,
            mirror_of(tmp_path / "outer", {"docker.io": url, "ghcr.io": url}) as outer,
        ):
            await pull(outer, HUBS)
            await pull(outer, OURS, repository=f"ghcr.io/{REPOSITORY}")
            assert (await outer.get(manifest("v1", "ghcr.io/library/other"))).status == 404
            await hub.go_down()
            outage = await outer.get(manifest("v2"))

    chains = [request.header("Via") or "" for request in ghcr.requests]
    assert all(chain.startswith(f"1.1 {via.INSTANCE}, 1.1 mirror-") for chain in chains)
    assert outage.status == 502  # an outage is one through a chain, too


async def test_mirrors_that_lead_to_each_other(tmp_path: Path) -> None:
    port = free_port()
    server = Server(listen=ListenAddress("127.0.0.1", port), admin_listen=ANY_PORT)
    there = another_mirror(tmp_path / "there", {"docker.io": f"http://127.0.0.1:{port}"})
    async with there as url:
        upstream = Upstream(endpoints=(url,))
        async with mirror_of(tmp_path / "here", {"docker.io": upstream}, server=server) as mirror:
            loop = asyncio.get_running_loop()
            began = loop.time()
            answers = [
                await mirror.get(manifest()),
                await mirror.get(manifest(OURS.digest)),
                await mirror.get(blob(OURS.config.digest)),
            ]
            assert loop.time() - began < QUICK.response_seconds
            came_back = await mirror.total("mirror_requests_total", status="508")

    assert [(got.status, got.error_code) for got in answers] == [(502, "UNKNOWN")] * 3
    assert came_back >= 3


async def test_a_mirror_that_leads_to_itself(tmp_path: Path) -> None:
    port = free_port()
    server = Server(listen=ListenAddress("127.0.0.1", port), admin_listen=ANY_PORT)
    upstreams = {"docker.io": f"http://127.0.0.1:{port}"}
    async with mirror_of(tmp_path / "cache", upstreams, server=server) as mirror:
        got = await mirror.get(manifest())
    assert (got.status, got.error_code) == (502, "UNKNOWN")


@pytest.mark.parametrize(
    "chain",
    [
        f"1.1 {via.INSTANCE}",
        f"1.0 fred, 1.1 {via.INSTANCE} (comment), 1.1 x",
        ", ".join(["1.1 x"] * 20),
    ],
    ids=["just now", "some hops ago", "too far"],
)
async def test_a_request_that_has_been_here(
    mirror: Mirror, upstream: FakeRegistry, chain: str
) -> None:
    upstream.push(REPOSITORY, OURS, tags=["v1"])
    got = await mirror.get(manifest(), {"Via": chain})
    assert got.status == 508
    assert upstream.requests == []


async def test_what_came_by_another_proxy_is_no_loop(
    mirror: Mirror, upstream: FakeRegistry
) -> None:
    upstream.push(REPOSITORY, OURS, tags=["v1"])
    assert (await mirror.get(manifest(), {"Via": "1.1 nginx"})).status == 200
    assert upstream.requests[0].header("Via") == f"1.1 nginx, 1.1 {via.INSTANCE}"
