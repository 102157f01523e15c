"""Exact answers for small swarms: by linear and integer programming (HiGHS, through scipy), and by
trying everything.
"""

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import numpy as np
from scipy.optimize import LinearConstraint, linprog, milp
from scipy.sparse import lil_matrix

from protocol.messages import Span
from scheduler.flow import Changes, Host, Swarm

SLACK = 1 - 1e-9
MOST_PLACEMENTS = 300_000


def exact_flow(hosts: Sequence[Host], n_blocks: int) -> float:
    """The largest t for which hosts can share out t runs of every block; a plain linear program."""
    runs = [(i, k) for i, (span, _) in enumerate(hosts) for k in range(span.start, span.stop)]
    time = np.zeros((len(hosts), len(runs) + 1))
    blocks = np.zeros((n_blocks, len(runs) + 1))
    blocks[:, -1] = -1.0
    for column, (i, k) in enumerate(runs):
        time[i, column] = 1.0
        blocks[k, column] = 1.0
    goal = np.zeros(len(runs) + 1)
    goal[-1] = -1.0
    speeds = [blocks_per_s for _, blocks_per_s in hosts]
    found = linprog(
        goal,
        A_ub=time if hosts else None,
        b_ub=speeds if hosts else None,
        A_eq=blocks,
        b_eq=np.zeros(n_blocks),
        method="highs",
    )
    assert found.status == 0, found.message
    return float(-found.fun)


def exact_placement(
    capacities: Sequence[tuple[int, float]], n_blocks: int, *, time_limit_s: float = 30.0
) -> tuple[float, tuple[Span, ...]]:
    """The best flow of all placements, and spans that have it.

    Where the solver runs out of time the flow is its bound, which no placement exceeds, and the
    spans are the best it found.

    Args:
        capacities: of each node, how many blocks it can hold and how many it runs per second.
    """
    choices = [
        (i, start, min(blocks, n_blocks))
        for i, (blocks, _) in enumerate(capacities)
        for start in range(n_blocks - min(blocks, n_blocks) + 1)
    ]
    n, n_choices = len(capacities), len(choices)
    most = water_level(capacities, n_blocks)
    flow_at = {(i, k): n_choices + i * n_blocks + k for i in range(n) for k in range(n_blocks)}
    n_columns = n_choices + n * n_blocks + 1
    rows = lil_matrix((n + n + n_blocks + n * n_blocks, n_columns))
    lower, upper = np.full(rows.shape[0], -np.inf), np.zeros(rows.shape[0])
    for column, (i, start, length) in enumerate(choices):
        rows[i, column] = 1.0  # one span each
        for k in range(start, start + length):
            rows[2 * n + n_blocks + i * n_blocks + k, column] = -min(capacities[i][1], most)
    upper[:n] = 1.0
    for (i, k), column in flow_at.items():
        rows[n + i, column] = 1.0  # its time
        rows[2 * n + k, column] = -1.0  # every block as often as the tokens
        rows[2 * n + n_blocks + i * n_blocks + k, column] = 1.0  # only what it holds
        upper[n + i] = capacities[i][1]
    rows[2 * n : 2 * n + n_blocks, n_columns - 1] = 1.0
    goal = np.zeros(n_columns)
    goal[-1] = -1.0
    integer = np.concatenate((np.ones(n_choices), np.zeros(n_columns - n_choices)))
    bounds_above = np.concatenate((np.ones(n_choices), np.full(n_columns - n_choices, most)))
    found = milp(
        goal,
        integrality=integer,
        bounds=(np.zeros(n_columns), bounds_above),
        constraints=LinearConstraint(rows.tocsr(), lower, upper),
        options={"time_limit": time_limit_s, "mip_rel_gap": 1e-3},
    )
    assert found.x is not None, found.message
    spans: dict[int, Span] = {}
    for column, (i, start, length) in enumerate(choices):
        if found.x[column] > 0.5:
            spans[i] = Span(start, start + length)
    return float(-found.mip_dual_bound), tuple(spans.get(i, Span(0, 1)) for i in range(n))


class Reached(NamedTuple):
    """The best of all placements that moves lead to."""

    tokens_per_s: float
    n_moves: int  # the fewest
    spans: tuple[Span, ...]
    n_placements: int
    is_all: bool  # else there were too many to look at


def best_by_moves(
    hosts: Sequence[Host], n_blocks: int, *, in_place: bool = False, most: int = MOST_PLACEMENTS
) -> Reached:
    """Of every order of moves, one host after the other, in which each block always has a host.

    Nobody gains by serving fewer blocks than before: who could leave a part of a span could leave
    all of it.

    Args:
        in_place: whether a host serves on, while it moves, what it will still hold; as nodes are
            built it serves nothing meanwhile.
    """
    first = tuple(host.span for host in hosts)
    moves, order = {first: 0}, [first]
    for spans in order:
        for after in _one_moved(spans, n_blocks, in_place):
            if after not in moves and len(order) < most:
                moves[after] = moves[spans] + 1
                order.append(after)
    borders = np.array([[(span.start, span.stop) for span in spans] for spans in order])
    speeds = np.broadcast_to([host.blocks_per_s for host in hosts], borders.shape[:2])
    swarm = Swarm.of((), n_blocks)
    flows = np.concatenate(
        [
            swarm.flows(Changes(part[..., 0], part[..., 1], speeds[: len(part)]))
            for part in np.array_split(borders, 1 + len(order) // 4096)
        ]
    )
    best = int(flows.argmax())
    spans = order[best]
    return Reached(float(flows[best]), moves[spans], spans, len(order), len(order) < most)


def _one_moved(
    spans: tuple[Span, ...], n_blocks: int, in_place: bool
) -> Iterator[tuple[Span, ...]]:
    held = [set(range(span.start, span.stop)) for span in spans]
    for i, span in enumerate(spans):
        alone = held[i].difference(*held[:i], *held[i + 1 :])
        if alone and not in_place:
            continue
        for start in range(n_blocks - len(span) + 1):
            place = Span(start, start + len(span))
            if place != span and all(place.start <= block < place.stop for block in alone):
                yield (*spans[:i], place, *spans[i + 1 :])


def water_level(capacities: Sequence[tuple[int, float]], n_blocks: int) -> float:
    """No placement makes more: the largest t with sum(min(speed, blocks * t)) >= n_blocks * t."""
    low, high = 0.0, sum(speed for _, speed in capacities) / n_blocks
    for _ in range(60):
        t = (low + high) / 2
        is_enough = (
            sum(min(speed, blocks * t) for blocks, speed in capacities) >= n_blocks * t * SLACK
        )
        low, high = (t, high) if is_enough else (low, t)
    return high


def random_capacities(rng: Random) -> tuple[int, list[tuple[int, float]]]:
    """The blocks of a model, and nodes that can just hold it, or hold it several times over."""
    while True:
        n_blocks = rng.randint(4, 16)
        most = max(1, n_blocks // rng.choice((1, 2, 3)))
        spread = rng.choice((0.3, 1.0))
        capacities = [
            (rng.randint(1, most), 500 * rng.lognormvariate(0, spread))
            for _ in range(rng.randint(2, 10))
        ]
        if sum(blocks for blocks, _ in capacities) >= n_blocks:
            return n_blocks, capacities
