"""Errors as HTTP: the only place that turns a situation into a status.

Source: distribution-spec v1.1.1, "Error Codes"; invariant 8.
"""

from typing import Final

import msgspec

from mirror.domain.errors import (
    BlobUnknownError,
    BodyInvalidError,
    BodyLateError,
    DeniedError,
    DigestInvalidError,
    DigestUnsupportedError,
    ErrorCode,
    IncompleteError,
    LoopError,
    ManifestInvalidError,
    ManifestUnknownError,
    MirrorError,
    NameInvalidError,
    NameUnknownError,
    NotAcceptableError,
    OverloadedError,
    PageSizeInvalidError,
    RateLimitedError,
    TagInvalidError,
    UnauthenticatedError,
    UpstreamTimeoutError,
    UpstreamTroubleError,
)

STATUS: Final[dict[type[MirrorError], int]] = {
    NameInvalidError: 404,
    TagInvalidError: 404,
    DigestInvalidError: 400,
    DigestUnsupportedError: 400,
    PageSizeInvalidError: 400,
    BodyInvalidError: 400,
    BodyLateError: 408,
    NameUnknownError: 404,
    ManifestUnknownError: 404,
    BlobUnknownError: 404,
    NotAcceptableError: 404,
    UnauthenticatedError: 401,
    DeniedError: 403,
    RateLimitedError: 503,  # 429 makes containerd fire six requests without a pause
    OverloadedError: 503,
    IncompleteError: 503,
    UpstreamTimeoutError: 504,
    UpstreamTroubleError: 502,
    ManifestInvalidError: 502,
    LoopError: 508,
}

_RETRY_AFTER_SECONDS: Final = 5


def status_of(error: MirrorError) -> int:
    """Return the status for a situation: its own, or that of the nearest kind of it."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def code_of(error: MirrorError) -> ErrorCode:
    """Return the code for a situation; a bad name that is 404 must say what a 404 says."""
    return ErrorCode.NAME_UNKNOWN if isinstance(error, NameInvalidError) else error.code


def error_body(code: ErrorCode, message: str) -> bytes:
    """Return the JSON of distribution-spec v1.1.1, "Error Codes"."""
    return msgspec.json.encode({"errors": [{"code": code, "message": message}]})


def error_headers(error: MirrorError) -> dict[str, str]:
    """Return the headers that an error answer carries besides those of all errors."""
    match error:
        case UnauthenticatedError(challenge=challenge):
            return {"WWW-Authenticate": challenge}
        case RateLimitedError(retry_after_seconds=int(seconds)):
            return {"Retry-After": str(seconds)}
        case RateLimitedError() | OverloadedError():
            return {"Retry-After": str(_RETRY_AFTER_SECONDS)}
        case _:
            return {}
