"""Placements for all nodes at once, and by nodes alone, beside the exact optimum."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import UsageError
from protocol.messages import Span
from scheduler.flow import Host, max_flow
from scheduler.joint import Capacity, plan_swarm, water_level
from tests.exact import exact_placement, random_capacities

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
