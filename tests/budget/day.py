"""Runs a day of pulls against one target and counts what comes of it."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

from tests.budget.hub import REPOSITORY, Hub
from tests.budget.trace import Event, Plan, events
from tests.fakes.clock import FakeClock
from tests.fakes.content import OCI_INDEX, OCI_MANIFEST, Image

_AT_ONCE = 50
_STEP_SECONDS = 60.0
_ACCEPT = {"Accept": f"{OCI_INDEX}, {OCI_MANIFEST}"}


@dataclass(slots=True)
class Day:
    """What came of a day."""

    pulls: int = 0
    requests: int = 0
    failed: int = 0
    first_failed: Counter[str] = field(default_factory=Counter)
    """Of those, pulls of what nobody had pulled before."""
    needed: set[str] = field(default_factory=set)


class Cluster:
    """Nodes as containerd makes them: HEAD of the tag, then what the node does not have."""

    def __init__(self, url: str, hub: Hub, session: aiohttp.ClientSession) -> None:
        self._url = f"{url}/v2/{REPOSITORY}"
        self._hub = hub
        self._session = session
        self._has: set[tuple[int, str]] = set()
        self._pulled: set[str] = set()
        self.day = Day()

    async def run(self, plan: Plan, clock: FakeClock) -> Day:
        """Live through a day; those who pull within a minute pull at once."""
        began = clock()
        waiting: list[Event] = []
        for event in events(plan):
            if event.node is None:
                await self._together(waiting)
                self._hub.move(event.tag)
                continue
            if len(waiting) == _AT_ONCE or event.at_seconds > clock() - began + _STEP_SECONDS:
                await self._together(waiting)
                clock.advance(max(0.0, event.at_seconds - (clock() - began)))
            waiting.append(event)
        await self._together(waiting)
        return self.day

    async def _together(self, waiting: list[Event]) -> None:
        await asyncio.gather(*(self.pull(event.tag, event.node or 0) for event in waiting))
        waiting.clear()

    async def pull(self, tag: int, node: int) -> bool:
        """Pull a tag to a node; returns whether it could."""
        self.day.pulls += 1
        status, digest = await self._ask("HEAD", f"manifests/t{tag}")
        is_right = status == 200 and (node, digest) in self._has
        if status == 200 and not is_right:
            is_right = await self._fetch(tag, digest)
            self._has.add((node, digest))
        if not is_right:
            self.day.failed += 1
        return is_right

    async def _fetch(self, tag: int, digest: str) -> bool:
        meaning = self._hub.meaning(tag)
        if digest != meaning.digest:
            return (await self._ask("GET", f"manifests/{digest}"))[0] == 200
        child = meaning.manifests[0]
        assert isinstance(child, Image)
        paths = [f"manifests/{digest}", f"manifests/{child.digest}"]
        self.day.needed |= {digest, child.digest}
        if digest not in self._pulled:
            self._pulled.add(digest)
            paths += [f"blobs/{each.digest}" for each in child.blobs]
        for path in paths:
            if (await self._ask("GET", path))[0] != 200:
                return False
        return True

    async def _ask(self, method: str, path: str) -> tuple[int, str]:
        self.day.requests += 1
        url = f"{self._url}/{path}"
        async with self._session.request(method, url, headers=_ACCEPT) as response:
            await response.read()
            return response.status, response.headers.get("Docker-Content-Digest", "")
