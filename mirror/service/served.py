"""How an answer came about, for ``Cache-Status``, metrics and logs."""

from dataclasses import dataclass
from typing import Literal

from mirror.domain.errors import (
    CredentialRefusedError,
    MirrorError,
    NotFoundError,
    RateLimitedError,
    UpstreamTimeoutError,
)
from mirror.observe.metrics import Result


@dataclass(frozen=True, slots=True)
class Served:
    """The facts of one answer.

    Attributes:
        result: The label of the metrics.
        ttl_seconds: How long it stays fresh; negative for a stale one; ``None``: for ever.
        forwarded: Why upstream was asked, in the words of RFC 9211; ``None``: it was not.
        reason: Why a stale answer is one, as a token.
        kept: Whether what upstream sent is kept; the answer to a HEAD is not.
    """

    result: Result
    ttl_seconds: float | None = None
    forwarded: Literal["uri-miss", "stale"] | None = None
    reason: str | None = None
    kept: bool = True


def reason_of(error: MirrorError) -> str:
    """Return a token that names what was wrong with upstream."""
    match error:
        case NotFoundError():
            return "gone-upstream"
        case RateLimitedError():
            return "rate-limited"
        case UpstreamTimeoutError():
            return "timeout"
        case CredentialRefusedError():
            return "credential-refused"
        case _:
            return "upstream-trouble"
