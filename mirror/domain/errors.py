"""What a client may be told: one class for each situation, its fields are the facts.

No status code down here: ``web/errors.py`` has them.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class ErrorCode(StrEnum):
    """Codes of distribution-spec v1.1.1, "Error Codes", and ``UNKNOWN`` for 5xx answers.

    The specification binds the codes of 4xx bodies only; ``UNKNOWN`` is the word of the
    CNCF distribution registry for everything else.
    """

    BLOB_UNKNOWN = "BLOB_UNKNOWN"
    DENIED = "DENIED"
    DIGEST_INVALID = "DIGEST_INVALID"
    MANIFEST_INVALID = "MANIFEST_INVALID"
    MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN"
    NAME_INVALID = "NAME_INVALID"
    NAME_UNKNOWN = "NAME_UNKNOWN"
    TOOMANYREQUESTS = "TOOMANYREQUESTS"
    UNAUTHORIZED = "UNAUTHORIZED"
    UNKNOWN = "UNKNOWN"
    UNSUPPORTED = "UNSUPPORTED"


class MirrorError(Exception):
    """Base of everything that a client is told about; never raised itself."""

    code: ClassVar[ErrorCode] = ErrorCode.UNKNOWN


# --- what the client asked for cannot be ------------------------------------------------


@dataclass(eq=False)
class NameInvalidError(MirrorError):
    """The repository name breaks the grammar."""

    code = ErrorCode.NAME_INVALID
    name: str

    def __str__(self) -> str:
        return f"invalid repository name: {self.name[:256]!r}"


@dataclass(eq=False)
class TagInvalidError(MirrorError):
    """The tag breaks the grammar, so no manifest can have it."""

    code = ErrorCode.MANIFEST_UNKNOWN
    tag: str

    def __str__(self) -> str:
        return f"manifest unknown: no tag can be called {self.tag[:256]!r}"


@dataclass(eq=False)
class DigestInvalidError(MirrorError):
    """The digest breaks the grammar of its algorithm."""

    code = ErrorCode.DIGEST_INVALID
    digest: str

    def __str__(self) -> str:
        return f"invalid digest: {self.digest[:256]!r}"


class DigestUnsupportedError(DigestInvalidError):
    """The digest is well formed, but its algorithm is neither sha256 nor sha512."""

    def __str__(self) -> str:
        return f"unsupported digest algorithm: {self.digest[:256]!r}"


@dataclass(eq=False)
class PageSizeInvalidError(MirrorError):
    """The ``n`` of a list request is not a number that we serve."""

    code = ErrorCode.UNSUPPORTED
    n: str

    def __str__(self) -> str:
        return f"invalid number of entries: {self.n[:64]!r}"


@dataclass(eq=False)
class BodyInvalidError(MirrorError):
    """The body of a request cannot be read: nothing that follows on its connection can be."""

    code = ErrorCode.UNSUPPORTED
    reason: str

    def __str__(self) -> str:
        return f"the body of the request cannot be read: {self.reason}"


class BodyLateError(BodyInvalidError):
    """The body of a request did not come in time."""


# --- it is not there, or not for you ----------------------------------------------------


@dataclass(eq=False)
class NotFoundError(MirrorError):
    """Base: upstream or our own tables say that it does not exist."""

    what: str

    def __str__(self) -> str:
        return f"{self.code.replace('_', ' ').lower()}: {self.what}"


class NameUnknownError(NotFoundError):
    """The upstream is not configured or the repository does not exist."""

    code = ErrorCode.NAME_UNKNOWN


class ManifestUnknownError(NotFoundError):
    """Upstream does not have the manifest."""

    code = ErrorCode.MANIFEST_UNKNOWN


class BlobUnknownError(NotFoundError):
    """Upstream does not have the blob."""

    code = ErrorCode.BLOB_UNKNOWN


class NotAcceptableError(NotFoundError):
    """The manifest is there, but the client's Accept excludes its type."""

    code = ErrorCode.MANIFEST_UNKNOWN

    def __str__(self) -> str:
        return f"manifest found, but Accept does not allow {self.what}"


@dataclass(eq=False)
class DeniedError(MirrorError):
    """Upstream or our own policy does not let this repository be pulled."""

    code = ErrorCode.DENIED
    what: str

    def __str__(self) -> str:
        return f"access denied: {self.what}"


class CredentialNeededError(DeniedError):
    """The registry itself lets nobody in without a credential, and the caller shows none."""

    def __str__(self) -> str:
        return f"a credential of its registry is needed: {self.what}"


@dataclass(eq=False)
class UnauthenticatedError(MirrorError):
    """The caller has shown no credential that counts; *challenge* says how to."""

    code = ErrorCode.UNAUTHORIZED
    what: str
    challenge: str

    def __str__(self) -> str:
        return f"authentication required: {self.what}"


# --- trouble ------------------------------------------------------------------------------


class TroubleError(MirrorError):
    """Base of what may pass: a stale copy is better than this."""


@dataclass(eq=False)
class UpstreamTroubleError(TroubleError):
    """Upstream broke the connection, the protocol or its own promise, or said 5xx."""

    reason: str

    def __str__(self) -> str:
        return f"upstream trouble: {self.reason}"


class UpstreamTimeoutError(UpstreamTroubleError):
    """Upstream did not answer in time."""

    def __str__(self) -> str:
        return f"upstream timeout: {self.reason}"


class PrivateTargetError(UpstreamTroubleError):
    """Upstream sends us to a host that only we can reach."""


class CredentialRefusedError(UpstreamTroubleError):
    """Upstream refuses the credential that we are configured with."""

    def __str__(self) -> str:
        return f"upstream refuses the configured credential: {self.reason}"


class CredentialUnavailableError(CredentialRefusedError):
    """Our own credential cannot be had: its file, helper or cloud does not give it."""

    def __str__(self) -> str:
        return f"the configured credential cannot be had: {self.reason}"


class ContentMismatchError(UpstreamTroubleError):
    """What upstream sent is not what the digest names."""

    def __str__(self) -> str:
        return f"upstream sent wrong content: {self.reason}"


@dataclass(eq=False)
class ManifestInvalidError(TroubleError):
    """Upstream sent a manifest that is too large, malformed or of an unknown type."""

    code = ErrorCode.MANIFEST_INVALID
    reason: str

    def __str__(self) -> str:
        return f"upstream sent an invalid manifest: {self.reason}"


@dataclass(eq=False)
class RateLimitedError(TroubleError):
    """Upstream says 429."""

    code = ErrorCode.TOOMANYREQUESTS
    upstream: str
    retry_after_seconds: int | None = None

    def __str__(self) -> str:
        return f"{self.upstream} limits the rate of our requests"


@dataclass(eq=False)
class OverloadedError(TroubleError):
    """We have no room for this now: too many fills, or the disk is full."""

    reason: str

    def __str__(self) -> str:
        return f"the mirror is overloaded: {self.reason}"


@dataclass(eq=False)
class IncompleteError(TroubleError):
    """The manifest is here but not all that it refers to, and upstream is in trouble."""

    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what} is not whole in the cache, and upstream does not answer: {self.reason}"


class LoopError(MirrorError):
    """The request has already passed through this mirror."""

    def __str__(self) -> str:
        return "mirror loop: the request came back to the mirror that sent it"
