"""A placement for all nodes at once: what a coordinator would choose who knew everybody beforehand.

In: what each node can hold and run. Out: a span each. It is the mark that nodes are measured
against who join one by one without a coordinator (`placement.py`), and of use where one hand starts
them all. Greedy in several orders, then local search: one node elsewhere, two nodes elsewhere.
Finding the best is NP-hard; `tests/exact.py` does it for small swarms.
"""

import random
from collections.abc import Sequence
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

from protocol.errors import UsageError
from protocol.messages import Span
from scheduler.board import Board, Member, Trial, Values

MAX_TRIALS = 4096  # weighed at once
SINGLE_TRIALS = 8_000  # moves of one node: those with most idle speed come first
PAIR_TRIALS = 4_000
MAX_STEPS = 4  # per node
ABOVE = 1.5  # times the flow: speed that is idle even at this demand can go elsewhere
ORDERS = 6
EFFORT = 500_000  # bounds how many orders are tried: about nodes squared times blocks squared


class Capacity(NamedTuple):
    """What one node brings."""

    blocks: int
    blocks_per_s: float


def plan_swarm(capacities: Sequence[Capacity], n_blocks: int, *, seed: int = 0) -> tuple[Span, ...]:
    """Spans, in the order of `capacities`: as many blocks covered as can be, then the most flow.

    Raises:
        UsageError: a node that holds no block, or a model that has none.
    """
    if n_blocks < 1 or any(capacity.blocks < 1 for capacity in capacities):
        raise UsageError("a node that serves can hold a block, and a model has one")
    plans = _Plans(capacities, n_blocks)
    rng = random.Random(seed)
    best: list[Member] = []
    for order in _orders(capacities, n_blocks, rng):
        found = plans.improved(plans.greedy(order))
        if not best or plans.is_better(found, best):
            best = found
    return tuple(member.span for member in best)


class _Plans:
    def __init__(self, capacities: Sequence[Capacity], n_blocks: int) -> None:
        self._lengths = [min(capacity.blocks, n_blocks) for capacity in capacities]
        self._speeds = [capacity.blocks_per_s for capacity in capacities]
        self._n_blocks = n_blocks
        self._length = max(1, sum(self._lengths) // max(1, len(capacities)))

    def greedy(self, order: Sequence[int]) -> list[Member]:
        """One after another, each where it does most."""
        board, placed = Board.of((), self._n_blocks), {}
        for i in order:
            trials = [Trial((), (member,)) for member in self._places(i)]
            best = trials[int(self._weigh(board, trials).order()[0])]
            board, placed[i] = board.after(best), best.plus[0]
        return [placed[i] for i in range(len(order))]

    def improved(self, members: list[Member]) -> list[Member]:
        """By moves of one node, and where none helps of two, until none helps."""
        for _ in range(MAX_STEPS * len(members)):
            board = Board.of(members, self._n_blocks)
            step = self._best_step(board, members, 1) or self._best_step(board, members, 2)
            if step is None:
                break
            members = [step.get(i, member) for i, member in enumerate(members)]
        return members

    def is_better(self, one: Sequence[Member], other: Sequence[Member]) -> bool:
        trials = [Trial((), tuple(other)), Trial((), tuple(one))]
        return int(self._weigh(Board.of((), self._n_blocks), trials).order()[0]) == 1

    def _best_step(self, board: Board, members: Sequence[Member], n_moved: int) -> "_Step | None":
        best: _Step | None = None
        steps = self._steps(board, members, n_moved)
        for first in range(0, len(steps), MAX_TRIALS):
            candidates = [best or {}, *steps[first : first + MAX_TRIALS]]
            trials = [
                Trial(tuple(members[i] for i in step), tuple(step.values())) for step in candidates
            ]
            values = self._weigh(board, trials)
            winner = int(values.order()[0])
            if values.is_clearly_better(winner, 0):
                best = candidates[winner]
        return best

    def _steps(self, board: Board, members: Sequence[Member], n_moved: int) -> "list[_Step]":
        idle = board.idle(members, ABOVE)
        movable = [int(i) for i in np.argsort(-idle, kind="stable") if idle[i] > 0]
        places = {i: [place for place in self._places(i) if place != members[i]] for i in movable}
        limit = PAIR_TRIALS if n_moved > 1 else SINGLE_TRIALS
        steps: list[_Step] = []
        for moved in combinations(movable, n_moved):
            if len(steps) > limit:
                break
            steps += [
                dict(zip(moved, chosen, strict=True))
                for chosen in product(*(places[i] for i in moved))
            ]
        return steps

    def _places(self, i: int) -> list[Member]:
        length = self._lengths[i]
        return [
            Member(Span(start, start + length), self._speeds[i])
            for start in range(self._n_blocks - length + 1)
        ]

    def _weigh(self, board: Board, trials: Sequence[Trial]) -> Values:
        return board.weigh(trials, length=self._length)


_Step = dict[int, Member]


def _orders(capacities: Sequence[Capacity], n_blocks: int, rng: random.Random) -> list[list[int]]:
    """Large before small, fast before slow, and by lot: fewer for larger swarms."""
    everybody = list(range(len(capacities)))
    by_size = sorted(everybody, key=lambda i: (-capacities[i].blocks, -capacities[i].blocks_per_s))
    by_speed = sorted(everybody, key=lambda i: -capacities[i].blocks_per_s)
    n_random = min(ORDERS, EFFORT // max(1, len(capacities) ** 2 * n_blocks**2))
    return [by_size, by_speed, *(rng.sample(everybody, len(everybody)) for _ in range(n_random))]


def water_level(capacities: Sequence[Capacity], n_blocks: int) -> float:
    """Tokens per second that no placement exceeds: the largest t for which
    sum(min(blocks_per_s, blocks * t)) is n_blocks * t, found by bisection.
    """
    low, high = 0.0, sum(capacity.blocks_per_s for capacity in capacities) / n_blocks
    blocks = np.array([min(capacity.blocks, n_blocks) for capacity in capacities])
    speeds = np.array([capacity.blocks_per_s for capacity in capacities])
    for _ in range(40):
        t = (low + high) / 2
        if np.minimum(speeds, blocks * t).sum() >= n_blocks * t * (1 - 1e-9):
            low = t
        else:
            high = t
    return high
