"""Tells addresses of the configuration what happens, by CloudEvents over HTTP.

Each address has a queue of its own and is sent one event after the other. Whatever it does,
nothing else waits: what does not fit the queue is dropped, and counted.
"""

import asyncio
import random
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

import mirror
from mirror.domain.backoff import delay_seconds
from mirror.domain.events import Event, cloud_event, signature
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics
from mirror.runtime.pools import Pools
from mirror.settings import Webhook
from mirror.upstream.dns import PooledResolver

SIGNATURE_HEADER: Final = "X-Mirror-Signature-256"
QUEUE_MAX: Final = 1000
ATTEMPTS_MAX: Final = 6
_TIMEOUT: Final = aiohttp.ClientTimeout(total=10)
_BASE_SECONDS: Final = 1.0
_CAP_SECONDS: Final = 60.0
_SECRET_MAX_BYTES: Final = 4096
_PASSING: Final = frozenset({408, 425, 429})
"""What of 4xx is worth another try."""
_log = get_logger("webhooks")


class _RefusedError(Exception):
    """It was not accepted; ``is_final`` tells that there is no use in another try."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


class Webhooks:
    """All addresses that are told."""

    def __init__(
        self,
        metrics: Metrics,
        pools: Pools,
        base_seconds: float = _BASE_SECONDS,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Set up.

        Args:
            metrics: Where events come from, and where they are counted.
            pools: For names and files.
            base_seconds: The time before the second try; it doubles from one to the next.
            jitter: A number in [0, 1).
        """
        self._metrics = metrics
        self._pools = pools
        self._base_seconds = base_seconds
        self._jitter = jitter
        self._source = f"/mirror/{socket.gethostname()}"
        self._queues: dict[Webhook, asyncio.Queue[Event]] = {}
        self._tasks: dict[Webhook, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._is_listening = False

    def follow(self, hooks: Sequence[Webhook]) -> None:
        """Go over to these addresses; those that stay keep what waits for them."""
        for hook in self._tasks.keys() - set(hooks):
            self._tasks.pop(hook).cancel()
            del self._queues[hook]
        for hook in hooks:
            if hook not in self._tasks:
                self._queues[hook] = asyncio.Queue(QUEUE_MAX)
                work = self._deliver(hook, self._queues[hook])
                self._tasks[hook] = asyncio.create_task(work, name="webhook")
        if hooks and not self._is_listening:
            self._is_listening = True
            self._metrics.events.listen(self._put)

    async def idle(self) -> None:
        """Wait until everything so far is delivered or given up."""
        for queue in list(self._queues.values()):
            await queue.join()

    async def close(self) -> None:
        """Stop; what has not been delivered is lost."""
        tasks = list(self._tasks.values())
        self.follow(())
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _put(self, event: Event) -> None:
        for hook, queue in self._queues.items():
            if hook.events and event.kind not in hook.events:
                continue
            if queue.full():
                queue.get_nowait()  # the oldest says least of how things are now
                queue.task_done()
                self._metrics.webhook_events.labels("dropped").inc()
            queue.put_nowait(event)

    # --- sending ---------------------------------------------------------------------------

    async def _deliver(self, hook: Webhook, queue: "asyncio.Queue[Event]") -> None:
        while True:
            event = await queue.get()
            event_id = secrets.token_hex(16)
            body = msgspec.json.encode(cloud_event(event, event_id, self._source))
            try:
                await self._persist(hook, body)
            except _RefusedError as error:
                self._metrics.webhook_events.labels("failed").inc()
                _log.warning(
                    "a webhook was not delivered",
                    host=urlsplit(hook.url).netloc,  # the path may be a secret
                    kind=event.kind,
                    reason=str(error),
                )
            else:
                self._metrics.webhook_events.labels("delivered").inc()
            queue.task_done()

    async def _persist(self, hook: Webhook, body: bytes) -> None:
        """Send until it is accepted; raises _RefusedError in the end."""
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                await self._send(hook, body)
            except _RefusedError as error:
                if error.is_final or attempt == ATTEMPTS_MAX:
                    raise
            else:
                return
            await asyncio.sleep(
                delay_seconds(
                    attempt, base=self._base_seconds, cap=_CAP_SECONDS, jitter=self._jitter
                )
            )

    async def _send(self, hook: Webhook, body: bytes) -> None:
        headers = {
            "Content-Type": "application/cloudevents+json; charset=utf-8",
            "User-Agent": f"mirror/{mirror.__version__}",
        }
        try:
            if hook.secret_file is not None:
                secret = await self._pools.admin.run(_secret, hook.secret_file)
                headers[SIGNATURE_HEADER] = signature(secret, body)
            async with self._sessions().post(
                hook.url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                status = answer.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _RefusedError(_reason(error)) from None
        except OSError as error:
            raise _RefusedError(f"secret_file: {error.strerror}") from None
        if not 200 <= status < 300:
            is_final = status < 500 and status not in _PASSING
            raise _RefusedError(f"it answers {status}", is_final=is_final)

    def _sessions(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=PooledResolver(self._pools.dns)),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=_TIMEOUT,
            )
        return self._session


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientResponseError):  # its text has the whole URL
        return f"it does not speak HTTP: {type(error).__name__}"
    return str(error) or type(error).__name__


def _secret(path: Path) -> bytes:
    # Read for each event: they are few, and a rotated secret counts at once.
    with path.open("rb") as file:
        secret = file.read(_SECRET_MAX_BYTES).strip()
    if not secret:
        raise OSError(None, "it is empty")
    return secret
