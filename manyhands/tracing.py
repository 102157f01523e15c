"""Traces for an operator's own collector, by OpenTelemetry: off unless its OTEL_* variables say so.

In: the environment, as the OpenTelemetry specification names it; the packages of the extra `otel`.
Out: a `protocol.tracing.Tracer`, or None, which costs nothing. The provider is our own: nothing is
registered for the whole process, and nobody else's instrumentation adds to what leaves it. Spans
have the attributes that are given here, and no others. What is kept is the operator's to say: by a
stranger's word nothing more is, unless the operator lets callers say it.
"""

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from manyhands import __version__
from protocol.errors import ConfigError
from protocol.tracing import Told, TraceParent

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import Sampler

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
EXPORTER, DISABLED = "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED"
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP = "http/protobuf"
TIMEOUTS = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
CALLERS = "MANYHANDS_TRACE_CALLERS"
FIX = "pip install 'manyhands[otel]'"
FLUSH_S = 2.0  # at the end, for a collector that may be gone
TIMEOUT_S = 5.0  # of one export, unless the environment says


class Callers(StrEnum):
    """What the trace that a gateway's caller brings means: our own has a link to it; ours is a part
    of it, and kept if it is; nothing."""

    LINK, FOLLOW, IGNORE = "link", "follow", "ignore"


class OpenTelemetry:
    """A `Tracer` on a provider."""

    def __init__(self, provider: "TracerProvider", callers: Callers = Callers.LINK) -> None:
        self._tracer: Any = provider.get_tracer("manyhands", __version__)
        self._callers = callers

    def begin(
        self,
        name: str,
        parent: TraceParent | None,
        *,
        began_ns: int,
        caller: TraceParent | None = None,
        **told: Told,
    ) -> "OpenSpan | None":
        from opentelemetry.trace import Link, SpanKind, set_span_in_context

        is_linked = caller is not None and self._callers is Callers.LINK
        if caller is not None and self._callers is Callers.FOLLOW:
            parent = caller
        span = self._tracer.start_span(
            name,
            _context(parent),
            kind=SpanKind.SERVER,
            attributes=_named(told),
            links=[Link(_said(caller))] if caller is not None and is_linked else (),
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
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    if parent is None:
        return Context()
    return set_span_in_context(NonRecordingSpan(_said(parent)), Context())


def _said(parent: TraceParent) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(
        int(parent.trace_id, 16),
        int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if parent.is_sampled else TraceFlags.DEFAULT),
    )


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
def tracing(service: str, flush_s: float = FLUSH_S) -> Iterator[OpenTelemetry | None]:
    """A tracer while the context lasts, if the environment wants one. service: its name, where
    OTEL_SERVICE_NAME gives no other. flush_s: how long the end may wait for the last spans.

    Raises:
        ConfigError: traces are wanted in a way that we do not have.
    """
    environ = os.environ
    if not is_wanted(environ):
        yield None
        return
    try:
        callers = _callers(environ)
        provider = _provider(environ, service, callers)
    except ValueError as error:
        raise ConfigError(
            f"no traces can be sent as the OTEL_* variables say: {error}",
            hint="OTEL_BSP_MAX_EXPORT_BATCH_SIZE (512) is at most OTEL_BSP_MAX_QUEUE_SIZE (2048)",
        ) from error
    except ImportError:  # the variables are meant for all programs of a machine: no reason to end
        log.warning("no traces: OpenTelemetry is not installed", extra={"fix": FIX})
        yield None
        return
    try:
        yield OpenTelemetry(provider, callers)
    finally:
        _end(provider, flush_s)


def _end(provider: "TracerProvider", flush_s: float) -> None:
    """The SDK waits for up to 30 s and takes no limit, so it waits on a thread that nobody has to
    wait for."""
    ending = threading.Thread(target=provider.shutdown, name="last-spans", daemon=True)
    ending.start()
    ending.join(flush_s)
    if ending.is_alive():
        log.warning("the collector did not take the last spans in time", extra={"wait_s": flush_s})


def _callers(environ: Mapping[str, str]) -> Callers:
    said = environ.get(CALLERS, "").strip().lower() or Callers.LINK
    try:
        return Callers(said)
    except ValueError:
        hint = f"{CALLERS} is one of: {', '.join(Callers)}"
        raise ConfigError(f"callers' traces are not {said[:40]!r}", hint=hint) from None


def _provider(
    environ: Mapping[str, str], service: str, callers: Callers = Callers.LINK
) -> "TracerProvider":
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    own = {"service.name": service, "service.version": __version__}
    resource = Resource.create({**own, **OTELResourceDetector().detect().attributes})
    processor = BatchSpanProcessor(_exporter(environ))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # `_end` does that
    if callers is not Callers.FOLLOW:
        provider.sampler = _own_word(provider.sampler)
    provider.add_span_processor(processor)
    return provider


def _own_word(sampler: "Sampler") -> "Sampler":
    """The same for spans that strangers are the parents of as for those without a parent: a ratio
    of the operator's is one of all that comes in."""
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

    if not isinstance(sampler, ParentBased):
        return sampler
    root: Sampler = sampler._root  # nothing else tells it
    return ParentBased(root, remote_parent_sampled=root, remote_parent_not_sampled=ALWAYS_OFF)


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

    is_told = any(environ.get(each) for each in TIMEOUTS)
    return OTLPSpanExporter(timeout=None if is_told else TIMEOUT_S)
