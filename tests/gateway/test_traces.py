"""Traces across peers, as the OpenTelemetry SDK collects them: a real swarm over real sockets."""

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="the otel extra is not installed")

from manyhands.tracing import Callers
from tests.gateway.live import Live, until

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "a prompt that nobody else should read"


class Collected:
    """A gateway and two nodes, whose spans all end up here."""

    def __init__(self, gateway: Live, exporter: Any) -> None:
        self.gateway, self.exporter = gateway, exporter

    def chat(self, **headers: str) -> list[Any]:
        """The spans of one answer, once its hops have told theirs."""
        self.exporter.clear()
        asked = {"model": "tiny", "messages": [{"role": "user", "content": SECRET}]}
        status, _, told = self.gateway.post("/v1/chat/completions", asked, **headers)
        assert status == 200, told
        until(lambda: self.gateway.open_sessions() == 0, timeout_s=10)
        return list(self.exporter.get_finished_spans())


@pytest.fixture
def callers() -> Callers:
    return Callers.LINK


@pytest.fixture
def collected(gateway: Live, callers: Callers) -> Iterator[Collected]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from manyhands.tracing import OpenTelemetry

    until(lambda: gateway.open_sessions() == 0, timeout_s=10)
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    gateway.tracer.to = OpenTelemetry(provider, callers)
    yield Collected(gateway, exporter)
    gateway.tracer.to = None


def test_one_trace_holds_the_request_its_route_and_the_work_of_every_hop(collected: Collected):
    spans = collected.chat()

    (answer,) = [span for span in spans if span.name == "chat tiny"]
    hops = [span for span in spans if span.name == "manyhands.hop"]
    parts = {span.name for span in spans if _is_part(span, answer)}
    assert len({span.context.trace_id for span in spans}) == 1
    assert answer.parent is None
    assert parts == {*(f"manyhands.{of}" for of in ("route", "open", "prefill", "decode", "hop"))}
    assert {hop.attributes["manyhands.blocks"] for hop in hops} == {"0:4", "4:8"}
    for hop in hops:
        done = [span.name.removeprefix("manyhands.") for span in spans if _is_part(span, hop)]
        assert done == ["reserve", "queue", "forward", "send", "decode"]


def test_a_callers_trace_is_linked_and_decides_nothing(collected: Collected):
    for traceparent in (CALLER, CALLER[:-1] + "0"):
        spans = collected.chat(traceparent=traceparent)

        (answer,) = [span for span in spans if span.name == "chat tiny"]
        (link,) = answer.links
        assert answer.parent is None
        assert f"{link.context.trace_id:032x}" == CALLER.split("-")[1]
        assert f"{link.context.span_id:016x}" == CALLER.split("-")[2]
        assert len({span.context.trace_id for span in spans}) == 1
        assert f"{answer.context.trace_id:032x}" != CALLER.split("-")[1]


@pytest.mark.parametrize("callers", [Callers.IGNORE])
def test_a_callers_trace_may_be_passed_over(collected: Collected):
    (answer,) = [s for s in collected.chat(traceparent=CALLER) if s.name == "chat tiny"]

    assert answer.parent is None
    assert not answer.links


@pytest.mark.parametrize("callers", [Callers.FOLLOW])
def test_a_trace_goes_on_where_its_caller_began_it(collected: Collected):
    spans = collected.chat(traceparent=CALLER)

    (answer,) = [span for span in spans if span.name == "chat tiny"]
    assert {f"{span.context.trace_id:032x}" for span in spans} == {CALLER.split("-")[1]}
    assert f"{answer.parent.span_id:016x}" == CALLER.split("-")[2]


@pytest.mark.parametrize("callers", [Callers.FOLLOW])
def test_what_a_caller_does_not_keep_nobody_keeps(collected: Collected):
    assert collected.chat(traceparent=CALLER[:-1] + "0") == []


@pytest.mark.parametrize(
    "bad", ["", "x" * 4000, CALLER.upper(), CALLER + "-more", f"ff{CALLER[2:]}"]
)
def test_a_strangers_nonsense_begins_a_trace_of_its_own(collected: Collected, bad: str):
    spans = collected.chat(traceparent=bad)

    assert all(f"{span.context.trace_id:032x}" != CALLER.split("-")[1] for span in spans)
    assert [span.parent for span in spans if span.name == "chat tiny"] == [None]


def test_spans_hold_numbers_and_names_of_ours_and_no_words_of_anybodys(collected: Collected):
    spans = collected.chat(authorization="Bearer sk-very-secret")

    (answer,) = [span for span in spans if span.name == "chat tiny"]
    told = "".join(span.to_json() for span in spans)
    assert answer.attributes["gen_ai.usage.output_tokens"] > 0
    assert answer.attributes["gen_ai.response.finish_reasons"] in (("stop",), ("length",))
    assert SECRET not in told
    assert "very-secret" not in told
    assert not any(span.events or span.links for span in spans)


def test_times_of_parts_lie_within_what_they_are_parts_of(collected: Collected):
    spans = collected.chat()

    by_id = {span.context.span_id: span for span in spans}
    slack_ns = 5_000_000  # two clocks are read: one that counts, one that tells the time
    for span in spans:
        assert span.start_time <= span.end_time
        if span.parent is not None and span.name != "manyhands.hop":
            assert span.start_time >= by_id[span.parent.span_id].start_time - slack_ns


def _is_part(span: Any, of: Any) -> bool:
    return span.parent is not None and span.parent.span_id == of.context.span_id
