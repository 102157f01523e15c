"""What operators graph: counts and times of answers, and how many hosts the blocks have.

In: events of answers, as they are told. Out: `GET /metrics` in Prometheus' text format. Names end
as vLLM's do, so that dashboards translate one to one; times are taken where the caller's request
arrives. Labels hold names of our models alone, never what a caller or a peer wrote.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response

from ledger.verdicts import MATCH, MISMATCH, UNOPENED
from manyhands import __version__
from manyhands.dashboard.round_trips import RoundTrips
from manyhands.dashboard.routes import Panel
from manyhands.gateway.answers import Observer
from manyhands.gateway.deciding import Decision
from manyhands.gateway.faults import CODES
from manyhands.gateway.gateway import Gateway
from manyhands.gateway.readiness import Look, Readiness
from manyhands.gateway.second_runs import STATES, Outcome
from manyhands.gateway.upstream import Used
from protocol.errors import ManyhandsError
from protocol.transport import PROTOCOL_VERSION
from scheduler.peer_record import GIVEN_UP
from scheduler.request import Event, Finished, GenerationResult, Routed, Token

router = APIRouter()

FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0),
)
BETWEEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0)
LOSSES = ("lost", "left")  # of hops
ANSWER_S = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metrics:
    """Of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"manyhands_{name}", about, labels, registry=registry)

        def gauge(name: str, about: str, *labels: str) -> Gauge:
            return Gauge(f"manyhands_{name}", about, labels, registry=registry)

        def histogram(name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(
                f"manyhands_{name}_seconds", about, labels, buckets=buckets, registry=registry
            )

        self.first_token = histogram(
            "time_to_first_token", "From the request to its first token.", FIRST_TOKEN_S, "model"
        )
        self.between = histogram(
            "inter_token_latency", "Between two tokens of an answer.", BETWEEN_S, "model"
        )
        self.whole = histogram(
            "e2e_request_latency", "Of a whole answer.", ANSWER_S, "model", "endpoint"
        )
        self.queued = histogram(
            "request_queue_time",
            "Until a chain stood that took the answer.",
            FIRST_TOKEN_S,
            "model",
        )
        self.prefill = histogram(
            "request_prefill_time", "From there to the first token.", FIRST_TOKEN_S, "model"
        )
        self.decode = histogram(
            "request_decode_time", "From the first token to the last one.", ANSWER_S, "model"
        )
        self.hop_step = histogram(
            "hop_step", "The last step of each hop of an answer, as it told.", BETWEEN_S, "model"
        )
        self.waiting = gauge("requests_waiting", "Answers without a first token yet.", "model")
        self.responses = counter("http_responses", "Of the gateway, refusals too.", "status")
        self.ledger = gauge(
            "ledger_balance_ncr", "Earned less spent, by the ledgers of this home.", "role"
        )
        self.credits = counter(
            "ledger_credits_ncr", "Earned, or spent, by the ledgers of this home.", "direction"
        )
        self.kv_free = gauge(
            "kv_free_bytes", "Of the block's hosts together, at the block with least.", "model"
        )
        self.prompt = counter(
            "prompt_tokens", "Tokens of prompts that were answered.", "model", "role"
        )
        self.generated = counter("generation_tokens", "Tokens generated.", "model", "role")
        self.requests = counter(
            "requests", "Answers, by how they ended.", "model", "finish_reason", "code"
        )
        self.running = gauge("requests_running", "Answers that are being made.", "model")
        self.prefix_asked = counter(
            "prefix_cache_queries", "Prompt tokens that might have been kept.", "model"
        )
        self.prefix_hits = counter("prefix_cache_hits", "Those that peers still had.", "model")
        self.failovers = counter(
            "failovers", "Hops that others took over in the middle of an answer.", "reason"
        )
        self.retries = counter(
            "hop_retries", "Hops that were given up, and somebody else asked.", "reason"
        )
        self.misbehaved = counter(
            "peer_misbehaved", "Work of peers that did not hold, answers that went on included."
        )
        self.second_runs = counter(
            "second_runs", "Answers that were run again, by what that found.", "model", "state"
        )
        self.second_runs_due = gauge(
            "second_runs_due", "Complete answers that wait to be run again, or are.", "state"
        )
        self.verification_failures = counter(
            "verification_failures",
            "Windows of work that a second run does not bear out.",
            "reason",
        )
        self.decisions = counter(
            "route_decisions", "Requests for manyhands/auto, by who answered.", "tier", "reason"
        )
        self.replicas = gauge("layer_replicas", "Hosts of a block.", "model", "layer")
        self.least = gauge("coverage_min_replicas", "Hosts of the block with fewest.", "model")
        self.ready = gauge("swarm_ready", "1 while the model can answer.", "model")
        self.peers = gauge("peers", "Peers that announce a model of this gateway.", "state", "path")
        self.info = gauge("build_info", "Always 1.", "version", "protocol")
        self.info.labels(__version__, str(PROTOCOL_VERSION)).set(1)
        self.round_trips = RoundTrips(registry)
        self.hop_latency = self.round_trips.seconds
        self._n_misbehaved = 0  # as last heard
        self._gave_up: Mapping[str, int] = {}
        self._credits_ncr: Mapping[str, int] = {}

    def expect(self, models: Iterable[str]) -> None:
        """Begin at 0 what alerts look at: Prometheus sees no increase in what was never less."""
        for reason in LOSSES:
            self.failovers.labels(reason)
        for reason in GIVEN_UP:
            self.retries.labels(reason)
        for result in (MISMATCH, UNOPENED):
            self.verification_failures.labels(result)
        for model in models:
            for code in set(CODES.values()):
                self.requests.labels(model, "error", code)
            for state in STATES:
                self.second_runs.labels(model, state)

    def watch(self, model: str, endpoint: str) -> "Watch":
        return Watch(self, model, endpoint)

    def answered(self, status: int) -> None:
        self.responses.labels(str(status)).inc()

    def decided(self, decision: Decision) -> None:
        self.decisions.labels(decision.tier, decision.reason).inc()

    def relayed(self, model: str, used: Used) -> None:
        """An upstream's answer is over."""
        self.prompt.labels(model, "upstream").inc(used.n_prompt)
        self.generated.labels(model, "upstream").inc(used.n_answer)

    def judged(self, n_misbehaved: int, gave_up: Mapping[str, int]) -> None:
        """So often work of peers did not hold, since the client began, and who was given up."""
        self.misbehaved.inc(max(0, n_misbehaved - self._n_misbehaved))
        self._n_misbehaved = n_misbehaved
        for reason, n_times in gave_up.items():
            self.retries.labels(reason).inc(max(0, n_times - self._gave_up.get(reason, 0)))
        self._gave_up = dict(gave_up)

    def booked(self, sums: Mapping[str, tuple[int, int]]) -> None:
        """What the ledgers hold, by role: earned and spent."""
        for role, (earned, spent) in sums.items():
            self.ledger.labels(role).set(earned - spent)
        totals = {
            "earned": sum(earned for earned, _ in sums.values()),
            "spent": sum(spent for _, spent in sums.values()),
        }
        for direction, ncr in totals.items():
            known = self._credits_ncr.get(direction, 0)
            self.credits.labels(direction).inc(max(0, ncr - known))
        self._credits_ncr = totals

    def cover(self, look: Look, reasons: Mapping[str, str]) -> None:
        """What the swarm looks like now."""
        for gauge in (self.replicas, self.least, self.ready, self.peers, self.kv_free):
            gauge.clear()
        for model, free_bytes in look.kv_free.items():
            self.kv_free.labels(model).set(free_bytes)
        for (state, path), n_peers in look.peers.items():
            self.peers.labels(state, path).set(n_peers)
        for model, counts in look.hosts.items():
            self.least.labels(model).set(min(counts, default=0))
            for layer, n_hosts in enumerate(counts):
                self.replicas.labels(model, str(layer)).set(n_hosts)
        for model, reason in reasons.items():
            self.ready.labels(model).set(not reason)


class Watch(Observer):
    """Of the answers to one HTTP request."""

    def __init__(self, metrics: Metrics, model: str, endpoint: str) -> None:
        self._metrics, self._model, self._endpoint = metrics, model, endpoint
        self._began_s = time.monotonic()
        self._last_s: dict[int, float] = {}
        self._first_s: dict[int, float] = {}
        self._routed_s: dict[int, float] = {}

    def began(self, n_choices: int) -> None:
        self._metrics.running.labels(self._model).inc(n_choices)
        self._metrics.waiting.labels(self._model).inc(n_choices)

    def hear(self, index: int, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, Token):
            if (last := self._last_s.get(index)) is None:
                self._first(index, now)
            else:
                self._metrics.between.labels(self._model).observe(now - last)
            self._last_s[index] = now
        elif isinstance(event, Routed) and index not in self._routed_s:
            self._routed_s[index] = now
            self._metrics.queued.labels(self._model).observe(now - self._began_s)
        elif isinstance(event, Finished):
            self._finished(event.result)

    def _first(self, index: int, now: float) -> None:
        self._first_s[index] = now
        self._metrics.waiting.labels(self._model).dec()
        self._metrics.first_token.labels(self._model).observe(now - self._began_s)
        if (routed_s := self._routed_s.get(index)) is not None:
            self._metrics.prefill.labels(self._model).observe(now - routed_s)

    def _finished(self, result: GenerationResult) -> None:
        metrics, model = self._metrics, self._model
        metrics.prompt.labels(model, "client").inc(result.n_prompt)
        metrics.generated.labels(model, "client").inc(len(result.token_ids))
        metrics.prefix_asked.labels(model).inc(result.n_prompt)
        metrics.prefix_hits.labels(model).inc(result.n_cached)
        for reason, n_hops in zip(LOSSES, (result.failovers, result.handovers), strict=True):
            metrics.failovers.labels(reason).inc(n_hops)
        for step in result.route:
            if step.run_ms:
                metrics.hop_step.labels(model).observe(step.run_ms / 1000)
        elapsed_s = time.monotonic() - self._began_s
        metrics.whole.labels(model, self._endpoint).observe(elapsed_s)

    def ended(self, index: int, reason: str, code: str) -> None:
        self._metrics.running.labels(self._model).dec()
        if (first_s := self._first_s.get(index)) is None:
            self._metrics.waiting.labels(self._model).dec()
        elif not code:
            decoded_s = self._last_s[index] - first_s
            self._metrics.decode.labels(self._model).observe(decoded_s)
        self._metrics.requests.labels(self._model, reason, code).inc()

    def verified(self, index: int, outcome: Outcome) -> None:
        if not outcome.is_over:
            return
        self._metrics.second_runs.labels(self._model, outcome.state).inc()
        for result in outcome.results:
            if result != MATCH:
                self._metrics.verification_failures.labels(result).inc()


@router.get("/metrics")
async def show(request: Request) -> Response:
    """For Prometheus."""
    metrics: Metrics = request.app.state.metrics
    readiness: Readiness = request.app.state.readiness
    reasons = await readiness.reasons()
    metrics.cover(await readiness.look(), reasons)
    gateway: Gateway = request.app.state.gateway
    if (runs := gateway.second_runs) is not None:
        metrics.second_runs_due.labels("waiting").set(runs.n_waiting)
        metrics.second_runs_due.labels("running").set(runs.n_running)
    if (client := gateway.client) is not None:
        metrics.judged(client.records.n_misbehaved, client.records.gave_up)
        client.hear_round_trips(metrics.round_trips.saw)
    panel: Panel = request.app.state.panel
    if (books := panel.books) is not None:
        with suppress(ManyhandsError):  # what it was not before is `ledger verify`'s to tell
            async with panel.reading:
                metrics.booked(await asyncio.to_thread(books.sums_ncr))
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)
