"""OpenTelemetry spans: one for each request and server, with a child for each layer.

They are off unless the environment has an OTLP endpoint, in OpenTelemetry's variables; its other variables are used as
well. A request is then traced if its client's W3C traceparent says so, or if OTEL_TRACES_SAMPLER chooses it.

With or without spans, a ranker passes a sampled trace on to its shards, which then measure the lookups.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from exfm.serving.profiler.profiler import Profiler

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT = "traceparent"

TRACE_HEADERS = (TRACEPARENT, "tracestate")
"""Headers, and gRPC's metadata, of the trace that a request is part of (W3C Trace Context)."""

_CARRIED_ON: ContextVar[Mapping[str, str] | None] = ContextVar("trace headers", default=None)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Spans:
    """Makes spans of a server's requests; a thread of OpenTelemetry exports them."""

    def __init__(self, provider: "TracerProvider", *, begins_traces: bool = True) -> None:
        """Make spans with a provider; without `begins_traces`, only for requests that are part of a trace."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = provider.get_tracer("exfm.serving")
        self._propagator = TraceContextTextMapPropagator()
        self._begins_traces = begins_traces

    @classmethod
    def from_environment(cls, *, service: str, begins_traces: bool) -> "Spans | None":
        """Return spans that are exported to the endpoint in the environment, or None if it has none."""
        if not any(os.environ.get(name) for name in ENDPOINTS):
            return None
        # Imported here, because they take half a second and memory.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

        sampler = None if os.environ.get("OTEL_TRACES_SAMPLER") else ParentBased(ALWAYS_OFF)
        resource = Resource.create({} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service})
        provider = TracerProvider(sampler=sampler, resource=resource)  # it exports the last spans at exit
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider, begins_traces=begins_traces)

    @contextmanager
    def request(self, profiler: Profiler, *, context: Mapping[str, str]) -> Iterator[bool]:
        """Make a span of a block that answers a request, and spans of its layers, and yield whether it is sampled."""
        from opentelemetry.trace import SpanKind

        if not context.get(TRACEPARENT) and not self._begins_traces:
            yield False
            return
        offset_ns = time.time_ns() - time.perf_counter_ns()
        with (
            self._tracer.start_as_current_span(
                "infer",
                context=self._propagator.extract(context),
                kind=SpanKind.SERVER,
                start_time=profiler.began_ns + offset_ns,
            ) as span,
            _carrying_on(self._propagator),
        ):
            try:
                yield span.is_recording()
            finally:
                if span.is_recording():
                    self._end(profiler, offset_ns=offset_ns)

    def _end(self, profiler: Profiler, *, offset_ns: int) -> None:
        """Make the spans of a request's layers, below the current span."""
        for interval in profiler.intervals:
            layer = self._tracer.start_span(interval.name, start_time=interval.began_ns + offset_ns)
            layer.set_attribute("exfm.cpu_ns", interval.cpu_ns)
            layer.end(interval.ended_ns + offset_ns)


@contextmanager
def spanned(
    spans: Spans | None, profiler: Profiler, *, is_reported: bool, headers: Iterable[tuple[str, str]]
) -> Iterator[Profiler | None]:
    """Make spans of a block that answers a request, if spans are on; yield its profiler, or None if nothing needs it.

    Only the request's `headers` in TRACE_HEADERS are used, by their names in lower case; malformed ones are dropped.
    """
    context = _context_in(headers)
    if spans is not None:
        with spans.request(profiler, context=context) as is_recorded:
            yield profiler if is_reported or is_recorded else None
    elif context.get(TRACEPARENT):
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # it is slow to import

        propagator = TraceContextTextMapPropagator()
        with _carrying_on(propagator, propagator.extract(context)):
            yield profiler if is_reported else None
    else:
        yield profiler if is_reported else None


def carried_on() -> Mapping[str, str]:
    """Return the trace headers for lookups of the current request; empty if it is part of no trace."""
    return _CARRIED_ON.get() or {}


def is_sampled(context: Mapping[str, str]) -> bool:
    """Return whether trace headers say that the trace is sampled."""
    return bool(int(context.get(TRACEPARENT, "0")[-1], 16) & 1)  # the last bit of its flags


def trace_note(context: Mapping[str, str]) -> bytes:
    """Return trace headers as a note of a frame: their values in the order of TRACE_HEADERS, one a line."""
    return "\n".join(context.get(name, "") for name in TRACE_HEADERS).rstrip("\n").encode()


def read_trace_note(note: bytes) -> Iterable[tuple[str, str]]:
    """Return the headers in a note; malformed ones make no span."""
    return zip(TRACE_HEADERS, note.decode("ascii", "replace").split("\n"), strict=False)


@contextmanager
def _carrying_on(propagator: "TraceContextTextMapPropagator", context: "Context | None" = None) -> Iterator[None]:
    """Pass a context's trace on to lookups in a block; by default the current context's."""
    headers: dict[str, str] = {}
    propagator.inject(headers, context=context)
    token = _CARRIED_ON.set(headers)
    try:
        yield
    finally:
        _CARRIED_ON.reset(token)


def _context_in(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:
        if name in TRACE_HEADERS:  # a repeated header continues the first
            found[name] = f"{found[name]},{value}" if name in found else value
    return found
