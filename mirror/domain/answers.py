"""What an upstream's status means for our client.

The classes must survive (invariant 8): an outage is never "not found", a missing image never
"denied".
"""

from dataclasses import dataclass
from typing import Final

from mirror.domain.errors import (
    BlobUnknownError,
    ContentMismatchError,
    DeniedError,
    ManifestUnknownError,
    MirrorError,
    NameUnknownError,
    NotFoundError,
    RateLimitedError,
    UpstreamTimeoutError,
    UpstreamTroubleError,
)
from mirror.domain.routing import Kind

HUB: Final = "docker.io"
HEAD_UNSUPPORTED: Final = frozenset({401, 405, 501})
"""Answers to a HEAD after which a GET may still succeed (public ECR: 401)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The head of an upstream's final answer, after tokens and redirects.

    ``foreign`` tells that it came from another origin than the endpoint's (a CDN).
    """

    upstream: str
    kind: Kind
    what: str
    status: int
    is_html: bool = False
    foreign: bool = False
    retry_after_seconds: int | None = None


_UNKNOWN: Final[dict[Kind, type[NotFoundError]]] = {
    Kind.MANIFEST: ManifestUnknownError,
    Kind.BLOB: BlobUnknownError,
}


def refusal(answer: Answer) -> MirrorError | None:  # noqa: PLR0911 -- a table of cases
    """Return the error that stands for an answer; ``None`` when it delivers."""
    if answer.status in {200, 206}:
        return None
    if answer.status == 404:
        return not_found(answer.kind, answer.what)
    if answer.status == 401 and not answer.foreign:
        return access_refused(answer.upstream, answer.kind, answer.what)
    if answer.status == 403 and not answer.foreign and not answer.is_html:
        return DeniedError(answer.what)
    if answer.status == 429:
        return RateLimitedError(answer.upstream, answer.retry_after_seconds)
    if answer.status == 416:
        # We ask for a range only where bytes of this object are known to be.
        return ContentMismatchError(f"{answer.what}: it ends before the point reached earlier")
    if answer.status in {408, 504}:
        return UpstreamTimeoutError(f"{answer.what}: status {answer.status}")
    # What is left is transient: 5xx, a CDN's refusal of an expired URL, a bot wall's HTML.
    return UpstreamTroubleError(f"{answer.what}: status {answer.status}")


def access_refused(upstream: str, kind: Kind, what: str) -> MirrorError:
    """Return the error for who is not let in, by the registry or by its token endpoint.

    Docker Hub says 401 for repositories that do not exist (binderhub#1664).
    """
    return not_found(kind, what) if upstream == HUB else DeniedError(what)


def not_found(kind: Kind, what: str) -> NotFoundError:
    """Return the error that fits what was looked for."""
    return _UNKNOWN.get(kind, NameUnknownError)(what)
