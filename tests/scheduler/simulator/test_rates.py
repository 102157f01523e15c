"""A visit to a node that others share: the formula beside a simulation row by row."""

import random
from heapq import heappop, heappush

import numpy as np
import pytest

from scheduler.simulator.rates import Load, Rates

SHARE, ALONE_S = 0.12, 1.0


def load(away_s, nodes=(0, 1)):
    """A ring of a shared node and one of its own, or of the shared node alone."""
    n = len(nodes)
    return Load(
        nodes=np.array(nodes),
        alone_s=np.array([ALONE_S, 1e-9][:n]),
        weight=np.full(n, SHARE),
        carry_s=np.zeros(n),
        between_s=away_s,
        is_stream=False,
    )


def row_by_row(n_sessions, away_s, *, n_steps=4000, seed=1):
    """The mean visit to a node that runs all waiting rows at once, one step after the other."""
    rng = random.Random(seed)
    coming = [(rng.uniform(0, away_s + ALONE_S), i) for i in range(n_sessions)]
    coming.sort()
    now_s, visits = 0.0, []
    for _ in range(n_steps):
        now_s = max(now_s, coming[0][0])
        step = []
        while coming and coming[0][0] <= now_s:
            step.append(heappop(coming))
        now_s += ALONE_S * (1 + SHARE * (len(step) - 1))
        for came_s, i in step:
            visits.append(now_s - came_s)
            heappush(coming, (now_s + max(0.0, rng.gauss(away_s, 0.3 * away_s)), i))
    late = visits[len(visits) // 4 :]
    return sum(late) / len(late)


@pytest.mark.parametrize("away", [4.0, 9.0, 19.0])
@pytest.mark.parametrize("n", [2, 5, 12, 20])
def test_a_visit_takes_what_it_takes_row_by_row(n, away):
    rings = [load(away, (0, i + 1)) for i in range(n)]

    per_row = Rates(n + 1).solve(rings, range(n))

    assert np.ptp(per_row) < 1e-3
    assert per_row[0] - away == pytest.approx(row_by_row(n, away), rel=0.12)


def test_sessions_of_one_node_alone_stay_in_one_batch():
    per_row = Rates(1).solve([load(0.0, (0,)) for _ in range(8)], range(8))

    assert per_row == pytest.approx(ALONE_S * (1 + 7 * SHARE), rel=1e-3)


def test_one_more_is_said_to_take_about_what_it_takes():
    rates, rings = Rates(11), [load(9.0, (0, i + 1)) for i in range(10)]
    rates.solve(rings[:9], range(9))

    said = rates.estimate(rings[9])

    assert said == pytest.approx(Rates(11).solve(rings, range(10))[9], rel=0.05)
