"""The rules we measure against do in small what their sources do: cases worked by hand."""

import random
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.identity import PeerId
from protocol.messages import Span
from scheduler.simulator.parallax import pipelines, water_fill
from scheduler.simulator.petals import (
    NO_ROOM_S,
    OVERHEAD_S,
    Candidate,
    Server,
    best_start,
    block_speeds,
    cheapest_chain,
    should_move,
)


def test_petals_takes_the_run_whose_weakest_block_is_weakest_and_then_the_next_weakest():
    speeds = np.array([3.0, 1.0, 2.0, 1.0, 0.0, 5.0])

    # Sorted runs of two: 1 3 | 1 2 | 1 2 | 0 1 | 0 5. The one with 0 1 is the smallest.
    assert best_start(speeds, 2) == 3
    # Without the 0: 1 3 | 1 2 | 1 2 | 1 4 | 4 5: two are equal, the first one is taken.
    assert best_start(np.array([3.0, 1.0, 2.0, 1.0, 4.0, 5.0]), 2) == 1


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(1, 9))
def test_petals_choice_is_the_least_of_all_sorted_runs(speeds, length):
    length = min(length, len(speeds))
    runs = [(sorted(speeds[i : i + length]), i) for i in range(len(speeds) - length + 1)]

    assert best_start(np.array(speeds, float), length) == min(runs)[1]


def servers(*spans: tuple[int, int, float]) -> dict[PeerId, Server]:
    return {PeerId(str(i)): Server(Span(a, b), speed) for i, (a, b, speed) in enumerate(spans)}


def test_petals_moves_when_the_weakest_block_would_gain_a_third():
    # Blocks 0:2 have 3, blocks 2:4 have 1. If one of the three came over: 2 and 2. 1 / 2 < 0.75.
    crowded = servers((0, 2, 1.0), (0, 2, 1.0), (0, 2, 1.0), (2, 4, 1.0))
    # 2 and 1; if one came over, 1 and 2: nothing gained.
    balanced = servers((0, 2, 1.0), (0, 2, 1.0), (2, 4, 1.0))

    assert block_speeds(list(crowded.values()), 4).tolist() == [3, 3, 1, 1]
    assert should_move(crowded, PeerId("0"), 4, random.Random(1))
    assert not should_move(balanced, PeerId("0"), 4, random.Random(1))
    assert not should_move(crowded, PeerId("3"), 4, random.Random(1))  # the last host of 2:4


def test_petals_does_not_move_for_less_than_a_third():
    # 4 + 1 over 0:2 against 4 over 2:4. The 1 coming over makes 4 and 5: nothing for the weakest.
    swarm = servers((0, 2, 4.0), (0, 2, 1.0), (2, 4, 4.0))

    assert not should_move(swarm, PeerId("1"), 4, random.Random(1))


def test_petals_route_goes_to_the_end_of_a_span_and_shuns_who_has_no_room():
    hop_s = np.full((3, 3), 0.05)
    ends_s = np.full(3, 0.02)
    near = Candidate(Span(0, 4), 0.001, OVERHEAD_S)
    rest = Candidate(Span(4, 8), 0.001, OVERHEAD_S)
    slow = Candidate(Span(0, 8), 0.02, OVERHEAD_S)

    # Two servers: 2 x 18 ms + 8 ms + 50 ms + 2 x 20 ms = 134 ms. The slow one: 18 + 160 + 40 = 218,
    # and from its middle on, after the near one: 2 x 18 + 4 + 50 + 80 + 40 = 210.
    chain = cheapest_chain([near, rest, slow], Span(0, 8), hop_s, ends_s, ends_s)
    full = rest._replace(enter_s=OVERHEAD_S + NO_ROOM_S)
    without = cheapest_chain([near, full, slow], Span(0, 8), hop_s, ends_s, ends_s)

    assert chain == [(0, Span(0, 4)), (1, Span(4, 8))]
    assert without == [(0, Span(0, 4)), (2, Span(4, 8))]
    assert cheapest_chain([near], Span(0, 8), hop_s[:1, :1], ends_s[:1], ends_s[:1]) is None


def test_petals_enters_in_the_middle_but_never_leaves_there():
    hop_s = np.zeros((2, 2))
    ends_s = np.zeros(2)
    slow_all = Candidate(Span(0, 6), 0.1, 0.0)
    fast_end = Candidate(Span(3, 8), 0.001, 0.0)

    # Leaving the slow one at 3 would be faster; its span ends at 6, and so does its part.
    chain = cheapest_chain([slow_all, fast_end], Span(0, 8), hop_s, ends_s, ends_s)

    assert chain == [(0, Span(0, 6)), (1, Span(6, 8))]


def test_parallax_weighs_pipelines_against_stages():
    # 8 blocks. One pipeline: 8 alone, 1 / 1 = 1. Two: 8, and 4 + 4: 4 / 3. Three would need 24.
    assert pipelines([4, 8, 4, 2], 8) == [[1], [0, 2]]
    # One of 6 + 2: 1 / 2. Two need all four: 6 + 2 and 4 + 4: 4 / 4. Two it is.
    assert sorted(map(sorted, pipelines([6, 4, 4, 2], 8))) == [[0, 3], [1, 2]]
    assert pipelines([3, 4], 8) == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_parallax_finds_the_best_of_all_ways_to_make_pipelines(sizes):
    n_blocks = 6
    best = 0.0
    for assigned in product(range(len(sizes) + 1), repeat=len(sizes)):
        groups = [[i for i, g in enumerate(assigned) if g == k] for k in set(assigned) if k > 0]
        if groups and all(sum(sizes[i] for i in group) >= n_blocks for group in groups):
            best = max(best, len(groups) ** 2 / sum(map(len, groups)))

    found = pipelines(sizes, n_blocks)

    assert all(sum(sizes[i] for i in pipeline) >= n_blocks for pipeline in found)
    value = len(found) ** 2 / sum(map(len, found)) if found else 0.0
    assert value == pytest.approx(best)


def test_parallax_fills_in_proportion_to_speed_as_far_as_memory_goes():
    # Level 2: 6 + 2 + ... in proportion 3 : 1 they would be 6 and 2.
    assert water_fill([8, 8], [3.0, 1.0], 8) == [6, 2]
    # The fast one holds 4 only; the rest goes to the slow one.
    assert water_fill([4, 8], [3.0, 1.0], 8) == [4, 4]
    # 8 / 3 each: two whole blocks, and the two left over to the largest remainders, first first.
    assert water_fill([8, 8, 8], [1.0, 1.0, 1.0], 8) == [3, 3, 2]


@given(
    st.lists(st.tuples(st.integers(1, 9), st.floats(0.1, 10)), min_size=1, max_size=6),
    st.floats(0.1, 1.0),
)
def test_parallax_filling_covers_the_model_and_overfills_nobody(peers, share):
    capacities, speeds = [c for c, _ in peers], [f for _, f in peers]
    n_blocks = max(1, int(sum(capacities) * share))

    blocks = water_fill(capacities, speeds, n_blocks)

    assert sum(blocks) == n_blocks
    assert all(0 <= b <= c for b, c in zip(blocks, capacities, strict=True))
