"""Placements for all nodes at once, and by nodes alone, beside the exact optimum."""

import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import UsageError
from protocol.messages import Span
from scheduler.flow import Host, max_flow
from scheduler.joint import Capacity, plan_swarm, water_level
from tests.exact import best_by_moves, exact_placement, random_capacities

CAPACITIES = st.lists(
    st.builds(Capacity, st.integers(1, 6), st.floats(1, 1e4)), min_size=1, max_size=6
)


def flow_of(spans: tuple[Span, ...], capacities: list[Capacity], n_blocks: int) -> float:
    hosts = [Host(span, one.blocks_per_s) for span, one in zip(spans, capacities, strict=True)]
    return max_flow(hosts, n_blocks)


@pytest.mark.parametrize("seed", [0, 2, 3, 7, 8, 9])
def test_a_joint_plan_comes_near_to_the_exact_optimum(seed):
    n_blocks, drawn = random_capacities(random.Random(seed))
    capacities = [Capacity(*one) for one in drawn]

    best, exact = exact_placement(drawn, n_blocks, time_limit_s=3.0)

    planned = flow_of(plan_swarm(capacities, n_blocks), capacities, n_blocks)
    assert planned >= 0.9 * best
    assert flow_of(exact, capacities, n_blocks) <= best * (1 + 1e-6)
    assert best <= water_level(capacities, n_blocks) * (1 + 1e-6)


@settings(max_examples=15, deadline=None)
@given(CAPACITIES, st.integers(1, 10))
def test_a_plan_gives_everybody_a_span_it_can_hold_and_no_more_flow_than_there_is(
    capacities, n_blocks
):
    spans = plan_swarm(capacities, n_blocks)

    lengths = [min(capacity.blocks, n_blocks) for capacity in capacities]
    assert [len(span) for span in spans] == lengths
    assert all(span.stop <= n_blocks for span in spans)
    assert flow_of(spans, capacities, n_blocks) <= water_level(capacities, n_blocks) * (1 + 1e-6)
    if sum(lengths) >= n_blocks + max(lengths) * len(lengths):
        assert flow_of(spans, capacities, n_blocks) > 0


def test_a_plan_is_the_same_every_time():
    capacities = [Capacity(2 + n % 3, 100.0 + 17 * n) for n in range(8)]

    assert plan_swarm(capacities, 10) == plan_swarm(capacities, 10)


def test_nodes_that_hold_nothing_are_refused():
    with pytest.raises(UsageError, match="can hold a block"):
        plan_swarm([Capacity(0, 1.0)], 4)


def test_the_water_level_knows_that_a_fast_node_without_room_helps_only_its_blocks():
    assert water_level([Capacity(4, 4.0), Capacity(4, 4.0)], 8) == pytest.approx(1.0)
    assert water_level([Capacity(1, 900.0), Capacity(4, 3.0)], 4) == pytest.approx(1.0)
    assert water_level([Capacity(2, 900.0)], 4) == pytest.approx(0.0, abs=1e-6)


STUCK = [  # where joining one by one and moving ended, of case 120 of benchmarks/placement.py
    Host(Span(0, 2), 469.0),
    Host(Span(2, 6), 547.0),
    Host(Span(7, 9), 411.0),
    Host(Span(9, 12), 552.0),
    Host(Span(5, 9), 892.0),
]


def test_who_can_just_hold_a_model_is_stuck_while_whoever_moves_serves_nothing():
    best, _ = exact_placement([(len(span), speed) for span, speed in STUCK], 12, time_limit_s=3.0)

    away = best_by_moves(STUCK, 12)
    in_place = best_by_moves(STUCK, 12, in_place=True)

    assert 0.75 * best < max_flow(STUCK, 12) <= away.tokens_per_s < 0.8 * best
    assert in_place.tokens_per_s >= 0.999 * best
    assert in_place.n_moves == 3


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(1, 1e3)), min_size=1, max_size=2))
def test_no_order_of_moves_does_better_than_the_best_of_all_placements(drawn):
    hosts = [Host(Span(start, start + 2), speed) for start, speed in drawn]
    hosts += [Host(Span(0, 3), 50.0), Host(Span(3, 5), 70.0)]

    away, in_place = (best_by_moves(hosts, 5, in_place=each) for each in (False, True))

    best = max(
        max_flow([Host(s, h.blocks_per_s) for s, h in zip(spans, hosts, strict=True)], 5)
        for spans in product(
            *([Span(i, i + len(h.span)) for i in range(6 - len(h.span))] for h in hosts)
        )
    )
    assert max_flow(hosts, 5) <= away.tokens_per_s <= in_place.tokens_per_s <= best * (1 + 1e-9)
    assert {block for span in away.spans for block in range(span.start, span.stop)} == set(range(5))
