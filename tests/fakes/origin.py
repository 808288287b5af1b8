"""A server on a loopback socket: counts, records, holds and fails as it is told."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from tests.fakes.answers import Answer, Ending, as_conditional, as_range, text
from tests.fakes.script import PATIENCE_SECONDS, Fault, Gate, Match, Rule, Script
from tests.fakes.wire import Connection, Ended, GoneError, Kind, Recorded

_SLICE_BYTES = 1 << 18


class Origin:
    """One scheme, host and port.  Subclasses say what a request means and its answer.

    Use it as an async context manager.  ``close`` opens every gate and drops every
    connection, so that a test that fails does not hang.
    """

    def __init__(self, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.host = host
        self.port = 0
        self.requests: list[Recorded] = []
        self.requires_user_agent = False
        self._tls = tls
        self._script = Script()
        self._server: asyncio.Server | None = None
        self._tasks: dict[asyncio.Task[None], Connection] = {}
        self._connections = 0
        self._news = asyncio.Event()

    # What a subclass provides.

    def classify(self, request: Recorded) -> None:
        """Set kind, repository and reference of *request*."""

    def answer(self, request: Recorded) -> Answer:
        """Return the ordinary answer, which faults may then change."""
        return text(404, "404 page not found\n")

    # Life.

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://{self.authority}"

    @property
    def connections(self) -> int:
        """How many connections have been made, closed ones included."""
        return self._connections

    async def __aenter__(self) -> Self:
        await self.come_up()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def come_up(self) -> None:
        """Listen; after ``go_down`` on the same port as before."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._connection, self.host, self.port, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def go_down(self) -> None:
        """Refuse connections and drop those there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)  # a socket that was just accepted gets its task
        tasks = dict(self._tasks)
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for connection in tasks.values():
            await connection.drop()
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def close(self) -> None:
        self._script.release_all()
        await self.go_down()

    # What a test asks.

    def matching(
        self,
        *,
        method: str | None = None,
        kind: Kind | str | None = None,
        repository: str | None = None,
        reference: str | None = None,
    ) -> list[Recorded]:
        """Return the requests so far, filtered; None is any."""
        match = Match(kind=kind, reference=reference, repository=repository, method=method)
        return [request for request in self.requests if match.fits(request)]

    def count(
        self,
        method: str | None = None,
        kind: Kind | str | None = None,
        repository: str | None = None,
        reference: str | None = None,
    ) -> int:
        return len(
            self.matching(method=method, kind=kind, repository=repository, reference=reference)
        )

    def bytes_sent(self, reference: str | None = None) -> int:
        """Return how many bytes of body the kernel took, for one digest or for all."""
        return sum(request.sent_bytes for request in self.matching(reference=reference))

    def clear(self) -> None:
        """Forget the requests so far."""
        self.requests.clear()

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait until *happened*, asked anew whenever a request comes, moves or ends."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not happened():
                self._news.clear()
                await self._news.wait()

    async def quiet(self) -> None:
        """Wait until every request so far has ended."""
        await self.until(lambda: all(each.ended is not Ended.OPEN for each in self.requests))

    # What a test orders.

    def fail(
        self,
        *faults: Fault,
        kind: Kind | str | None = None,
        reference: str | None = None,
        repository: str | None = None,
        method: str | None = None,
        times: int | None = None,
        skip: int = 0,
    ) -> Rule:
        """Apply all of *faults* to matching requests: the next *times*, or for ever.

        Args:
            faults: see ``tests.fakes.faults``; several are applied one after another.
            kind: None is any, as for the next three.
            reference: as in the path of the request, tag or digest.
            repository: as in the path of the request.
            method: such as ``HEAD``.
            times: None is for ever.
            skip: how many matching requests are answered as usual before.
        """
        match = Match(kind=kind, reference=reference, repository=repository, method=method)
        rule = Rule(match=match, faults=faults, times=times, skip=skip)
        self._script.rules.append(rule)
        return rule

    def heal(self) -> None:
        """Forget all faults."""
        self._script.rules.clear()

    def hold_head(
        self,
        kind: Kind | str | None = None,
        reference: str | None = None,
        *,
        repository: str | None = None,
        method: str | None = None,
        times: int | None = None,
    ) -> Gate:
        """Hold requests before their answer is decided; *times* None is all of them."""
        match = Match(kind=kind, reference=reference, repository=repository, method=method)
        return self._gate(Gate(match=match, times=times))

    def hold_body(
        self,
        reference: str | None = None,
        after_bytes: int = 0,
        *,
        kind: Kind | str | None = None,
        repository: str | None = None,
        times: int | None = None,
    ) -> Gate:
        """Hold answers when *after_bytes* of their body are out; heads are sent at once."""
        match = Match(kind=kind, reference=reference, repository=repository)
        return self._gate(Gate(match=match, after_bytes=after_bytes, times=times))

    def _gate(self, gate: Gate) -> Gate:
        self._script.gates.append(gate)
        return gate

    # The wire.

    def _connection(self) -> Connection:
        self._connections += 1
        return Connection(self._connections, self._start)

    def _start(self, connection: Connection) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks[task] = connection
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        # One that broke stays, so that close() raises what went wrong in the fake.
        if task.cancelled() or task.exception() is None:
            del self._tasks[task]

    async def _serve(self, connection: Connection) -> None:
        try:
            with suppress(GoneError):
                while await self._exchange(connection):
                    pass
                await connection.finish()
        finally:
            await connection.drop()

    async def _exchange(self, connection: Connection) -> bool:
        """Answer one request; return whether the connection can carry another."""
        request = await connection.read_request()
        self.classify(request)
        self.requests.append(request)
        self._news.set()
        try:
            return await self._respond(connection, request)
        except (GoneError, asyncio.CancelledError):
            request.ended = Ended.GONE
            raise
        finally:
            self._news.set()

    async def _respond(self, connection: Connection, request: Recorded) -> bool:
        gate = self._script.head_gate(request)
        if gate is not None:
            await gate.hold(connection, request)
        answer = self._decide(request)
        head = answer.head()
        if answer.head_limit_bytes is None:
            request.status = answer.status
        await connection.write(head[: answer.head_limit_bytes])
        if answer.has_body and request.method != "HEAD" and answer.head_limit_bytes is None:
            await self._send(connection, request, answer)
        return await self._end(connection, request, answer)

    def _decide(self, request: Recorded) -> Answer:
        if self.requires_user_agent and not request.header("User-Agent"):
            answer = text(403, "<html>error code: 1010</html>", "text/html")
        else:
            answer = self.answer(request)
        for fault in self._script.faults(request):
            answer = fault(request, answer)
        return as_range(request, as_conditional(request, answer))

    async def _send(self, connection: Connection, request: Recorded, answer: Answer) -> None:
        gate, stop = self._script.body_gate(request), None
        if gate is not None and gate.after_bytes is not None:
            stop = min(gate.after_bytes, len(answer.payload))
        sent = 0
        while True:
            if gate is not None and sent == stop:
                await gate.hold(connection, request)
                gate = None
            if sent == len(answer.payload):
                break
            end = sent + _SLICE_BYTES if gate is None or stop is None else stop
            part = answer.payload[sent : min(end, sent + _SLICE_BYTES)]
            await self._write(connection, part, answer)
            sent += len(part)
            request.sent_bytes = sent
            self._news.set()
        if answer.framing == "chunked" and answer.ending is Ending.COMPLETE:
            await connection.write(b"0\r\n\r\n")

    @staticmethod
    async def _write(connection: Connection, part: memoryview, answer: Answer) -> None:
        if answer.framing != "chunked":
            await connection.write(part)
            return
        await connection.write(f"{len(part):x}\r\n".encode())
        await connection.write(part)
        await connection.write(b"\r\n")

    @staticmethod
    async def _end(connection: Connection, request: Recorded, answer: Answer) -> bool:
        if answer.ending is Ending.HANG:
            await connection.gone.wait()
            raise GoneError
        request.ended = Ended.COMPLETE if answer.is_regular else Ended.CUT
        if answer.ending is Ending.RST:
            await connection.reset()
        return answer.is_regular and request.keeps_connection
