"""What went through this gateway: counts over the last hour, and the last answers hop by hop.

In: events of generations as they come. Out: plain values for the page. Never a prompt or a text:
what is kept of an answer is its times, its route and its numbers.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manyhands.gateway.answers import Observer
from protocol.clock import wall_ms
from scheduler.request import Event, Finished, GenerationRequest, Routed, RouteStep, Token, Waiting

if TYPE_CHECKING:
    from manyhands.gateway.second_runs import Outcome

BUCKET_S, N_BUCKETS = 10, 360
N_KEPT, MAX_ROUTES = 200, 16


@dataclass(slots=True)
class Bucket:
    """Ten seconds. ttft_ms: of the answers that began in them."""

    number: int
    n_tokens: int = 0
    n_requests: int = 0
    n_failed: int = 0
    cost_ncr: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    decisions: Counter[tuple[str, str]] = field(default_factory=Counter)  # who answers, which rule
    ttft_ms: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Trace:
    """One answer. hops: its last route; routes: each that it had, and when it stood. Moments are
    milliseconds after it was asked."""

    id: str
    model: str
    endpoint: str
    began_ms: int
    began_s: float
    n_prompt: int
    status: str = "running"
    n_tokens: int = 0
    routed_ms: float | None = None
    first_ms: float | None = None
    last_ms: float | None = None
    n_cached: int = 0
    n_handovers: int = 0
    cost_ncr: int = 0
    pauses_ms: tuple[float, ...] = ()
    waited_for: str = ""  # why there was no chain at first
    routes: list[tuple[float, tuple[RouteStep, ...]]] = field(default_factory=list)
    hops: tuple[RouteStep, ...] = ()
    receipts: tuple[str, ...] = ()
    verified: "Outcome | None" = None  # what a second run found

    def view(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "model": self.model,
            "endpoint": self.endpoint,
            "began_ms": self.began_ms,
            "status": self.status,
            "prompt_tokens": self.n_prompt,
            "tokens": self.n_tokens,
            "routed_ms": _round(self.routed_ms),
            "first_token_ms": _round(self.first_ms),
            "last_token_ms": _round(self.last_ms),
            "cached_tokens": self.n_cached,
            "failovers": max(0, len(self.routes) - 1),
            "handovers": self.n_handovers,
            "pauses_ms": [round(ms, 1) for ms in self.pauses_ms],
            "waited_for": self.waited_for,
            "cost_ncr": self.cost_ncr,
            "hops": [{**hop.to_json(), "run_ms": _round(hop.run_ms)} for hop in self.hops],
            "routes": [
                {"at_ms": round(at_ms, 1), "hops": [hop.to_json() for hop in hops]}
                for at_ms, hops in self.routes
            ],
            "receipts": list(self.receipts),
            "verification": None
            if self.verified is None
            else {"state": self.verified.state, "why": self.verified.why},
        }


class Traffic:
    """Of one gateway, for as long as it runs."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._buckets: deque[Bucket] = deque(maxlen=N_BUCKETS)
        self._kept: deque[Trace] = deque(maxlen=N_KEPT)
        self.n_running = 0

    def watch(
        self, id: str, model: str, endpoint: str, requests: Sequence[GenerationRequest]
    ) -> "TrafficWatch":
        """An observer of the answers to one HTTP request."""
        return TrafficWatch(self, id, model, endpoint, requests)

    def begin(self, id: str, model: str, endpoint: str, n_prompt: int) -> Trace:
        """An answer begins; tell what happens to it with `hear`, and its end with `end`."""
        trace = Trace(id, model, endpoint, wall_ms(), self._clock_s(), n_prompt)
        self._kept.append(trace)
        self.n_running += 1
        self._bucket().n_requests += 1
        return trace

    def hear(self, trace: Trace, event: Event) -> None:
        now_ms = (self._clock_s() - trace.began_s) * 1000
        match event:
            case Routed(route):
                trace.hops = route
                if len(trace.routes) < MAX_ROUTES:
                    trace.routes.append((now_ms, route))
                if trace.routed_ms is None:
                    trace.routed_ms = now_ms
            case Token():
                if trace.first_ms is None:
                    trace.first_ms = now_ms
                    self._bucket().ttft_ms.append(now_ms)
                trace.last_ms = now_ms
                trace.n_tokens += 1
                self._bucket().n_tokens += 1
            case Waiting(reason):
                trace.waited_for = str(reason)
            case Finished(result):
                trace.hops, trace.receipts = result.route, result.receipts
                trace.n_cached, trace.n_handovers = result.n_cached, result.handovers
                trace.pauses_ms, trace.cost_ncr = result.pauses_ms[:MAX_ROUTES], result.cost_ncr

    def end(self, trace: Trace, status: str) -> None:
        """status: the finish reason, or an error's code."""
        if trace.status == "running":
            self.n_running -= 1
            trace.status = status
            self._bucket().endings[status] += 1
            self._bucket().cost_ncr += trace.cost_ncr
            if status not in ("stop", "length", "tool_calls", "cancelled"):
                self._bucket().n_failed += 1

    def decided(self, target: str, reason: str) -> None:
        """A request for manyhands/auto has whom answers it, in the operator's own words."""
        self._bucket().decisions[target, reason] += 1

    def recent(self) -> list[dict[str, Any]]:
        """The last answers, the newest first."""
        return [trace.view() for trace in reversed(self._kept)]

    def summary(self) -> dict[str, Any]:
        """The last hour in numbers, and tokens per second in steps of ten seconds."""
        now = self._bucket().number
        past = [each for each in self._buckets if each.number > now - N_BUCKETS]
        ttft_ms = sorted(ms for each in past for ms in each.ttft_ms)
        by_number = {each.number: each for each in past}
        series = [
            round(by_number[n].n_tokens / BUCKET_S, 1) if n in by_number else 0
            for n in range(now - N_BUCKETS + 1, now + 1)
        ]
        return {
            "running": self.n_running,
            "requests": sum(each.n_requests for each in past),
            "failed": sum(each.n_failed for each in past),
            "tokens": sum(each.n_tokens for each in past),
            "cost_ncr": sum(each.cost_ncr for each in past),
            "endings": dict(sum((each.endings for each in past), Counter())),
            "decisions": [
                {"target": target, "reason": reason, "n": n}
                for (target, reason), n in sum(
                    (each.decisions for each in past), Counter[tuple[str, str]]()
                ).most_common()
            ],
            "tokens_per_s": max(series[-2:]),
            "ttft_p50_ms": _quantile(ttft_ms, 0.5),
            "ttft_p95_ms": _quantile(ttft_ms, 0.95),
            "step_s": BUCKET_S,
            "tokens_per_s_by_step": series,
        }

    def _bucket(self) -> Bucket:
        number = int(self._clock_s() // BUCKET_S)
        if not self._buckets or self._buckets[-1].number != number:
            self._buckets.append(Bucket(number))
        return self._buckets[-1]


class TrafficWatch(Observer):
    """A trace for each of a request's choices."""

    def __init__(
        self,
        traffic: Traffic,
        id: str,
        model: str,
        endpoint: str,
        requests: Sequence[GenerationRequest],
    ) -> None:
        self._traffic, self._id, self._model, self._endpoint = traffic, id, model, endpoint
        self._requests = requests
        self._traces: list[Trace] = []

    def began(self, n_choices: int) -> None:
        ids = [self._id, *(f"{self._id}.{index}" for index in range(1, n_choices))]
        self._traces = [
            self._traffic.begin(id, self._model, self._endpoint, len(request.prompt_ids))
            for id, request in zip(ids, self._requests, strict=True)
        ]

    def hear(self, index: int, event: Event) -> None:
        self._traffic.hear(self._traces[index], event)

    def ended(self, index: int, reason: str, code: str) -> None:
        self._traffic.end(self._traces[index], code or reason)

    def verified(self, index: int, outcome: "Outcome") -> None:
        self._traces[index].verified = outcome


def _round(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 1)


def _quantile(ordered: list[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else None
