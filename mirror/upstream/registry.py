"""One upstream registry: its endpoints asked in order, its answers as values."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol, TypeVar

import aiohttp

from mirror.domain.answers import HEAD_UNSUPPORTED, HUB, Answer, access_refused, refusal
from mirror.domain.backoff import retry_after_seconds
from mirror.domain.endpoints import Endpoint, Refusal, combined, in_order
from mirror.domain.errors import (
    CredentialRefusedError,
    ManifestInvalidError,
    MirrorError,
    TroubleError,
    UpstreamTroubleError,
)
from mirror.domain.manifests import MANIFEST_MAX_BYTES
from mirror.domain.media import ACCEPT_MANIFESTS, bare_type
from mirror.domain.names import Digest, Reference, Repository
from mirror.domain.routing import Kind
from mirror.observe.logs import get_logger
from mirror.observe.metrics import Metrics
from mirror.runtime.clock import Clock
from mirror.settings import Upstream
from mirror.upstream.accounts import ANONYMOUS_NAME, Account, Accounts
from mirror.upstream.deadline import deadline, share
from mirror.upstream.exchange import Exchange, Question, Reply
from mirror.upstream.streaming import HttpStream, is_encoded, range_header, refuse_encoding
from mirror.upstream.tokens import AccessRefusedError
from mirror.upstream.transport import Transport, translated

T = TypeVar("T")
_READ_AHEAD_BYTES: Final = 2 * 1024 * 1024
_log = get_logger("upstream")


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """What upstream says of a manifest without sending it; each part may be missing."""

    digest: Digest | None
    media_type: str | None
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class ManifestBody:
    """A manifest as upstream sent it, not checked yet."""

    content: bytes
    content_type: str | None
    stated_digest: str | None


@dataclass(frozen=True, slots=True)
class BlobHead:
    """Upstream has the blob; some registries do not say how large it is."""

    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class Document:
    """A tags or referrers list as upstream sent it."""

    content: bytes
    content_type: str | None
    link: str | None
    filters_applied: bool


class BlobStream(Protocol):
    """The body of a blob as it comes; leave the context of ``open_blob`` to end it."""

    offset: int
    """Where in the blob the body begins: 0 where upstream ignored the range."""
    size_bytes: int | None
    """The length of the whole blob, if upstream tells."""
    endpoint: str
    """Which endpoint it came by, although a CDN may have sent it."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield what has come; raises UpstreamTroubleError where the body breaks."""
        ...


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
        self._name = upstream.name
        self._response_seconds = upstream.policy.timeouts.response_seconds
        names = {upstream.name, *upstream.aliases}
        self._endpoints = [Endpoint.of(url, names) for url in upstream.endpoints]

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
        return self._accounts.name_for(repository) is not None

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
        return await self._each(question, _manifest_head)

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
        return await self._each(question, _blob_head)

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
        account = await self._account(question)
        refusals: list[Refusal] = []
        for number, endpoint in enumerate(in_order(self._endpoints, avoid)):
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

    async def _account(self, question: Question) -> Account:
        try:
            return await self._accounts.account(question.repository)
        except CredentialRefusedError as error:
            name = self._accounts.name_for(question.repository) or ANONYMOUS_NAME
            self._note("", question, name, error)
            raise

    async def _ask(
        self,
        endpoint: Endpoint,
        question: Question,
        account: Account,
        read: Callable[[Reply], Awaitable[T]],
    ) -> T:
        try:
            reply = await self._exchange.ask(endpoint, question, account)
        except AccessRefusedError:
            raise access_refused(self._name, question.kind, str(question.repository)) from None
        try:
            if not reply.foreign:
                self._read_rate_limit(account, reply.response.headers)
            _raise_refusal(reply, question)
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

    def _read_rate_limit(self, account: Account, headers: Mapping[str, str]) -> None:
        for header, gauge in (
            ("ratelimit-limit", self._metrics.ratelimit_limit),
            ("ratelimit-remaining", self._metrics.ratelimit_remaining),
        ):
            count = headers.get(header, "").partition(";")[0].strip()
            if count.isascii() and count.isdigit():
                gauge.labels(self._name, account.name).set(int(count[:12]))

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


_RETRY_AFTER: Final = "Retry-After"


def _answer(reply: Reply, question: Question) -> Answer:
    headers = reply.response.headers
    return Answer(
        upstream=question.repository.upstream,
        kind=question.kind,
        what=f"{question.repository} {question.path}",
        status=reply.response.status,
        is_html=bare_type(headers.get("Content-Type")) == "text/html",
        foreign=reply.foreign,
        retry_after_seconds=retry_after_seconds(headers.get(_RETRY_AFTER), datetime.now(UTC)),
    )


def _raise_refusal(reply: Reply, question: Question) -> None:
    error = refusal(_answer(reply, question))
    if error is not None and not _head_is_unsupported(reply, question):
        raise error


def _head_is_unsupported(reply: Reply, question: Question) -> bool:
    """Tell whether a refused HEAD may be a GET that is not: never on Hub, where 401 is 404."""
    status = reply.response.status
    if question.method != "HEAD" or status not in HEAD_UNSUPPORTED:
        return False
    return status != 401 or question.repository.upstream != HUB


async def _manifest_head(reply: Reply) -> ManifestHead | None:
    response = reply.response
    response.release()
    if response.status != 200:
        return None
    stated = response.headers.get("Docker-Content-Digest")
    try:
        digest = Digest.parse(stated) if stated is not None else None
    except MirrorError:
        raise UpstreamTroubleError("Docker-Content-Digest is not a digest") from None
    media_type = bare_type(response.headers.get("Content-Type"))
    return ManifestHead(digest, media_type, response.content_length)


async def _blob_head(reply: Reply) -> BlobHead | None:
    response = reply.response
    response.release()
    if response.status != 200:
        return None
    return BlobHead(None if is_encoded(response) else response.content_length)
