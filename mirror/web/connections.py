"""The connections of a listener: how many there may be, TLS, and how long a request may take.

aiohttp closes connections that are idle. What it leaves to others is here: whoever dribbles
the head of a request, or holds more connections than one client needs (case S13).
"""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.web_protocol import _ErrInfo

from mirror.domain.certificates import ClientCertificate
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics
from mirror.settings import Limits
from mirror.web.encrypting import lendable
from mirror.web.heads import HEAD_MAX_BYTES, is_one_head
from mirror.web.stalls import Taking

_BACKLOG: Final = 1024
_FIELD_MAX_BYTES: Final = 32 * 1024
_HEAD_MAX_BYTES: Final = 128 * 1024
_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)
_CLOSE_NOTIFY_SECONDS: Final = 5.0
_SENDING_BYTES: Final = 64 * 1024
"""asyncio would take 512 KiB for each connection before it waits for a slow client."""
_LOOK_SECONDS: Final = 1.0
_log = get_logger("web")


AtOnce = Callable[["Connection", bytes], bool]
"""Answers what came on a connection that waits for a request, and tells whether it did."""


class Connection(web.RequestHandler):
    """One connection whose client may ask."""

    __slots__ = (
        "_at_once",
        "_gate",
        "_head_began",
        "_head_bytes",
        "_is_aligned",
        "_line",
        "_taking",
        "certificate",
        "client",
        "head",
        "on_lost",
        "peer",
    )

    def __init__(
        self,
        gate: "Gate",
        client: str,
        server: web.Server,
        options: dict[str, Any],
        at_once: "AtOnce | None" = None,
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._gate = gate
        self._at_once = at_once
        self._is_aligned = True
        self.client = client
        self.peer = ""
        """The address of the client, or of a proxy before it."""
        self.head: bytes | None = None
        """The request that is being answered, as it came; ``None``: not by itself, or too long."""
        self.on_lost: Callable[[], None] | None = None
        """Told when the client leaves; of whoever waits for something in its name."""
        self._head_began: float | None = None
        self._head_bytes = 0
        self._taking = Taking()
        self._line: asyncio.Transport | None = None
        """The transport until it is lost: aiohttp forgets one that is closing."""
        self.certificate: ClientCertificate | None = None
        """Of the client, verified; on the facts of each request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the handshake is over."""
        self.certificate = ClientCertificate.read(transport.get_extra_info("peercert"))
        self.peer = (transport.get_extra_info("peername") or ("",))[0]
        if isinstance(transport, asyncio.Transport):
            self._line = transport
            if transport.get_extra_info("sslcontext"):
                transport.set_write_buffer_limits(high=_SENDING_BYTES, low=0)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take what came, and note whether it leaves the head of a request unfinished."""
        is_free = self._is_aligned and self._waits() and not self._force_close
        if is_free and self._at_once is not None and self._at_once(self, data):
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            return
        # Once a request came in pieces, or with more, only aiohttp knows where the next one begins.
        self._is_aligned = self._is_aligned and is_one_head(data)
        is_known = is_free and self._is_aligned and len(data) <= HEAD_MAX_BYTES
        self.head = data if is_known else None
        super().data_received(data)
        if not self._waits():
            self._head_began = None
            if self._messages and self._current_request is not None:
                self._end_broken_body(self._current_request)
            return
        if self._head_began is None:
            self._head_began, self._head_bytes = self._loop.time(), 0
        self._head_bytes += len(data)
        if self._head_bytes > _HEAD_MAX_BYTES:
            self._gate.drops("head_size")
            if self.transport is not None:
                self.transport.write(_TOO_LARGE)
            self.force_close()

    def _end_broken_body(self, request: web.BaseRequest) -> None:
        """Tell whoever reads a body that the rest of it cannot be read: aiohttp does not."""
        if isinstance(self._messages[-1][0], _ErrInfo) and not request.content.is_eof():
            request.content.set_exception(web.RequestPayloadError("it is not framed as it says"))

    def _waits(self) -> bool:
        """Tell whether a head is waited for: aiohttp has no other sign of it."""
        return self._waiter is not None and not self._waiter.done()

    def is_late(self, since: float) -> bool:
        """Tell whether the head of a request began before a moment and is still unfinished."""
        began_at = None if self.transport is None else self._head_began  # it may be closing already
        return began_at is not None and began_at < since

    def resume_writing(self) -> None:
        """Go on: the client has taken what waited."""
        self._taking.goes_on()
        super().resume_writing()

    def is_stalled(self, now: float, limit_seconds: float) -> bool:
        """Tell whether the client takes nothing of what waits, be it after the last answer."""
        return self._line is not None and self._taking.is_stalled(self._line, now, limit_seconds)

    def abort(self) -> None:
        """End at once: a mere close would wait for the client to take what is buffered."""
        if self._line is not None:
            self._line.abort()

    def log_exception(self, *args: object, **kw: Any) -> None:  # noqa: ANN401 -- aiohttp's
        """Log what aiohttp has caught; of a broken request not its bytes, which may be secret."""
        error = kw.get("exc_info")
        if isinstance(error, HttpProcessingError | web.RequestPayloadError):
            _log.info("a request cannot be read", client=self.client, reason=type(error).__name__)
        else:
            super().log_exception(*args, **kw)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        super().connection_lost(exc)
        self._line = None
        if self.on_lost is not None:
            self.on_lost()
        self._gate.left(self.client, self)


class _Arrival(asyncio.Protocol):
    """A connection until its handshake is over."""

    def __init__(self, gate: "Gate") -> None:
        self._gate = gate
        self._early = b""
        self._client = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 -- TCP gives nothing else
        peer = transport.get_extra_info("peername")
        self._client = client_of(peer[0]) if peer else ""
        if not self._gate.admits(self._client):
            transport.close()
        elif self._gate.tls is None:
            self._hand_over(transport)
        else:
            shaking = self._shake_hands(transport, self._gate.tls())
            self._gate.shakes(asyncio.create_task(shaking))

    def data_received(self, data: bytes) -> None:
        self._early += data  # asyncio may deliver it before it tells that the handshake is over

    async def _shake_hands(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        try:
            secure = await asyncio.get_running_loop().start_tls(
                transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self._gate.limits.head_seconds,
                ssl_shutdown_timeout=_CLOSE_NOTIFY_SECONDS,
            )
        except OSError as error:  # TLS errors and timeouts are some
            secure = None
            self._gate.drops("handshake", getattr(error, "reason", None) or type(error).__name__)
        except BaseException:
            self._gate.left(self._client)
            raise
        if secure is None or secure.is_closing():
            self._gate.left(self._client)
        else:
            self._hand_over(lendable(secure, transport))

    def _hand_over(self, transport: asyncio.Transport) -> None:
        connection = self._gate.connection(self._client)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if self._early:
            connection.data_received(self._early)


class Gate:
    """Lets clients in to one listener, and shows out who dawdles."""

    def __init__(
        self,
        listener: str,
        limits: Limits,
        metrics: Metrics,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        """Set up.

        Args:
            listener: What metrics call it: ``registry`` or ``admin``.
            limits: How many connections, and for how long.
            metrics: Where connections are counted.
            tls: Returns what the next handshake goes by; without it there is none.
        """
        self.limits = limits
        self.tls = tls
        self._listener = listener
        self._gauge = metrics.connections.labels(listener)
        self._metrics = metrics
        self._by_client: Counter[str] = Counter()
        self._total = 0
        self._connections: set[Connection] = set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._shaking: set[asyncio.Task[None]] = set()
        self._dropped: Counter[str] = Counter()
        self._detail = ""
        self._make: Callable[[str], Connection] | None = None

    async def open(
        self,
        runner: web.ServerRunner | web.AppRunner,
        listening: socket.socket,
        *,
        at_once: "AtOnce | None" = None,
        **options: Any,  # noqa: ANN401 -- of aiohttp's RequestHandler
    ) -> web.BaseSite:
        """Accept connections for a server that has been set up; its clean-up ends that.

        What *at_once* has an answer to does not get to the server.
        """
        server = runner.server
        assert server is not None  # noqa: S101 -- it has been set up
        fields: dict[str, Any] = {
            "max_line_size": _FIELD_MAX_BYTES,
            "max_field_size": _FIELD_MAX_BYTES,
        }
        # What comes of a body that nobody reads has as long as a head.
        fields |= {"lingering_time": self.limits.head_seconds}
        fields |= {"keepalive_timeout": self.limits.idle_seconds, **options}
        self._make = lambda client: Connection(self, client, server, fields, at_once)
        site = _Site(runner, listening, self)
        await site.start()
        return site

    async def watch(self) -> None:
        """Close connections whose client stops in a head or takes no answer, for ever."""
        limits = self.limits
        tick_seconds = min(_LOOK_SECONDS, limits.head_seconds / 4, limits.send_stall_seconds / 4)
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(tick_seconds)
            now = loop.time()
            for each in tuple(self._connections):
                if each.is_late(now - limits.head_seconds):
                    self.drops("head")
                    each.force_close()
                elif each.is_stalled(now, limits.send_stall_seconds):
                    self.drops("stalled")
                    each.abort()
            if self._dropped:
                why = {"handshake_error": self._detail} if self._detail else {}
                _log.warning("connections dropped", listener=self._listener, **self._dropped, **why)
                self._dropped.clear()
                self._detail = ""

    async def emptied(self, limit_seconds: float) -> None:
        """Wait until all connections have gone, for so long at most.

        One that is closed first sends what it has; over TLS, or with much in its buffer, that
        outlasts the answer, and the end of the process would cut it off.
        """
        try:
            async with asyncio.timeout(limit_seconds):
                await self._is_empty.wait()
        except TimeoutError:
            _log.info("connections are left behind", count=len(self._connections))

    def close(self) -> None:
        """End the handshakes that are under way."""
        for task in self._shaking:
            task.cancel()

    def arrival(self) -> asyncio.Protocol:
        """Return the protocol of a connection that has just come."""
        return _Arrival(self)

    def shakes(self, task: "asyncio.Task[None]") -> None:
        """Keep hold of a handshake."""
        self._shaking.add(task)
        task.add_done_callback(self._shaking.discard)

    def admits(self, client: str) -> bool:
        """Count a connection, or tell that there are too many."""
        if self._total >= self.limits.connections:
            self.drops("connections")
            return False
        if self._by_client[client] >= self.limits.per_client:
            self.drops("per_client")
            return False
        self._total += 1
        self._by_client[client] += 1
        self._gauge.inc()  # other processes add theirs
        return True

    def connection(self, client: str) -> Connection:
        """Return what serves an admitted client from now on."""
        assert self._make is not None  # noqa: S101 -- it is open
        connection = self._make(client)
        self._connections.add(connection)
        self._is_empty.clear()
        return connection

    def left(self, client: str, connection: Connection | None = None) -> None:
        """Count that an admitted connection has ended."""
        if connection is not None:
            self._connections.discard(connection)
            if not self._connections:
                self._is_empty.set()
        self._total -= 1
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]
        self._gauge.dec()

    def drops(self, reason: str, detail: str = "") -> None:
        """Count a connection that is closed without an answer."""
        self._dropped[reason] += 1
        self._detail = detail or self._detail
        self._metrics.connections_dropped.labels(self._listener, reason).inc()


class _Site(web.BaseSite):
    """A listening socket whose connections go through a gate."""

    def __init__(
        self, runner: web.ServerRunner | web.AppRunner, listening: socket.socket, gate: Gate
    ) -> None:
        super().__init__(runner)
        self._listening = listening
        self._gate = gate

    @property
    def name(self) -> str:
        """The address, for people."""
        host, port = self._listening.getsockname()[:2]
        return f"{'http' if self._gate.tls is None else 'https'}://{host}:{port}"

    async def start(self) -> None:
        """Accept connections."""
        await super().start()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._gate.arrival, sock=self._listening, backlog=_BACKLOG
        )


def client_of(address: str) -> str:
    """Return whose connections are counted together: of IPv6, a network of 64 bits."""
    found = ip_address(address.partition("%")[0])
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(IPv6Address(int(found) >> 64 << 64))
