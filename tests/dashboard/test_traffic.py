"""What a gateway remembers of its answers."""

from typing import Any

from manyhands.dashboard.traffic import BUCKET_S, N_BUCKETS, N_KEPT, Traffic
from protocol.messages import Span
from scheduler.request import Finished, GenerationResult, Routed, RouteStep, Token, Waiting

HOPS = (RouteStep("a", Span(0, 4), 2.0), RouteStep("b", Span(4, 8), 3.0))


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_an_answer_is_told_by_its_moments() -> None:
    clock = Clock()
    traffic = Traffic(clock)
    trace = traffic.begin("r1", "tiny", "chat", 5)
    for wait_s, event in ((0.1, Routed(HOPS)), (0.2, Token(0, 7, "a")), (0.05, Token(1, 8, "b"))):
        clock.now_s += wait_s
        traffic.hear(trace, event)
    assert traffic.summary()["running"] == 1
    traffic.end(trace, "stop")
    view = traffic.recent()[0]
    assert (view["routed_ms"], view["first_token_ms"], view["last_token_ms"]) == (100, 300, 350)
    assert (view["tokens"], view["failovers"], view["status"]) == (2, 0, "stop")
    assert [hop["span"] for hop in view["hops"]] == [[0, 4], [4, 8]]
    summary = traffic.summary()
    assert (summary["running"], summary["requests"], summary["failed"]) == (0, 1, 0)
    assert (summary["tokens"], summary["ttft_p50_ms"]) == (2, 300)
    assert summary["tokens_per_s_by_step"][-1] == 2 / BUCKET_S


def test_routes_after_the_first_are_failovers_and_errors_are_failures() -> None:
    traffic = Traffic(Clock())
    trace = traffic.begin("r1", "tiny", "chat", 5)
    traffic.hear(trace, Routed(HOPS))
    traffic.hear(trace, Routed(HOPS))
    traffic.end(trace, "peer_failed")
    traffic.end(trace, "stop")  # an end is an end
    assert traffic.recent()[0]["failovers"] == 1
    assert (traffic.summary()["failed"], traffic.recent()[0]["status"]) == (1, "peer_failed")


def test_an_hour_is_remembered_and_no_more() -> None:
    clock = Clock()
    traffic = Traffic(clock)
    for n in range(N_KEPT + 5):
        traffic.end(traffic.begin(f"r{n}", "tiny", "chat", 1), "stop")
    assert len(traffic.recent()) == N_KEPT
    assert traffic.summary()["requests"] == N_KEPT + 5
    clock.now_s += BUCKET_S * N_BUCKETS
    assert traffic.summary()["requests"] == 0
    assert len(traffic.summary()["tokens_per_s_by_step"]) == N_BUCKETS


def test_what_became_of_a_chain_and_what_it_cost_is_kept() -> None:
    clock = Clock()
    traffic = Traffic(clock)
    trace = traffic.begin("r1", "tiny", "chat", 5)
    traffic.hear(trace, Waiting("nobody serves blocks 0:4", "swarm_incomplete"))
    traffic.hear(trace, Routed(HOPS))
    clock.now_s += 0.5
    traffic.hear(trace, Routed((HOPS[0], RouteStep("c", Span(4, 8), 3.0))))
    traffic.hear(trace, Finished(result(cost_ncr=700, n_cached=3, pauses_ms=(40.0,))))
    traffic.end(trace, "stop")

    [view] = traffic.recent()
    assert [each["at_ms"] for each in view["routes"]] == [0, 500]
    assert view["routes"][1]["hops"][1] == {"peer": "c", "span": [4, 8]}
    assert (view["failovers"], view["pauses_ms"], view["cached_tokens"]) == (1, [40.0], 3)
    assert view["waited_for"] == "nobody serves blocks 0:4"
    summary = traffic.summary()
    assert (summary["cost_ncr"], summary["endings"]) == (700, {"stop": 1})


def result(**changes: Any) -> GenerationResult:
    told = {
        "text": "",
        "token_ids": (),
        "finish_reason": "stop",
        "n_prompt": 5,
        "ttft_ms": 1.0,
        "tpot_ms": 1.0,
        "total_ms": 1.0,
        "route": HOPS,
        "failovers": 0,
        "receipts": (),
        "seed": 0,
    }
    return GenerationResult(**(told | changes))


def test_who_answered_is_counted_by_rule_and_forgotten_after_an_hour() -> None:
    now_s = [0.0]
    traffic = Traffic(lambda: now_s[0])
    for target, reason in (("swarm", "default"), ("big", "proofs"), ("swarm", "default")):
        traffic.decided(target, reason)
        now_s[0] += 60

    told = traffic.summary()["decisions"]
    now_s[0] += 3600

    assert told == [
        {"target": "swarm", "reason": "default", "n": 2},
        {"target": "big", "reason": "proofs", "n": 1},
    ]
    assert traffic.summary()["decisions"] == []
