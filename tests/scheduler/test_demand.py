"""Nodes that could serve several models spread over them by demand."""

from typing import Any

import pytest

from protocol.announcements import Announcement
from protocol.errors import PeerMisbehaved
from protocol.measured import Measured, State
from scheduler.demand import Candidate, choose_model
from scheduler.lifetime import leaves_soon
from scheduler.moves import TURN_S
from tests.announcing import NOW_MS, announce, peer_of

A, B, C = (bytes([letter]) * 32 for letter in b"ABC")
BOTH = [Candidate(A, 8, 8), Candidate(B, 8, 8)]
FLOW = 1000 / 8  # tokens per second of one host of everything, at 1 ms a block


def host(n: int, model: bytes, span: tuple[int, int] = (0, 8), **measured: Any) -> Announcement:
    return announce(n, span, manifest=model, measured=Measured(**measured))


def chosen(swarm: list[Announcement], candidates: list[Candidate] = BOTH, n: int = 90, **more: Any):
    return choose_model(swarm, candidates, peer_id=peer_of(n), **more).manifest


def test_a_node_strengthens_the_model_that_is_asked_for_most():
    swarm = [host(1, A, rows_per_s=120), host(2, B, rows_per_s=110), host(3, B)]

    assert {chosen(swarm, n=n) for n in range(20, 30)} == {A}


def test_rows_that_wait_are_demand_too():
    swarm = [host(1, A, rows_per_s=70), host(2, B, rows_per_s=60, queue_us=30_000_000)]

    assert {chosen(swarm, n=n) for n in range(20, 30)} == {B}


def test_a_node_completes_a_model_before_it_strengthens_another():
    swarm = [host(1, A, rows_per_s=999), host(2, B, (0, 4))]

    assert chosen(swarm, [Candidate(A, 8, 8), Candidate(B, 8, 4)]) == B


def test_a_model_nobody_else_serves_waits_while_another_is_overloaded():
    assert chosen([host(1, A, rows_per_s=999)]) == A
    assert chosen([host(1, A, rows_per_s=1)]) == B


def test_newcomers_finish_one_model_before_they_begin_the_next():
    quarter = [Candidate(model, 8, 2) for model in (A, B, C)]

    for n in range(20, 30):
        swarm = [host(1, B, (0, 2))]
        for k in range(2):
            assert chosen(swarm, quarter, n=n + 100 * k) == B
            swarm.append(host(n + 100 * k, B, (2 + 2 * k, 4 + 2 * k)))


def test_without_demand_nodes_spread_over_models():
    taken: list[Announcement] = []
    for n in range(20, 30):
        taken.append(host(n, chosen(taken, n=n)))

    assert sum(one.manifest == A for one in taken) == 5


def test_one_host_at_a_time_changes_over_to_a_model_that_is_overloaded():
    swarm = [host(n, A, rows_per_s=1) for n in range(1, 5)] + [host(9, B, rows_per_s=999)]

    def who(turn: int, swarm: list[Announcement]) -> list[int]:
        now_ms = NOW_MS + 1000 * TURN_S * turn
        return [n for n in range(1, 5) if chosen(swarm, n=n, now_serving=A, now_ms=now_ms) == B]

    assert all(len(who(turn, swarm)) == 1 for turn in range(6))
    assert len({who(turn, swarm)[0] for turn in range(20)}) > 1
    assert not any(who(t, [*swarm, host(6, A, state=State.MOVING)]) for t in range(6))


def test_nobody_leaves_a_model_that_needs_it():
    alone = [host(1, A), host(9, B, rows_per_s=999)]
    busy = [*(host(n, A, rows_per_s=120) for n in (1, 2)), host(9, B, rows_per_s=260)]
    slightly = [*(host(n, A, rows_per_s=60) for n in (1, 2, 3)), host(9, B, rows_per_s=120)]

    for swarm in (alone, busy, slightly):
        for turn in range(8):
            now_ms = NOW_MS + 1000 * TURN_S * turn
            assert chosen(swarm, n=1, now_serving=A, now_ms=now_ms) == A


def test_a_choice_needs_models_with_blocks_that_fit():
    with pytest.raises(ValueError, match="at least one model"):
        chosen([], [])
    with pytest.raises(ValueError, match="it can serve"):
        chosen([], now_serving=C)
    with pytest.raises(PeerMisbehaved, match="can hold a block"):
        Candidate(A, 8, 0)


def test_the_longer_a_peer_is_there_the_less_likely_it_leaves():
    chances = [leaves_soon(age_s) for age_s in (-5, 0, 60, 3600, 86_400, 1e9)]

    assert chances[0] == chances[1]
    assert chances[1:] == sorted(chances[1:], reverse=True)
    assert chances[1] == pytest.approx(0.335, abs=0.001)  # ten minutes, Weibull 0.5 of an hour
    assert 0 < chances[-1] < 1e-3
