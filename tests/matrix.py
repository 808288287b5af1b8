"""Every fault at every position, for nobody, one, many and a range reader: what clients get.

Each cell has an upstream name of its own at one fake registry, so its bytes are counted
apart and many cells run at once. One reader means one; the outcome is of all of a cell.
"""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mirror.settings import Policy, Timeouts
from tests.fakes import faults
from tests.fakes.clients import Ended, get
from tests.fakes.content import Blob, blob
from tests.fakes.registry import FakeRegistry
from tests.fakes.script import Fault
from tests.harness import Mirror, mirror_of

SIZE: Final = 1 << 20
MIDDLE: Final = SIZE // 2
READERS: Final = {"nobody left": 0, "one": 1, "32 readers": 32, "a range": -1}
AT_ONCE: Final = 32
_PATIENCE_SECONDS: Final = 30.0
_POLICY: Final = Policy(
    timeouts=Timeouts(connect_seconds=2, response_seconds=3, idle_seconds=2),
    negative_ttl_seconds=0,
)


@dataclass(frozen=True, slots=True)
class Step:
    """Faults of one request, or of all from now on."""

    faults: Sequence[Fault]
    always: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One fault at one position."""

    fault: str
    position: str
    steps: Sequence[Step]


@dataclass(slots=True)
class Result:
    """What came of a row, by who was reading."""

    row: Row
    outcomes: dict[str, str] = field(default_factory=dict)
    extra_bytes: dict[str, int] = field(default_factory=dict)
    """What came from upstream beyond one whole, where all was delivered."""

    @property
    def fetched_twice(self) -> str:
        """How much came twice where all was delivered.

        Without the range reader, who may get a request of its own while a download stalls.
        """
        most = max((self.extra_bytes[who] for who in READERS if READERS[who] >= 0), default=0)
        return "nothing" if most <= 0 else "a part" if most < SIZE else "all of it"


def once(*what: Fault) -> Step:
    return Step(what)


def always(*what: Fault) -> Step:
    return Step(what, always=True)


def _positions(make: Callable[[int], Fault], name: str) -> list[Row]:
    places = {"the first byte": 0, "the middle": MIDDLE, "the last byte": SIZE - 1}
    return [Row(name, place, [once(make(at))]) for place, at in places.items()]


def _resumed(name: str, step: Step) -> Row:
    return Row(name, "on resumption", [once(faults.cut(MIDDLE)), step])


ROWS: Final = [
    Row("closed (FIN)", "before the head", [once(faults.no_answer())]),
    *_positions(faults.cut, "closed (FIN)"),
    Row("reset (RST)", "before the head", [once(faults.no_answer(rst=True))]),
    *_positions(lambda at: faults.cut(at, rst=True), "reset (RST)"),
    Row("stalled", "before the head", [once(faults.hang())]),
    *_positions(faults.hang_in_body, "stalled"),
    Row("status 503", "before the head", [once(faults.status(503))]),
    Row("status 429", "before the head", [once(faults.too_many_requests(1))]),
    _resumed("status 503", once(faults.status(503))),
    _resumed("status 429", once(faults.too_many_requests(1))),
    _resumed("status 403", once(faults.cdn_forbidden())),
    _resumed("closed (FIN)", once(faults.no_answer())),
    _resumed("no ranges", always(faults.ignore_range())),
    _resumed("another length", always(faults.range_total(SIZE + 5))),
    _resumed("another range", always(faults.range_shifted(1))),
    Row("no ranges", "cut once in the middle", [
        once(faults.cut(MIDDLE), faults.ignore_range()), always(faults.ignore_range()),
    ]),
    Row("flipped bit, once", "the last byte", [once(faults.flip(SIZE - 1))]),
    Row("flipped bit", "the first byte", [always(faults.flip(0))]),
    Row("flipped bit", "the middle", [always(faults.flip(MIDDLE))]),
    Row("flipped bit", "the last byte", [always(faults.flip(SIZE - 1))]),
    Row("other content", "everywhere", [always(faults.body(b"x" * SIZE))]),
    Row("extra bytes", "after the last byte", [always(faults.surplus())]),
    Row("too few chunks", "the middle", [always(faults.chunked(only_bytes=MIDDLE))]),
    Row("empty", "everywhere", [always(faults.empty())]),
    Row("encoded", "everywhere", [always(faults.gzip())]),
    Row("status 404", "before the head", [always(faults.status(404))]),
]  # fmt: skip


def run() -> list[Result]:
    """Run all cells in an event loop of its own."""
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(run_in(Path(directory)))


async def run_in(directory: Path) -> list[Result]:
    """Run all cells; raises AssertionError where anything was wrong."""
    cells = [(row, who) for row in ROWS for who in READERS]
    names = {f"cell-{number}.example": cell for number, cell in enumerate(cells)}
    results = {id(row): Result(row) for row in ROWS}
    async with (
        FakeRegistry() as registry,
        mirror_of(
            directory / "cache", dict.fromkeys(names, registry.url), policy=_POLICY
        ) as mirror,
    ):
        at_once = asyncio.Semaphore(AT_ONCE)

        async def one(number: int, name: str, row: Row, who: str) -> None:
            async with at_once:
                cell = Cell(mirror, registry, name, blob(SIZE, 1000 + number))
                results[id(row)].outcomes[who] = await cell.run(row, READERS[who])

        async with asyncio.TaskGroup() as group:
            for number, (name, cell) in enumerate(names.items()):
                group.create_task(one(number, name, *cell))
        await mirror.settled()
        space = mirror.up.store.space
        assert (space.reserved_bytes, space.written_bytes) == (0, 0)
        assert await mirror.metric("mirror_fill_readers") == 0
        received = await _received(mirror)
    for name, (row, who) in names.items():
        delivered = results[id(row)].outcomes[who] in {"complete", "kept"}
        results[id(row)].extra_bytes[who] = received.get(name, 0) - SIZE if delivered else 0
    return list(results.values())


async def _received(mirror: Mirror) -> dict[str, int]:
    """Return the bytes that came, by upstream, in one look at all metrics."""
    return {
        sample.labels["upstream"]: int(sample.value)
        for family in mirror.up.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "mirror_upstream_bytes_total"
    }


class Cell:
    """One blob of one upstream."""

    def __init__(self, mirror: Mirror, registry: FakeRegistry, name: str, pushed: Blob) -> None:
        self._mirror = mirror
        self._registry = registry
        self._pushed = pushed
        self._repository = f"cells/{name.split('.', maxsplit=1)[0]}"
        self._path = f"/v2/{name}/{self._repository}/blobs/{pushed.digest}"

    async def run(self, row: Row, readers: int) -> str:
        """Return what the readers got."""
        self._registry.push_blob(self._repository, self._pushed)
        for step in row.steps:
            self._registry.fail(
                *step.faults,
                kind="blob",
                method="GET",
                repository=self._repository,
                times=None if step.always else 1,
            )
        if readers == 0:
            outcome = await self._abandoned()
        elif readers < 0:
            outcome = await self._read([("Range", f"bytes={MIDDLE}-")], MIDDLE)
        else:
            outcomes = await asyncio.gather(*(self._read([], 0) for _ in range(readers)))
            # Who comes when the first try has failed already is better off: the worst counts.
            outcome = max(outcomes, key=lambda each: (each != "complete", each != "cut short"))
        await self._kept()
        return outcome

    async def _read(self, headers: list[tuple[str, str]], start: int) -> str:
        host, port = self._mirror.host, self._mirror.port
        answer = await get(host, port, self._path, headers, timeout_seconds=_PATIENCE_SECONDS)
        if answer.status not in {200, 206}:
            return str(answer.status)
        wanted = self._pushed.content[start:]
        if answer.ended is Ended.COMPLETE:
            assert answer.body == wanted, "a wrong whole was delivered"
            return "complete"
        assert answer.ended is Ended.FIN
        assert len(answer.body) < len(wanted)
        return "cut short"

    async def _abandoned(self) -> str:
        """Leave at once, and see whether the object is kept all the same."""
        asking = asyncio.create_task(self._mirror.raw(self._path))
        await self._registry.until(
            lambda: self._registry.count("GET", "blob", self._repository) > 0
        )
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        return "kept" if await self._kept() else "not kept"

    async def _kept(self) -> bool:
        """Wait for the fill to end; what is stored is right."""
        async with asyncio.timeout(60):
            while filling := self._filling():
                await asyncio.wait(filling)
        path = self._mirror.stored(self._pushed.digest)
        assert not path.exists() or path.read_bytes() == self._pushed.content
        return path.exists()

    def _filling(self) -> list["asyncio.Task[object]"]:
        name = f"fill {self._pushed.digest}"
        return [task for task in asyncio.all_tasks() if task.get_name() == name]


def table(results: Sequence[Result]) -> str:
    """Return the results as a Markdown table."""
    heads = ["Fault", "Where", *READERS, "Fetched twice"]
    lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
    for result in results:
        cells = [result.row.fault, result.row.position]
        cells += [result.outcomes[who] for who in READERS]
        lines.append(" | ".join([*cells, result.fetched_twice]))
    return "\n".join(f"| {line} |" for line in lines)
