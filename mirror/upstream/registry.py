"""One upstream registry: its endpoints asked in order, its answers as values."""

import math
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import aiohttp

from mirror.domain.answers import (
    access_refused,
    not_found,
)
from mirror.domain.budget import Budget
from mirror.domain.endpoints import Endpoint, Refusal, combined, in_order
from mirror.domain.errors import (
    CredentialRefusedError,
    ManifestInvalidError,
    MirrorError,
    RateLimitedError,
    TroubleError,
)
from mirror.domain.manifests import MANIFEST_MAX_BYTES
from mirror.domain.media import ACCEPT_MANIFESTS, bare_type
from mirror.domain.names import Digest, Reference, Repository
from mirror.domain.routing import Kind
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics
from mirror.runtime import trail
from mirror.runtime.clock import Clock
from mirror.settings import Upstream
from mirror.upstream.accounts import Account, Accounts, Holder
from mirror.upstream.budgets import Budgets
from mirror.upstream.deadline import deadline, share
from mirror.upstream.door import Door
from mirror.upstream.exchange import Exchange, Question, Reply
from mirror.upstream.reading import (
    BlobHead,
    Document,
    ManifestBody,
    ManifestHead,
    blob_head,
    manifest_head,
    raise_refusal,
)
from mirror.upstream.streaming import BlobStream, HttpStream, range_header, refuse_encoding
from mirror.upstream.telling import Telling
from mirror.upstream.tokens import AccessRefusedError
from mirror.upstream.transport import Transport, translated

T = TypeVar("T")
_READ_AHEAD_BYTES: Final = 2 * 1024 * 1024
_log = get_logger("upstream")


@dataclass(frozen=True, slots=True)
class Rate:
    """An account's budget, if it has one, and for how long nothing is asked for it."""

    upstream: str
    account: str
    budget: Budget | None
    pause_seconds: float


