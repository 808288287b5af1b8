"""Traces, for whoever asks for them: otherwise nothing is imported, made or sent.

The rest of the house begins spans here and knows nothing of OpenTelemetry, which is an extra
(``otel.py``). A task copies the context that it is created in, so what a request begins stands
below it by itself; who joins what another request has begun links to that.
"""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from typing import Final, Protocol

from mirror.observe.logs import get_logger

_EXPORTER: Final = "OTEL_TRACES_EXPORTER"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_OFF: Final = "OTEL_SDK_DISABLED"
_log = get_logger("observe")

Fact = str | bool | int | float


class Kind(Enum):
    """On which side of a connection a span is."""

    SERVER = "server"
    CLIENT = "client"
    INTERNAL = "internal"


class Span(Protocol):
    """A piece of work, from its beginning to ``end``; all of it may be called at any time."""

    def set(self, facts: Mapping[str, Fact | None]) -> None:
        """Note facts; what is ``None`` or empty is left out. Never a secret."""

    def rename(self, name: str) -> None:
        """Give it the name that is known only now."""

    def fail(self, reason: str) -> None:
        """Note that it failed."""

    def link(self, other: "Span") -> None:
        """Note that this waits for what *other* does."""

    def current(self) -> AbstractContextManager[object]:
        """Let what is begun in this context stand below it."""

    def end(self) -> None:
        """End it; a second time changes nothing."""


class Tracer(Protocol):
    """Makes spans."""

    def begin(self, name: str, kind: Kind, carrier: Mapping[str, str] | None) -> Span:
        """Begin a span below the current one, or below the one that *carrier* names."""

    def current(self) -> Span:
        """Return the span that the running code stands in."""

    def headers(self) -> dict[str, str]:
        """Return what tells another service of the current span."""

    def join(self, carrier: Mapping[str, str]) -> None:
        """Let what this task begins stand below the span of another process."""

    def close(self) -> None:
        """Send what has ended, for a few seconds at most."""


class _Nothing:
    """The span of a mirror without traces."""

    def set(self, facts: Mapping[str, Fact | None]) -> None:
        pass

    def rename(self, name: str) -> None:
        pass

    def fail(self, reason: str) -> None:
        pass

    def link(self, other: Span) -> None:
        pass

    def current(self) -> AbstractContextManager[object]:
        return _NO_CONTEXT

    def end(self) -> None:
        pass


_NO_CONTEXT: Final = nullcontext()
NOTHING: Final[Span] = _Nothing()
_tracer: Tracer | None = None


def is_on() -> bool:
    """Return whether facts are worth collecting."""
    return _tracer is not None


def begin(name: str, kind: Kind, carrier: Mapping[str, str] | None = None) -> Span:
    """Begin a span below the current one, or below the one that *carrier* names."""
    return NOTHING if _tracer is None else _tracer.begin(name, kind, carrier)


def current() -> Span:
    """Return the span that the running code stands in."""
    return NOTHING if _tracer is None else _tracer.current()


def headers() -> dict[str, str]:
    """Return what tells another service of the current span."""
    return {} if _tracer is None else _tracer.headers()


def join(carrier: Mapping[str, str]) -> None:
    """Let what this task begins stand below the span of another process."""
    if _tracer is not None and carrier:
        _tracer.join(carrier)


def use(tracer: Tracer | None) -> None:
    """Go over to a tracer, or to none; one for the process, as OpenTelemetry has it."""
    global _tracer  # noqa: PLW0603 -- a tracer is of the process, like its logs
    _tracer = tracer


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Return whether the environment asks for traces by the variables of OpenTelemetry."""
    if environ.get(_OFF, "").strip().lower() == "true":
        return False
    exporter = environ.get(_EXPORTER, "").strip().lower()
    return exporter != "none" if exporter else any(map(environ.get, _ENDPOINTS))


def configure(environ: Mapping[str, str] = os.environ, *, reports: bool = True) -> None:
    """Trace if the environment asks for it; what stands in the way is logged, and nothing more.

    Without *reports* not even that: a worker's main process has said it.
    """
    if not is_wanted(environ):
        return
    trouble = _begun(environ)
    if not reports:
        return
    if trouble is None:
        _log.info("traces are sent")
    else:
        _log.error(trouble[0], reason=trouble[1])


def _begun(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Begin, and return what stands in the way."""
    try:
        from mirror.observe.otel import tracer_of  # noqa: PLC0415 -- an extra, and slow

        use(tracer_of(environ))
    except ImportError as error:
        return "traces are wanted, but a package is missing: install mirror[otel]", str(error)
    except Exception as error:  # noqa: BLE001 -- whatever the SDK says of its variables
        return "there are no traces: the OTEL_ variables are wrong", str(error)
    return None


def close() -> None:
    """Send what has ended, for a few seconds at most, and trace no more."""
    tracer = _tracer
    use(None)
    if tracer is not None:
        tracer.close()
