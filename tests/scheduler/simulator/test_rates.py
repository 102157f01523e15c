"""A visit to a node that others share: the formula beside a simulation row by row."""

import random
from collections import Counter
from dataclasses import replace
from heapq import heappop, heappush
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from scheduler.simulator.rates import Rates
from scheduler.simulator.stations import (
    MENDING_SLOWDOWN,
    PART_BITS,
    SLOWDOWN,
    Load,
    Parts,
    part_key,
)

SHARE, ALONE_S = 0.12, 1.0


def load(away_s, nodes=(0, 1), part=(0, 1)):
    """A ring of a shared node and one of its own, or of the shared node alone."""
    n = len(nodes)
    return Load(
        nodes=np.array(nodes),
        parts=np.array([part_key(*part), part_key(0, 1)][:n]),
        alone_s=np.array([ALONE_S * (part[1] - part[0]), 1e-9][:n]),
        weight=np.full(n, SHARE),
        carry_s=np.zeros(n),
        between_s=away_s,
        is_stream=False,
    )


def row_by_row(parts, away_s, *, n_steps=4000, seed=1):
    """The mean visit of each part's rows, one part per session: a node runs all that wait and
    overlap with the part that ran longest ago at once, each block once, one step after the other.
    """
    rng = random.Random(seed)
    coming = sorted((rng.uniform(0, away_s + ALONE_S), i) for i in range(len(parts)))
    waiting = {part: [] for part in parts}
    ran, visits = dict.fromkeys(parts, -1), {part: [] for part in parts}
    now_s = 0.0
    for n in range(n_steps):
        if not any(waiting.values()):
            now_s = max(now_s, coming[0][0])
        while coming and coming[0][0] <= now_s:
            came_s, i = heappop(coming)
            waiting[parts[i]].append((came_s, i))
        first = min((part for part in parts if waiting[part]), key=ran.__getitem__)
        rows, step = Counter(), []
        for part in waiting:
            if part[0] < first[1] and first[0] < part[1] and waiting[part]:
                step += [(part, *row) for row in waiting[part]]
                rows.update(list(range(*part)) * len(waiting[part]))
                waiting[part], ran[part] = [], n
        now_s += sum(ALONE_S * (1 + SHARE * (count - 1)) for count in rows.values())
        for part, came_s, i in step:
            if n > n_steps // 4:
                visits[part].append(now_s - came_s)
            heappush(coming, (now_s + max(0.0, rng.gauss(away_s, 0.3 * away_s)), i))
    return {part: fmean(all_s) for part, all_s in visits.items()}


def by_formula(parts, away_s):
    rings = [load(away_s, (0, i + 1), part) for i, part in enumerate(parts)]
    visits = Rates(len(parts) + 1).solve(rings, range(len(parts))) - away_s
    return {
        part: fmean(v for v, own in zip(visits, parts, strict=True) if own == part)
        for part in parts
    }


def mean_of(visits, parts):
    return fmean(visits[part] for part in parts)


@pytest.mark.parametrize("away", [4.0, 9.0, 19.0])
@pytest.mark.parametrize("n", [2, 5, 12, 20])
def test_a_visit_takes_what_it_takes_row_by_row(n, away):
    parts = [(0, 1)] * n

    assert by_formula(parts, away)[0, 1] == pytest.approx(row_by_row(parts, away)[0, 1], rel=0.12)


SHARED = {
    "half of it each": [(0, 1)] * 4 + [(1, 2)] * 4,
    "everybody another part": [(0, n + 1) for n in range(6)],
    "some run all, some a part": [(0, 4)] * 3 + [(0, 2)] * 3 + [(2, 4)] * 3 + [(1, 4)] * 3,
    "a short part beside a long one": [(0, 1)] * 5 + [(1, 5)] * 5,
    "as routes cut a span": [(0, 10), (3, 10), (0, 7)] * 3 + [(3, 7), (5, 10)] * 2,
}


@pytest.mark.parametrize("away", [4.0, 10.0, 20.0])
@pytest.mark.parametrize("parts", SHARED.values(), ids=SHARED)
def test_parts_of_a_span_take_turns_as_they_do_row_by_row(parts, away):
    away_s = away * fmean(stop - start for start, stop in parts)

    said, seen = by_formula(parts, away_s), row_by_row(parts, away_s)

    assert mean_of(said, parts) == pytest.approx(mean_of(seen, parts), rel=0.08)
    for part in parts:
        assert said[part] == pytest.approx(seen[part], rel=0.2)


def test_rows_for_two_parts_wait_longer_than_rows_for_one():
    together, apart = [(0, 2)] * 12, [(0, 2)] * 6 + [(2, 4)] * 6

    for visits in (by_formula, row_by_row):
        assert mean_of(visits(apart, 10.0), apart) > 1.1 * mean_of(visits(together, 10.0), together)


@pytest.mark.parametrize(("slowdown", "longer"), [(SLOWDOWN, 1.8), (MENDING_SLOWDOWN, 4.0)])
def test_prompts_slow_decodes_down_as_far_as_a_node_lets_them(slowdown, longer):
    prompt = replace(load(0.0, (0,)), is_stream=True, slowdown=slowdown)

    decode = Rates(2).solve([load(9.0), prompt, prompt, prompt], range(4))[0]

    assert decode - 9.0 == pytest.approx(longer * ALONE_S, rel=1e-3)


def test_sessions_of_one_node_alone_stay_in_one_batch():
    per_row = Rates(1).solve([load(0.0, (0,)) for _ in range(8)], range(8))

    assert per_row == pytest.approx(ALONE_S * (1 + 7 * SHARE), rel=1e-3)


def test_one_more_is_said_to_take_about_what_it_takes():
    rates, rings = Rates(11), [load(9.0, (0, i + 1)) for i in range(10)]
    rates.solve(rings[:9], range(9))

    said = rates.estimate(rings[9])

    assert said == pytest.approx(Rates(11).solve(rings, range(10))[9], rel=0.05)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(1, 5)), min_size=1, unique=True
    )
)
def test_pairs_of_parts_are_those_of_one_node_and_no_others(drawn):
    drawn = sorted((node, part_key(start, start + n)) for node, start, n in drawn)
    nodes, keys = (np.array(column) for column in zip(*drawn, strict=True))
    starts, stops = keys >> PART_BITS, keys & (1 << PART_BITS) - 1

    parts = Parts.of(nodes, keys)

    same = nodes[:, None] == nodes[None, :]
    common = np.minimum.outer(stops, stops) - np.maximum.outer(starts, starts)
    overlap, apart = same & (common > 0), same & (common <= 0)
    assert_array_equal(parts.meets, np.nonzero(overlap))
    assert_array_equal(parts.apart, np.nonzero(apart))
    both = overlap[parts.apart[0]] & overlap[parts.apart[1]]
    assert_array_equal(parts.between, np.nonzero(both))
