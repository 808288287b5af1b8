"""How many small answers a second: by ``wrk`` where it is installed, else by asyncio."""

from __future__ import annotations

import asyncio
import http.client
import re
import shutil
import time
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from tests.e2e.daemon import run

CONNECTIONS: Final = 32
_RATE: Final = re.compile(r"^Requests/sec:\s+([0-9.]+)$", re.MULTILINE)
_COUNT: Final = re.compile(r"^\s*(\d+) requests in ", re.MULTILINE)
_REFUSED: Final = re.compile(r"Non-2xx or 3xx responses: (\d+)")


def tool() -> str:
    """Return which client asks."""
    return "wrk" if shutil.which("wrk") else "asyncio client (wrk is not installed)"


def requests(
    url: str, accept: str, seconds: int, authorization: str | None = None
) -> tuple[float, int]:
    """Ask for *url* over and over; returns requests per second and how many there were."""
    if shutil.which("wrk") is None and authorization is None:
        return asyncio.run(_ask(url, accept, seconds))
    more = () if authorization is None else ("--header", f"Authorization: {authorization}")
    output = run(
        *("wrk", "--threads", "1", "--connections", str(CONNECTIONS)),
        *("--duration", f"{seconds}s", "--header", f"Accept: {accept}", *more, url),
    )
    rate, count = _RATE.search(output), _COUNT.search(output)
    if rate is None or count is None or _REFUSED.search(output):
        raise RuntimeError(f"wrk was not served:\n{output}")
    return float(rate[1]), int(count[1])


def ask_times(url: str, accept: str, times: int) -> None:
    """Ask for *url* so many times, over one connection."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    for _ in range(times):
        connection.request("GET", parts.path, headers={"Accept": accept})
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(f"{url}: {answer.status}")
    connection.close()


async def _ask(url: str, accept: str, seconds: int) -> tuple[float, int]:
    until = time.monotonic() + seconds
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, headers={"Accept": accept}) as session:
        counts = await asyncio.gather(*(_loop(session, url, until) for _ in range(CONNECTIONS)))
    return sum(counts) / seconds, sum(counts)


async def _loop(session: aiohttp.ClientSession, url: str, until: float) -> int:
    count = 0
    while time.monotonic() < until:
        async with session.get(url, raise_for_status=True) as answer:
            await answer.read()
        count += 1
    return count
