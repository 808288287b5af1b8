"""Hits do not wait for others (invariant 14)."""

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.content import blob
from tests.fakes.registry import FakeRegistry
from tests.harness import MIB, mirror_of


async def test_fifty_hanging_look_ups_do_not_hold_up_a_cached_pull(
    tmp_path: Path, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed, real, open_again = blob(MIB), socket.getaddrinfo, threading.Event()
    upstream.push_blob("library/alpine", pushed)

    def getaddrinfo(host: str, *args: object, **kwargs: object) -> object:
        if host.endswith(".hangs.example"):
            open_again.wait(30)
            raise socket.gaierror("gone")
        return real(host, *args, **kwargs)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    upstreams: dict[str, Any] = {"docker.io": upstream}
    upstreams |= {f"r{n}.example": f"http://r{n}.hangs.example" for n in range(50)}
    path = f"/v2/library/alpine/blobs/{pushed.digest}"
    async with mirror_of(tmp_path / "cache", upstreams) as mirror:
        await mirror.get(path)
        await mirror.settled()
        hanging = [
            asyncio.create_task(mirror.get(f"/v2/r{n}.example/x/y/manifests/v1")) for n in range(50)
        ]
        try:
            async with asyncio.timeout(2):  # the look-ups hang for longer than that
                for _ in range(10):
                    assert (await mirror.get(path)).body == pushed.content
            assert not any(task.done() for task in hanging)
        finally:
            open_again.set()
        answers = await asyncio.gather(*hanging)
    assert {answer.status for answer in answers} <= {502, 504}
