"""Traces leave for a collector that the environment names, and without one nothing is made."""

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from typing import ClassVar

import pytest

from manyhands.tracing import ENDPOINTS, is_wanted, tracing
from protocol.errors import ConfigError
from protocol.tracing import TraceParent


class Collector(http.server.BaseHTTPRequestHandler):
    """Keeps the bodies that are posted to it."""

    bodies: ClassVar[list[tuple[str, bytes]]]

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        self.bodies.append((self.path, self.rfile.read(length)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Collector]]:
    class Mine(Collector):
        bodies: ClassVar[list[tuple[str, bytes]]] = []

    server = http.server.HTTPServer(("127.0.0.1", 0), Mine)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        yield Mine
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "mine"}, False),
        ({ENDPOINTS[0]: "http://collector:4318"}, True),
        ({ENDPOINTS[1]: "http://collector:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", ENDPOINTS[0]: "http://collector:4318"}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", ENDPOINTS[0]: "http://collector:4318"}, False),
    ],
)
def test_traces_are_wanted_when_somebody_is_named_to_have_them(
    environ: dict[str, str], wanted: bool
):
    assert is_wanted(environ) is wanted


def test_without_a_collector_there_is_no_tracer(monkeypatch: pytest.MonkeyPatch):
    for name in (*ENDPOINTS, "OTEL_TRACES_EXPORTER"):
        monkeypatch.delenv(name, raising=False)

    with tracing("test") as tracer:
        assert tracer is None


def test_spans_arrive_at_the_collector_under_the_operators_name(
    collector: type[Collector], monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("opentelemetry.exporter.otlp", reason="the otel extra is not installed")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "kitchen")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "site=cellar")

    with tracing("test") as tracer:
        assert tracer is not None
        parent = TraceParent("1" * 32, "2" * 16, True)
        span = tracer.begin("whole", parent, began_ns=time.time_ns(), blocks="0:4")
        assert span is not None
        span.part("half", time.time_ns(), time.time_ns())
        span.end("peer_failed")

    ((path, body),) = collector.bodies
    told = _spans(body)
    assert path == "/v1/traces"
    assert told["resource"] | {"service.name": "kitchen", "site": "cellar"} == told["resource"]
    assert [name for name, _ in told["spans"]] == ["half", "whole"]
    assert dict(told["spans"])["whole"] == {
        "manyhands.blocks": "0:4",
        "error.type": "peer_failed",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
)
def test_a_way_that_we_do_not_have_is_named(
    collector: type[Collector], monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    pytest.importorskip("opentelemetry.sdk", reason="the otel extra is not installed")
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigError, match=value), tracing("test"):
        pass


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_BSP_MAX_QUEUE_SIZE", "10"), ("MANYHANDS_TRACE_CALLERS", "trust")]
)
def test_variables_that_make_no_sense_are_said_before_anything_begins(
    collector: type[Collector], monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    pytest.importorskip("opentelemetry.sdk", reason="the otel extra is not installed")
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigError) as refused, tracing("test"):
        pass
    assert name in refused.value.hint


def test_a_collector_that_never_answers_holds_the_end_up_for_as_long_as_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    pytest.importorskip("opentelemetry.exporter.otlp", reason="the otel extra is not installed")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        with tracing("test", flush_s=0.1) as tracer:
            assert tracer is not None
            span = tracer.begin("whole", None, began_ns=time.time_ns())
            assert span is not None
            span.end()
        (ending,) = [each for each in threading.enumerate() if each.name == "last-spans"]
        was_waiting = ending.is_alive()  # the end did not wait for it

    assert was_waiting
    assert ending.daemon
    assert "did not take the last spans" in caplog.text


@pytest.mark.parametrize(
    ("callers", "sampler", "is_sampled", "kept"),
    [
        ("", "parentbased_always_off", True, False),
        ("", "parentbased_always_on", True, True),
        ("", "parentbased_always_on", False, False),
        ("follow", "parentbased_always_off", True, True),
    ],
)
def test_what_a_strangers_span_is_worth_is_the_operators_word(
    collector: type[Collector],
    monkeypatch: pytest.MonkeyPatch,
    callers: str,
    sampler: str,
    is_sampled: bool,
    kept: bool,
):
    pytest.importorskip("opentelemetry.exporter.otlp", reason="the otel extra is not installed")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("MANYHANDS_TRACE_CALLERS", callers)

    with tracing("test") as tracer:
        assert tracer is not None
        parent = TraceParent("1" * 32, "2" * 16, is_sampled)
        span = tracer.begin("hop", parent, began_ns=time.time_ns())
        if span is not None:
            span.end()

    assert (span is not None) is kept
    assert bool(collector.bodies) is kept


def _spans(body: bytes) -> dict[str, object]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    spans = [span for scope in resource.scope_spans for span in scope.spans]
    return {
        "resource": {each.key: each.value.string_value for each in resource.resource.attributes},
        "spans": [
            (span.name, {each.key: each.value.string_value for each in span.attributes})
            for span in spans
        ],
    }
