"""Traces by the OpenTelemetry SDK, which is imported here and nowhere else.

The SDK reads its own variables: sampler, resource, limits, batches, and the exporter's address
and headers. Which exporter there is, is for the program to read.
"""

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context, attach
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
    SpanExporter,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import mirror
from mirror.observe import tracing
from mirror.observe.logs import redact_text
from mirror.observe.tracing import Fact, Kind

_KINDS: Final = {
    Kind.SERVER: trace.SpanKind.SERVER,
    Kind.CLIENT: trace.SpanKind.CLIENT,
    Kind.INTERNAL: trace.SpanKind.INTERNAL,
}
_CARRIED: Final = ("traceparent", "tracestate")
_CLOSE_SECONDS: Final = 5.0
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class OtelSpan:
    """A span of the SDK."""

    def __init__(self, span: trace.Span, tracer: trace.Tracer) -> None:
        self.span = span
        self._tracer = tracer

    def set(self, facts: Mapping[str, Fact | None]) -> None:
        """Note facts, without what looks like a secret in them."""
        for name, value in facts.items():
            if value not in {None, ""}:
                clean = redact_text(value) if isinstance(value, str) else value
                self.span.set_attribute(name, clean)

    def rename(self, name: str) -> None:
        """Give it the name that is known only now."""
        self.span.update_name(name)

    def fail(self, reason: str) -> None:
        """Note that it failed."""
        self.span.set_status(trace.StatusCode.ERROR, redact_text(reason))

    def link(self, other: tracing.Span) -> None:
        """Note that this waits for what *other* does."""
        if not isinstance(other, OtelSpan):
            return
        context = other.span.get_span_context()
        if self.span.is_recording():
            self.span.add_link(context)
        elif self.span.get_span_context().is_remote:  # a worker's: one of ours has the link
            self._tracer.start_span("join", links=[trace.Link(context)]).end()

    def current(self) -> AbstractContextManager[object]:
        """Let what is begun in this context stand below it."""
        # Exceptions are noted by fail(): their text may hold what must not be sent.
        return trace.use_span(self.span, record_exception=False, set_status_on_exception=False)

    def end(self) -> None:
        """End it; a second time changes nothing."""
        if self.span.is_recording():
            self.span.end()


class OtelTracer:
    """Makes spans of a provider."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("mirror", mirror.__version__)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, name: str, kind: Kind, carrier: Mapping[str, str] | None) -> OtelSpan:
        """Begin a span below the current one, or below the one that *carrier* names."""
        context = None if carrier is None else self._context(carrier)
        return OtelSpan(self._tracer.start_span(name, context, _KINDS[kind]), self._tracer)

    def current(self) -> OtelSpan:
        """Return the span that the running code stands in."""
        return OtelSpan(trace.get_current_span(), self._tracer)

    def headers(self) -> dict[str, str]:
        """Return what tells another service of the current span."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier

    def join(self, carrier: Mapping[str, str]) -> None:
        """Let what this task begins stand below the span of another process."""
        attach(self._context(carrier))

    def _context(self, carrier: Mapping[str, str]) -> Context:
        told = {key: carrier[key] for key in _CARRIED if key in carrier}
        # Of what is told only: what this code stands in has nothing to do with it.
        return self._propagator.extract(told, Context())

    def close(self) -> None:
        """Send what has ended, for a few seconds at most."""
        # A collector that hangs must not hold up the end of the process.
        closing = threading.Thread(target=self._provider.shutdown, name="mirror-otel", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)


def tracer_of(environ: Mapping[str, str]) -> OtelTracer:
    """Return a tracer as the environment describes it.

    Raises:
        ImportError: the package of an exporter is missing.
        ValueError: there is no such exporter.
    """
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    exporter = (environ.get("OTEL_TRACES_EXPORTER") or "otlp").strip().lower()
    if exporter == "console":
        provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
    elif exporter == "otlp":
        provider.add_span_processor(BatchSpanProcessor(_otlp(environ)))
    else:
        raise ValueError(f"OTEL_TRACES_EXPORTER is otlp, console or none, not {exporter!r}")
    return OtelTracer(provider)


def _resource() -> Resource:
    """Return who we are; what the environment says of it wins."""
    told = Resource.create()
    ours = {"service.version": mirror.__version__}
    if str(told.attributes.get("service.name", "")).startswith("unknown_service"):
        ours["service.name"] = "mirror"
    return Resource({**told.attributes, **ours})


def _otlp(environ: Mapping[str, str]) -> SpanExporter:
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "http/protobuf")
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 -- by choice
            OTLPSpanExporter,
        )

        return OTLPSpanExporter()
    raise ValueError(f"the protocol is http/protobuf, not {protocol!r}")
