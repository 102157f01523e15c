"""An answer as a span of its caller's trace, or of a new one; hops are told which.

In: a request's headers, and the events of its answers. Out: a span named as OpenTelemetry's
conventions for generative AI name it (status: development, of 2026), with parts for the search of a
route, the opening of its chain, prefill and decode. The model is called as this gateway calls it:
what a caller wrote is in no attribute.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from fastapi import Request

from manyhands.gateway.answers import Observer
from manyhands.gateway.faults import ApiError
from protocol.tracing import Told, TraceParent, Tracer, TraceSpan
from scheduler.request import (
    Event,
    Finished,
    GenerationRequest,
    GenerationResult,
    Routed,
    Token,
)

NS = 1_000_000_000
OPERATIONS = {
    "chat.completion": "chat",
    "chat/completions": "chat",
    "response": "chat",
    "responses": "chat",
    "text_completion": "text_completion",
    "completions": "text_completion",
    "embedding": "embeddings",
    "embeddings": "embeddings",
}


class AnswerTrace(Observer):
    """Of the answers to one request. Use `begin`."""

    def __init__(self, span: TraceSpan, began_s: float) -> None:
        self._span, self._began_s = span, began_s
        self._zero_ns = time.time_ns() - round(time.monotonic() * NS)
        self._n_left = 0
        self._routed_s: dict[int, float] = {}
        self._first_s: dict[int, float] = {}
        self._last_s: dict[int, float] = {}
        self._results: list[GenerationResult] = []
        self._reasons: list[str] = []
        self._error = ""

    def marked(self, requests: Sequence[GenerationRequest]) -> list[GenerationRequest]:
        """The same requests, whose hops are told of the span."""
        return [replace(each, traceparent=str(self._span.parent)) for each in requests]

    def began(self, n_choices: int) -> None:
        self._n_left = n_choices

    def hear(self, index: int, event: Event) -> None:
        now_s = time.monotonic()
        if isinstance(event, Token):
            if index not in self._first_s:
                self._first_s[index] = now_s
                self._part("manyhands.prefill", index, self._routed_s.get(index), now_s)
            self._last_s[index] = now_s
        elif isinstance(event, Routed) and index not in self._routed_s:
            self._routed_s[index] = now_s
            self._part("manyhands.route", index, self._began_s, event.found_s)
            self._part("manyhands.open", index, event.found_s, now_s, hops=len(event.route))
        elif isinstance(event, Finished):
            self._results.append(event.result)

    def ended(self, index: int, reason: str, code: str) -> None:
        if (first_s := self._first_s.get(index)) is not None:
            self._part("manyhands.decode", index, first_s, self._last_s[index])
        self._reasons.append(reason)
        self._error = self._error or code
        self._n_left -= 1
        if self._n_left <= 0:
            self._end()

    def refused(self, code: str) -> None:
        """Nothing was begun."""
        self._span.end(code)

    def _end(self) -> None:
        told: dict[str, Told] = {"gen_ai.response.finish_reasons": tuple(self._reasons)}
        if self._first_s:
            first_s = min(self._first_s.values()) - self._began_s
            told["gen_ai.response.time_to_first_chunk"] = round(first_s, 6)
        if results := self._results:
            told |= {
                "gen_ai.usage.input_tokens": sum(each.n_prompt for each in results),
                "gen_ai.usage.output_tokens": sum(len(each.token_ids) for each in results),
                "gen_ai.usage.cache_read.input_tokens": sum(each.n_cached for each in results),
                "failovers": sum(each.failovers for each in results),
                "handovers": sum(each.handovers for each in results),
            }
        self._span.end(self._error, **told)

    def _part(
        self, name: str, index: int, began_s: float | None, ended_s: float, **told: Told
    ) -> None:
        if began_s:
            began_ns, ended_ns = (self._zero_ns + round(at * NS) for at in (began_s, ended_s))
            self._span.part(name, began_ns, ended_ns, choice=index, **told)


@contextmanager
def unless_refused(trace: AnswerTrace | None) -> Iterator[None]:
    """What is begun in here is the trace's to tell, or that it was not begun."""
    try:
        yield
    except ApiError as error:
        if trace is not None:
            trace.refused(error.code)
        raise


def begin(
    request: Request, model: str, kind: str, requests: Sequence[GenerationRequest], tier: str
) -> AnswerTrace | None:
    """None: nobody keeps spans, or not this one. model, kind, tier: in words of ours; requests:
    as the swarm would be asked, if it could be."""
    tracer: Tracer | None = request.app.state.tracer
    if tracer is None:
        return None
    began_s: float = request.state.began_s
    operation = OPERATIONS[kind]
    told: dict[str, Told] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "manyhands" if tier == "swarm" else tier,
        "gen_ai.request.model": model,
        "request_id": request.state.id,
        "tier": tier,
        "choices": len(requests),
    }
    if requests:
        told["gen_ai.request.max_tokens"] = requests[0].max_tokens
        told["gen_ai.request.temperature"] = requests[0].sampling.temperature
        told["gen_ai.request.top_p"] = requests[0].sampling.top_p
    span = tracer.begin(
        f"{operation} {model}",
        getattr(request.state, "trace", None),
        began_ns=time.time_ns() - round((time.monotonic() - began_s) * NS),
        caller=TraceParent.parse(request.headers.get("traceparent", "")),
        **told,
    )
    if span is None:
        return None
    if not hasattr(request.state, "trace"):
        request.state.trace = span.parent  # of what is asked next, where this one fails
    return AnswerTrace(span, began_s)
