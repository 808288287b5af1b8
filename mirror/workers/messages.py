"""What the main process and a worker say to each other.

Both are of one version and one user, and the socket has no name: nobody else can speak.
"""

from typing import Any, Final

import msgspec

from mirror.domain import errors
from mirror.domain.access import Viewer
from mirror.domain.credentials import Basic
from mirror.domain.errors import MirrorError
from mirror.domain.names import Digest, Repository
from mirror.domain.pages import Query
from mirror.domain.routing import Kind
from mirror.observe.logs import Format
from mirror.observe.requests import PastRequest
from mirror.runtime.acting import Caller
from mirror.service.served import Served


class _Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all; the first field of most is the number that the worker gave its question."""


class Asker(msgspec.Struct, frozen=True, array_like=True):
    """What a question carries of the request that it is asked for.

    ``via`` is the chain of proxies before, ``caller`` the credential that upstream is asked with,
    ``trace`` what its span is called elsewhere.
    """

    via: str
    caller: Caller | None
    trace: dict[str, str] = {}


# --- a worker asks ---------------------------------------------------------------------------


class AskManifest(_Message, frozen=True):
    """What does a reference mean?"""

    number: int
    asker: Asker
    repository: Repository
    reference: str


class AskBlob(_Message, frozen=True):
    """Open a blob; the number stays that of its body until ``Leave``."""

    number: int
    asker: Asker
    repository: Repository
    digest: Digest


class AskSize(_Message, frozen=True):
    """How long is a blob?"""

    number: int
    asker: Asker
    repository: Repository
    digest: Digest


class AskTags(_Message, frozen=True):
    """Which tags are there?"""

    number: int
    asker: Asker
    repository: Repository
    query: Query


class AskReferrers(_Message, frozen=True):
    """What refers to a manifest?"""

    number: int
    asker: Asker
    repository: Repository
    digest: Digest
    query: Query


class AskCatalog(_Message, frozen=True):
    """Which repositories are cached, as far as somebody may see them?"""

    number: int
    asker: Asker
    query: Query
    viewer: Viewer


class AskAdmit(_Message, frozen=True):
    """May a caller pull something, in the eyes of its registry?"""

    number: int
    asker: Asker
    repository: Repository
    kind: Kind
    reference: str | None
    shown: Basic | None


class AskPart(_Message, frozen=True):
    """What comes next of a body? The span counts the first time."""

    number: int
    span: tuple[int, int] | None


class Leave(_Message, frozen=True):
    """A question or a body is not needed any more."""

    number: int


class Ready(_Message, frozen=True):
    """The worker serves its clients."""


class Forgotten(_Message, frozen=True):
    """The worker has done what ``Forget`` said."""

    number: int


class Report(_Message, frozen=True):
    """Requests that were answered, how late the event loop was, and what is being sent.

    ``bodies`` and ``sent_bytes`` are those that have not ended yet; ``counts`` are all series of
    the metrics in ``COUNTED``, by name and labels, since the worker began.
    """

    requests: list[PastRequest]
    lags_seconds: list[float]
    bodies: int
    sent_bytes: int
    counts: dict[str, list[tuple[tuple[str, ...], float]]]


# --- the main process answers ------------------------------------------------------------------


class Led(msgspec.Struct, frozen=True, array_like=True):
    """Where a question has led: the fields of ``runtime.trail.Trail``."""

    endpoint: str = ""
    pulls: int = 0


class FoundManifest(_Message, frozen=True):
    """A manifest, which the worker may hand out for *keep_seconds* without asking again."""

    number: int
    digest: Digest
    media_type: str
    content: bytes
    served: Served
    keep_seconds: float
    led: Led


class FoundBlob(_Message, frozen=True):
    """A body; if the message came with a file, or has *content*, that is the whole of it.

    Content may be handed out for *keep_seconds* without asking again.
    """

    number: int
    size_bytes: int | None
    content: bytes | None
    served: Served
    keep_seconds: float
    led: Led


class FoundSize(_Message, frozen=True):
    """The length of a blob, if it is known."""

    number: int
    size_bytes: int | None
    served: Served
    led: Led


class FoundList(_Message, frozen=True):
    """A page of a list."""

    number: int
    content: bytes
    media_type: str
    next_query: Query | None
    filtered: bool
    served: Served
    led: Led


class FoundCaller(_Message, frozen=True):
    """As whom upstream is asked; ``None``: as a stranger."""

    number: int
    caller: Caller | None
    led: Led


class NextFilePart(_Message, frozen=True):
    """Bytes of the file that came with this message, or with an earlier one of the body."""

    number: int
    start: int
    length_bytes: int


class NextBytes(_Message, frozen=True):
    """Bytes that are in no file."""

    number: int
    content: bytes


class End(_Message, frozen=True):
    """The body ends here, as it should."""

    number: int


class Failure(_Message, frozen=True):
    """An error as a value: its class and its fields; ``kind`` is empty for a bug."""

    number: int
    kind: str
    fields: tuple[str | int | None, ...]
    led: Led = Led()


# --- the main process tells ----------------------------------------------------------------------


class Configure(_Message, frozen=True):
    """What a worker needs of the configuration: no credential of an upstream is in it.

    ``server`` is that section, ``instance`` what the mirror is called in ``Via``, ``waits``
    are the upstreams whose clients are told to wait when it limits our rate, ``verifying`` those
    that check callers themselves, ``key`` signs the tokens for clients.
    """

    instance: str
    server: dict[str, Any]
    log_format: Format
    log_level: str
    names: dict[str, str]
    hosts: dict[str, str]
    default: str
    waits: frozenset[str]
    verifying: frozenset[str]
    memory_bytes: int
    key: bytes


class Forget(_Message, frozen=True):
    """Do not hand out from memory a tag's manifest, or without one, anything.

    Where *number* is not 0, ``Forgotten`` with the same number is the answer.
    """

    number: int = 0
    repository: Repository | None = None
    tag: str = ""


class Drain(_Message, frozen=True):
    """Take no more clients, finish with those who are here, and end."""


Question = AskManifest | AskBlob | AskSize | AskTags | AskReferrers | AskCatalog | AskAdmit
FromWorker = Question | AskPart | Leave | Ready | Forgotten | Report
Found = FoundManifest | FoundBlob | FoundSize | FoundList | FoundCaller
Part = NextFilePart | NextBytes | End
ToWorker = Found | Part | Failure | Configure | Forget | Drain

COUNTED: Final = ("connections", "connections_dropped")
"""Metrics of the listener in a worker that are added to the main process's, by attribute."""

encode: Final = msgspec.msgpack.Encoder().encode
read_from_worker: Final = msgspec.msgpack.Decoder(FromWorker).decode
read_to_worker: Final = msgspec.msgpack.Decoder(ToWorker).decode

_KINDS: Final = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, MirrorError)
}


def failure_of(number: int, error: Exception, led: Led = Led()) -> Failure:  # noqa: B008 -- frozen
    """Return an error as a value; one that is not for clients has no more than its class."""
    if not isinstance(error, MirrorError):
        return Failure(number, "", (type(error).__name__,), led)
    # What a room above the ground floor has made of a class is that class to a client.
    kind = next(each for each in type(error).__mro__ if _KINDS.get(each.__name__) is each)
    names = getattr(kind, "__dataclass_fields__", {})
    return Failure(number, kind.__name__, tuple(getattr(error, name) for name in names), led)


def error_of(failure: Failure) -> Exception:
    """Return what ``failure_of`` was made of."""
    kind = _KINDS.get(failure.kind)
    if kind is None:
        return RuntimeError(f"the main process failed: {failure.fields}, see its log")
    return kind(*failure.fields)
