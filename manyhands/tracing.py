"""Traces for an operator's own collector, by OpenTelemetry: off unless its OTEL_* variables say so.

In: the environment, as the OpenTelemetry specification names it; the packages of the extra `otel`.
Out: a `protocol.tracing.Tracer`, or None, which costs nothing. The provider is our own: nothing is
registered for the whole process, and nobody else's instrumentation adds to what leaves it. Spans
have the attributes that are given here, and no others.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from manyhands import __version__
from protocol.errors import ConfigError
from protocol.tracing import Told, TraceParent

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
EXPORTER, DISABLED = "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED"
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP = "http/protobuf"
FIX = "pip install 'manyhands[otel]'"
FLUSH_MS = 2000


class OpenTelemetry:
    """A `Tracer` on a provider."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._tracer: Any = provider.get_tracer("manyhands", __version__)

    def begin(
        self, name: str, parent: TraceParent | None, *, began_ns: int, **told: Told
    ) -> "OpenSpan | None":
        from opentelemetry.trace import SpanKind, set_span_in_context

        span = self._tracer.start_span(
            name,
            _context(parent),
            kind=SpanKind.SERVER,
            attributes=_named(told),
            start_time=began_ns,
        )
        if not span.is_recording():
            return None
        return OpenSpan(self._tracer, span, set_span_in_context(span, _context(None)))


class OpenSpan:
    """A `TraceSpan`."""

    def __init__(self, tracer: Any, span: Any, context: Any) -> None:
        self._tracer, self._span, self._context = tracer, span, context

    @property
    def parent(self) -> TraceParent:
        said = self._span.get_span_context()
        return TraceParent(f"{said.trace_id:032x}", f"{said.span_id:016x}", True)

    def part(self, name: str, began_ns: int, ended_ns: int, **told: Told) -> None:
        span = self._tracer.start_span(
            name, self._context, attributes=_named(told), start_time=began_ns
        )
        span.end(max(began_ns, ended_ns))

    def end(self, error: str = "", **told: Told) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attributes(_named(told))
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


def _context(parent: TraceParent | None) -> Any:
    """Of nothing else: what another library may have made current is no parent of ours."""
    from opentelemetry.context import Context
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        set_span_in_context,
    )

    if parent is None:
        return Context()
    said = SpanContext(
        int(parent.trace_id, 16),
        int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if parent.is_sampled else TraceFlags.DEFAULT),
    )
    return set_span_in_context(NonRecordingSpan(said), Context())


def _named(told: Mapping[str, Told]) -> dict[str, Told]:
    """Names with a dot are OpenTelemetry's own, the others ours."""
    return {name if "." in name else f"manyhands.{name}": value for name, value in told.items()}


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether the environment names somebody to send traces to, and nothing says no."""
    if environ.get(DISABLED, "").strip().lower() == "true":
        return False
    exporter = environ.get(EXPORTER, "").strip().lower()
    return exporter != "none" and bool(exporter or any(environ.get(each) for each in ENDPOINTS))


@contextmanager
def tracing(service: str) -> Iterator[OpenTelemetry | None]:
    """A tracer while the context lasts, if the environment wants one. service: its name, where
    OTEL_SERVICE_NAME gives no other.

    Raises:
        ConfigError: traces are wanted in a way that we do not have.
    """
    environ = os.environ
    if not is_wanted(environ):
        yield None
        return
    try:
        provider = _provider(environ, service)
    except ImportError:  # the variables are meant for all programs of a machine: no reason to end
        log.warning("no traces: OpenTelemetry is not installed", extra={"fix": FIX})
        yield None
        return
    try:
        yield OpenTelemetry(provider)
    finally:
        provider.force_flush(FLUSH_MS)
        provider.shutdown()


def _provider(environ: Mapping[str, str], service: str) -> "TracerProvider":
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    own = {"service.name": service, "service.version": __version__}
    resource = Resource.create({**own, **OTELResourceDetector().detect().attributes})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(_exporter(environ)))
    return provider


def _exporter(environ: Mapping[str, str]) -> Any:
    name = environ.get(EXPORTER, "").strip().lower() or "otlp"
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if name != "otlp":
        raise ConfigError(
            f"no traces go to {name[:40]!r}", hint=f"{EXPORTER} is otlp, console or none"
        )
    said = next((environ[each] for each in PROTOCOLS if environ.get(each)), HTTP)
    if said != HTTP:
        raise ConfigError(
            f"traces do not go over {said[:40]!r}", hint=f"{PROTOCOLS[1]}={HTTP}, to port 4318"
        )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()