class Registry:
    """One upstream as the rest of the house sees it."""

    def __init__(
        self,
        upstream: Upstream,
        transport: Transport,
        exchange: Exchange,
        accounts: Accounts,
        *,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._transport = transport
        self._exchange = exchange
        self._accounts = accounts
        self._metrics = metrics
        self._clock = clock
        self._answered_at = -math.inf
        self._telling = Telling(upstream, metrics.events)
        self._name = upstream.name
        self._response_seconds = upstream.policy.timeouts.response_seconds
        names = {upstream.name, *upstream.aliases}
        self._endpoints = [Endpoint.of(url, names) for url in upstream.endpoints]
        patience_seconds = self._response_seconds / len(self._endpoints)
        self.doors = {
            each.url: Door(
                upstream.name,
                patience_seconds,
                clock,
                on_change=partial(self._telling.change, each.url),
            )
            for each in self._endpoints
        }
        self._budgets = Budgets(upstream.name, self._telling, metrics, clock)
        self._is_offline = upstream.policy.mode == "offline"

    def deadline(self, seconds: float | None = None) -> AbstractAsyncContextManager[None]:
        """Bound what is done in this context; by default by the time for an answer.

        Raises:
            UpstreamTimeoutError: the time is over.
        """
        return deadline(self._response_seconds if seconds is None else seconds)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """All that may be asked, by the name that streams go by."""
        return tuple(endpoint.url for endpoint in self._endpoints)

    @property
    def silent_seconds(self) -> float:
        """How long ago upstream gave its last answer that was not trouble; at first for ever."""
        return self._clock.monotonic() - self._answered_at

    def has_credential(self, repository: Repository) -> bool:
        """Return whether a configured credential is used for this repository."""
        return self._accounts.has_credential(repository)

    def trouble(self, repository: Repository) -> TroubleError | None:
        """Return why there is no use in asking for manifests now; ``None``: there is."""
        holder = self._accounts.holder(repository)
        errors = [door.refusal(holder, Kind.MANIFEST) for door in self.doors.values()]
        refusals = [error for error in errors if error is not None]
        return None if len(refusals) < len(errors) else refusals[0]

    def budget(self, repository: Repository) -> Budget | None:
        """Return what is known of the pulls that are left for a repository's account."""
        return self._budgets.of(self._accounts.holder(repository))

    def rates(self) -> Iterator[Rate]:
        """Return what is known of the budgets of the configured accounts and of strangers."""
        return map(self._rate, self._accounts.holders)

    def rate(self, repository: Repository) -> Rate:
        """Return what is known of the budget that a repository's pulls cost."""
        return self._rate(self._accounts.holder(repository))

    def _rate(self, holder: Holder) -> Rate:
        pause_seconds = min(door.pause_seconds(holder) for door in self.doors.values())
        return Rate(self._name, holder.name, self._budgets.of(holder), pause_seconds)

    async def head_manifest(
        self, repository: Repository, reference: Reference
    ) -> ManifestHead | None:
        """Ask what a reference means; ``None`` where only a GET can tell.

        Raises:
            NotFoundError, DeniedError: upstream answered so.
            TroubleError: it did not answer, or not usefully.
        """
        question = Question(
            kind=Kind.MANIFEST,
            method="HEAD",
            repository=repository,
            path=f"manifests/{reference}",
            accept=ACCEPT_MANIFESTS,
        )
        return await self._each(question, manifest_head)

    async def get_manifest(self, repository: Repository, reference: Reference) -> ManifestBody:
        """Fetch a manifest; raises as ``head_manifest`` does."""
        question = Question(
            kind=Kind.MANIFEST,
            method="GET",
            repository=repository,
            path=f"manifests/{reference}",
            accept=ACCEPT_MANIFESTS,
        )
        return await self._each(question, self._manifest_body)

    async def head_blob(self, repository: Repository, digest: Digest) -> BlobHead | None:
        """Ask whether a blob is there; ``None`` where only a GET can tell.

        Raises as ``head_manifest`` does.
        """
        question = Question(
            kind=Kind.BLOB, method="HEAD", repository=repository, path=f"blobs/{digest}"
        )
        return await self._each(question, blob_head)

    async def get_list(
        self,
        repository: Repository,
        kind: Kind,
        path: str,
        query: tuple[tuple[str, str], ...],
    ) -> Document:
        """Fetch a tags or referrers list; raises as ``head_manifest`` does."""
        question = Question(kind=kind, method="GET", repository=repository, path=path, query=query)
        return await self._each(question, self._document)

    @asynccontextmanager
    async def open_blob(
        self,
        repository: Repository,
        digest: Digest,
        span: tuple[int, int | None] = (0, None),
        read_ahead_bytes: int = _READ_AHEAD_BYTES,
        avoid: Collection[str] = (),
    ) -> AsyncIterator[BlobStream]:
        """Open a blob from byte ``span[0]`` up to but not including ``span[1]``.

        Endpoints in *avoid* are asked last. Raises as ``head_manifest`` does.
        """
        question = Question(
            kind=Kind.BLOB,
            method="GET",
            repository=repository,
            path=f"blobs/{digest}",
            range_header=range_header(span),
            read_ahead_bytes=read_ahead_bytes // 2,
        )
        stream = await self._each(question, lambda reply: self._stream(reply, span[0]), avoid)
        try:
            yield stream
        finally:
            stream.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._exchange.close()
        await self._transport.close()

    # --- endpoints in order ---------------------------------------------------------------

    async def _each(
        self,
        question: Question,
        read: Callable[[Reply], Awaitable[T]],
        avoid: Collection[str] = (),
    ) -> T:
        """Ask each endpoint until one delivers; raise the one error that stands for all.

        What the registry itself answers is final: a mirror of it may still have what has
        been deleted or closed to the public.
        """
        if self._is_offline:
            what = f"{question.repository} {question.path} is not in the cache"
            raise not_found(question.kind, f"{what}, and policy.mode is offline")
        account = await self._account(question)
        refusals: list[Refusal] = []
        for number, endpoint in enumerate(in_order(self._endpoints, avoid)):
            closed = self._closed(endpoint, question, account)
            if closed is not None:
                refusals.append(Refusal(endpoint, closed))
                continue
            trail.asked(endpoint.url)
            try:
                async with share(len(self._endpoints) - number, self._response_seconds):
                    answer = await self._ask(endpoint, question, account, read)
                    self._answered_at = self._clock.monotonic()
                    return answer
            except MirrorError as error:
                self._note(endpoint.url, question, account.name, error)
                refusals.append(Refusal(endpoint, error))
                if isinstance(error, TroubleError):
                    continue
                self._answered_at = self._clock.monotonic()
                if endpoint.is_registry:
                    break
        raise combined(refusals)

    def _closed(
        self, endpoint: Endpoint, question: Question, account: Account
    ) -> TroubleError | None:
        """Return why an endpoint is not asked; a download that is under way always goes on."""
        if question.range_header is not None:
            return None
        return self.doors[endpoint.url].refusal(account.holder, question.kind)

    async def _account(self, question: Question) -> Account:
        try:
            return await self._accounts.account(question.repository)
        except CredentialRefusedError as error:
            self._note("", question, self._accounts.holder(question.repository).name, error)
            raise

    async def _ask(
        self,
        endpoint: Endpoint,
        question: Question,
        account: Account,
        read: Callable[[Reply], Awaitable[T]],
    ) -> T:
        door = self.doors[endpoint.url]
        try:
            reply = await self._exchange.ask(endpoint, question, account, door)
        except AccessRefusedError:
            raise access_refused(self._name, question.kind, str(question.repository)) from None
        except RateLimitedError as error:  # by the token endpoint
            door.limited(account.holder, question.kind, error.retry_after_seconds)
            raise
        try:
            if not reply.foreign:
                says = self._budgets.read(account.holder, reply.response.headers)
                if says and question.counts_as_pull and reply.response.status < 400:
                    trail.paid()
            raise_refusal(reply, question)
        except RateLimitedError as error:
            if not reply.foreign:
                door.limited(account.holder, question.kind, error.retry_after_seconds)
            reply.response.release()
            raise
        except BaseException:
            reply.response.release()
            raise
        try:
            return await read(reply)
        except BaseException:
            # Not close(): where the answer has come whole, the connection is still good.
            reply.response.release()
            raise

    def _note(self, endpoint: str, question: Question, account: str, error: MirrorError) -> None:
        if isinstance(error, CredentialRefusedError):
            self._metrics.upstream_credential_refused.labels(self._name, account).inc()
        if isinstance(error, TroubleError):
            _log.warning(
                "upstream trouble",
                upstream=self._name,
                endpoint=endpoint,
                account=account,
                repository=question.repository.name,
                kind=question.kind,
                reason=str(error),
            )

    # --- reading answers ------------------------------------------------------------------

    async def _manifest_body(self, reply: Reply) -> ManifestBody:
        content = await self._read(reply, MANIFEST_MAX_BYTES)
        headers = reply.response.headers
        return ManifestBody(
            content, headers.get("Content-Type"), headers.get("Docker-Content-Digest")
        )

    async def _document(self, reply: Reply) -> Document:
        content = await self._read(reply, MANIFEST_MAX_BYTES)
        headers = reply.response.headers
        filters = headers.get("OCI-Filters-Applied", "")
        return Document(
            content, bare_type(headers.get("Content-Type")), headers.get("Link"), bool(filters)
        )

    async def _read(self, reply: Reply, limit_bytes: int) -> bytes:
        refuse_encoding(reply.response)
        body = bytearray()
        try:
            async for chunk in reply.response.content.iter_any():
                body += chunk
                if len(body) > limit_bytes:
                    raise ManifestInvalidError(f"it has more than {limit_bytes} bytes")
        except (aiohttp.ClientError, OSError) as error:
            raise translated(error, str(reply.response.url)) from None
        finally:
            self._transport.received(len(body))
        return bytes(body)

    async def _stream(self, reply: Reply, start: int) -> HttpStream:
        return HttpStream(reply.response, start, self._transport, reply.endpoint)
