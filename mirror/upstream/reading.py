"""What the head of an upstream's answer says, as values."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from mirror.domain.answers import HEAD_UNSUPPORTED, HUB, Answer, refusal
from mirror.domain.backoff import retry_after_seconds
from mirror.domain.errors import MirrorError, UpstreamTroubleError
from mirror.domain.media import bare_type
from mirror.domain.names import Digest
from mirror.upstream.exchange import Question, Reply
from mirror.upstream.streaming import is_encoded


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


def raise_refusal(reply: Reply, question: Question) -> None:
    """Raise the error that an answer stands for, unless it delivers."""
    error = refusal(_answer(reply, question))
    if error is not None and not _head_is_unsupported(reply, question):
        raise error


def _head_is_unsupported(reply: Reply, question: Question) -> bool:
    """Tell whether a refused HEAD may be a GET that is not: never on Hub, where 401 is 404."""
    status = reply.response.status
    if question.method != "HEAD" or status not in HEAD_UNSUPPORTED:
        return False
    return status != 401 or question.repository.upstream != HUB


async def manifest_head(reply: Reply) -> ManifestHead | None:
    """Read the answer to a HEAD; raises UpstreamTroubleError."""
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


async def blob_head(reply: Reply) -> BlobHead | None:
    """Read the answer to a HEAD; ``None`` where upstream does not do that."""
    response = reply.response
    response.release()
    if response.status != 200:
        return None
    return BlobHead(None if is_encoded(response) else response.content_length)
