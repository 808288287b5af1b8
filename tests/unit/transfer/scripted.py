"""Fills without sockets: what upstream sends is a list of steps."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry

from mirror.domain.errors import MirrorError, TroubleError, UpstreamTroubleError
from mirror.domain.names import Digest, Repository
from mirror.domain.ranges import Span
from mirror.observe.metrics import Metrics
from mirror.runtime.clock import Clock
from mirror.runtime.pools import Pools
from mirror.runtime.recent import MemoryTier
from mirror.settings import Cache, Upstream
from mirror.settings.units import SizeOrShare
from mirror.store.store import Store
from mirror.transfer.bodies import FillBody
from mirror.transfer.bypass import Direct
from mirror.transfer.download import Download
from mirror.transfer.fill import Fill
from mirror.transfer.parts import FilePart
from mirror.transfer.slots import Slots
from mirror.transfer.sources import Sources
from mirror.upstream.receiving import Batch
from mirror.upstream.upstreams import Upstreams

SOURCE = Repository("docker.io", "library/alpine")


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request gets: so much of the content, and then the end or a break."""

    chunk_bytes: int = 1 << 16
    upto: int | None = None
    breaks: bool = False
    ignores_range: bool = False
    announced: int | None = None
    tells_length: bool = True
    flips: int | None = None
    surplus: bytes = b""


@dataclass(slots=True)
class Scripted:
    """Answers in order; the last one again and again."""

    content: bytes
    answers: Sequence[Answer]
    asked: list[int] = field(default_factory=list)
    suspected: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def open(
        self,
        repository: Repository,
        digest: Digest,
        span: tuple[int, int | None],
        avoid: Collection[str] = (),
    ) -> AsyncIterator["ScriptedStream"]:
        answer = self.answers[min(len(self.asked), len(self.answers) - 1)]
        self.asked.append(span[0])
        await asyncio.sleep(0)
        yield ScriptedStream(self.content, answer, 0 if answer.ignores_range else span[0])

    def endpoints(self, repository: Repository) -> tuple[str, ...]:
        return (ScriptedStream.endpoint,)

    def suspects(self, digest: Digest) -> Collection[str]:
        return ()

    def suspect(
        self, endpoint: str, repository: Repository, digest: Digest, error: MirrorError
    ) -> None:
        self.suspected.append(endpoint)


class ScriptedStream:
    """A BlobStream of one answer."""

    endpoint = "http://scripted"

    def __init__(self, content: bytes, answer: Answer, offset: int) -> None:
        self.offset = offset
        whole = len(content) if answer.announced is None else answer.announced
        self.size_bytes = whole if answer.tells_length else None
        self._content = content
        self._answer = answer

    def close(self) -> None:
        pass

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        answer, content = self._answer, bytearray(self._content)
        if answer.flips is not None and content:
            content[answer.flips % len(content)] ^= 1
        content += answer.surplus
        body = bytes(content[self.offset : answer.upto])
        for start in range(0, len(body), answer.chunk_bytes):
            await asyncio.sleep(0)
            yield body[start : start + answer.chunk_bytes]
        if answer.breaks:
            raise UpstreamTroubleError("the line broke")

    async def batches(self) -> AsyncGenerator[Batch, None]:
        async for chunk in self.chunks():
            yield Batch.of(chunk)


class Hasty:
    """Patience for so many tries without progress, and no waiting."""

    def __init__(self, tries: int = 2) -> None:
        self._left = tries

    def attempt(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    def heard(self) -> None:
        pass

    async def after(self, error: TroubleError, gained_bytes: int) -> None:
        self._left -= not gained_bytes
        if self._left < 0:
            raise error


class Rig:
    """A store, and fills into it."""

    def __init__(self, directory: Path, max_bytes: int = 1 << 30) -> None:
        self.directory = directory
        self.pools = Pools()
        self.metrics = Metrics(CollectorRegistry())
        self.tier = MemoryTier(1 << 20)
        cache = Cache(
            directory=directory,
            max_size=SizeOrShare(size_bytes=max_bytes),
            min_free=SizeOrShare(size_bytes=0),
        )
        self.store = Store(cache, self.pools, self.tier, self.metrics, Clock())
        upstream = Upstream(endpoints=("http://127.0.0.1:9",)).model_copy(
            update={"name": "docker.io"}
        )
        upstreams = Upstreams({"docker.io": upstream}, self.pools, self.tier, self.metrics, Clock())
        sources = Sources(upstreams, self.metrics)
        self.direct = Direct(sources, self.pools.fill, Slots(1), self.metrics)

    async def fill(
        self,
        scripted: Scripted,
        digest: Digest,
        *,
        expected: int | None = None,
        readers: Sequence[Span | None] = (None,),
        late: Sequence[Span | None] = (),
    ) -> list[bytes | MirrorError]:
        """Run a fill and return what each reader got, the late ones last."""
        fill = Fill(digest, "_", SOURCE, expected)
        download = Download(
            fill,
            store=self.store,
            pool=self.pools.fill,
            slots=Slots(1),
            upstream=scripted,
            patience=Hasty(),
        )
        async with asyncio.timeout(5):
            with fill:
                reading = [asyncio.create_task(self.read(fill, span)) for span in readers]
                reading += [asyncio.create_task(self.read_late(fill, span)) for span in late]
                running = asyncio.create_task(download.run())
                await asyncio.gather(running, return_exceptions=True)
                return await asyncio.gather(*reading)

    async def read_late(self, fill: Fill, span: Span | None) -> bytes | MirrorError:
        """Join once the head is known or, where that waits for all, once all is there."""
        with fill, suppress(MirrorError):
            await fill.head(SOURCE)
        return await self.read(fill, span)

    async def read(self, fill: Fill, span: Span | None) -> bytes | MirrorError:
        """Return what a client gets: all that was promised, or why not."""
        body = FillBody(fill, SOURCE, self.direct, 1e9)
        try:
            await body.head()
            return b"".join([_bytes(part) async for part in body.parts(span)])
        except MirrorError as error:
            return error
        finally:
            await body.close()

    def partials(self) -> list[str]:
        return [path.name for path in (self.directory / "partial").iterdir()]

    async def close(self) -> None:
        await self.store.close()
        self.pools.close()
        await self.tier.clear()


def _bytes(part: FilePart | bytes) -> bytes:
    if isinstance(part, bytes):
        return part
    data = os.pread(part.file.fileno(), part.length_bytes, part.start)
    assert len(data) == part.length_bytes
    return data


@contextmanager
def rig_of(directory: Path, max_bytes: int = 1 << 30) -> Iterator[tuple[asyncio.Runner, Rig]]:
    """Set up a rig in a loop of its own, for tests that run many examples in it."""
    with asyncio.Runner() as runner:

        async def make() -> Rig:
            return Rig(directory, max_bytes)

        rig = runner.run(make())
        try:
            yield runner, rig
        finally:
            runner.run(rig.close())
