"""What a test tells a fake in advance: faults for the next requests, and gates."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.fakes.answers import Answer
from tests.fakes.wire import Connection, Kind, Recorded

Fault = Callable[[Recorded, Answer], Answer]
PATIENCE_SECONDS = 10.0
"""How long a test waits for what must come; only a failing test ever waits so long."""


@dataclass(slots=True, kw_only=True)
class Match:
    """Which requests are meant; None is any."""

    kind: Kind | str | None = None
    reference: str | None = None
    repository: str | None = None
    method: str | None = None

    def fits(self, request: Recorded) -> bool:
        return (
            self.kind in {None, request.kind}
            and self.reference in {None, request.reference}
            and self.repository in {None, request.repository}
            and self.method in {None, request.method}
        )


@dataclass(slots=True, kw_only=True)
class Rule:
    """Faults for the requests that match, from the one after *skip* on, *times* times."""

    match: Match
    faults: tuple[Fault, ...]
    times: int | None
    skip: int = 0
    hits: int = 0

    def cancel(self) -> None:
        self.times = self.hits

    def takes(self, request: Recorded) -> bool:
        if not self.match.fits(request) or self.times == self.hits:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.hits += 1
        return True


@dataclass(slots=True, kw_only=True, eq=False)
class Gate:
    """Holds the requests that match until ``release``; nobody needs to sleep.

    ``reached`` is set once the first of them stands at the gate.
    """

    match: Match
    after_bytes: int | None = None
    times: int | None = None
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: list[Recorded] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        self.opened.set()

    async def arrivals(self, count: int = 1) -> None:
        """Wait until *count* requests have come to the gate."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.waiting) < count:
                self._news.clear()
                await self._news.wait()

    def holds(self, request: Recorded) -> bool:
        full = self.times is not None and len(self.waiting) >= self.times
        return not full and not self.opened.is_set() and self.match.fits(request)

    async def hold(self, connection: Connection, request: Recorded) -> None:
        self.waiting.append(request)
        self.reached.set()
        self._news.set()
        await connection.until(self.opened)


@dataclass(slots=True)
class Script:
    """The rules and gates of one fake; of several rules the first that fits is taken."""

    rules: list[Rule] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)

    def faults(self, request: Recorded) -> tuple[Fault, ...]:
        rule = next((rule for rule in self.rules if rule.takes(request)), None)
        return () if rule is None else rule.faults

    def head_gate(self, request: Recorded) -> Gate | None:
        return self._gate(request, in_body=False)

    def body_gate(self, request: Recorded) -> Gate | None:
        return self._gate(request, in_body=True)

    def _gate(self, request: Recorded, *, in_body: bool) -> Gate | None:
        gates = (gate for gate in self.gates if (gate.after_bytes is not None) is in_body)
        return next((gate for gate in gates if gate.holds(request)), None)

    def release_all(self) -> None:
        for gate in self.gates:
            gate.release()
