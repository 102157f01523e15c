"""How fast sessions run that share nodes: the fixed point of who waits for whom.

In: for every session that runs, its visits: node, time alone, weight. Out: seconds per row of each
session. A visit is stretched by whoever else is likely to be there at the same moment:

    visit = alone * (1 + sum over others of weight * the share of their time that they are there)

That is Schweitzer's approximate mean value analysis (1979; Bard 1979) with the batcher's cost
curve as the station: a decode weighs `share`, since a further row of a step costs that much of the
first, and a prompt's rows weigh 1, since they fill the node by themselves. With n decodes on one
node it gives the curve exactly: 1 + share * (n - 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

MAX_ROUNDS = 60
DAMPING = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """What one session asks of the nodes it visits, per row.

    One visit after the other (a decode: its next row exists when the last hop has drawn it), or
    all at once (a prompt: its rows are in all hops at the same time, the slowest one decides).
    """

    nodes: Ints
    alone_s: Floats
    weight: Floats
    carry_s: Floats  # what the row takes on the link after each hop when links are the limit
    between_s: float  # spent on no node, per row: latencies round the ring
    is_stream: bool  # all at once

    def carried(self, row_s: float) -> Self:
        """The same rows, brought by a link instead of computed."""
        return replace(self, alone_s=self.alone_s * 1e-6, carry_s=np.full(len(self.nodes), row_s))

    def __post_init__(self) -> None:
        assert len(self.nodes) == len(self.alone_s) == len(self.weight) == len(self.carry_s) > 0


class Rates:
    """Seconds per row for a set of loads; remembers where it was to be quick the next time."""

    def __init__(self, n_nodes: int, precision: float = 1e-6) -> None:
        """precision: relative, of what is answered."""
        self._n_nodes, self._precision = n_nodes, precision
        self._there: dict[int, Floats] = {}
        self._pressure: Floats = np.zeros(n_nodes)  # on each node: how much longer a visit takes
        self._prompts: Floats = np.zeros(n_nodes)  # the part of it that prompts make

    def pressure(self, node: int) -> tuple[float, float]:
        """By how much everything on a node takes longer at present, and what prompts are of it."""
        return float(self._pressure[node]), float(self._prompts[node])

    def estimate(self, load: Load) -> float:
        """Seconds per row for one session more, while the others stay as they are."""
        visit = load.alone_s * (1 + self._pressure[load.nodes])
        if load.is_stream:
            return float(np.max(np.maximum(visit, load.carry_s)))
        return load.between_s + float(visit.sum())

    def solve(self, loads: Sequence[Load], keys: Sequence[int]) -> Floats:
        """[session] seconds per row. `keys` name the sessions from one call to the next."""
        if not loads:
            self._there = {}
            self._pressure, self._prompts = np.zeros(self._n_nodes), np.zeros(self._n_nodes)
            return np.zeros(0)
        sizes = np.array([len(load.nodes) for load in loads])
        starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        session = np.repeat(np.arange(len(loads)), sizes)
        nodes = np.concatenate([load.nodes for load in loads])
        alone = np.concatenate([load.alone_s for load in loads])
        weight = np.concatenate([load.weight for load in loads])
        carry = np.concatenate([load.carry_s for load in loads])
        between = np.array([load.between_s for load in loads])
        is_stream = np.array([load.is_stream for load in loads])
        there = np.concatenate(
            [self._guess(key, load) for key, load in zip(keys, loads, strict=True)]
        )
        per_row = np.zeros(len(loads))
        for _ in range(MAX_ROUNDS):
            pressure = self._sum(nodes, weight * there)
            visit = alone * (1 + pressure[nodes] - weight * there)
            in_turn = between + np.add.reduceat(visit, starts)
            at_once = np.maximum.reduceat(np.maximum(visit, carry), starts)
            new_per_row = np.where(is_stream, at_once, in_turn)
            there += DAMPING * (visit / new_per_row[session] - there)
            change = float(np.max(np.abs(new_per_row - per_row) / new_per_row))
            per_row = new_per_row
            if change < self._precision:
                break
        self._pressure = self._sum(nodes, weight * there)
        self._prompts = self._sum(nodes, weight * there * is_stream[session])
        self._there = {
            key: there[start : start + size]
            for key, start, size in zip(keys, starts, sizes, strict=True)
        }
        return per_row

    def _sum(self, nodes: Ints, values: Floats) -> Floats:
        return np.bincount(nodes, values, minlength=self._n_nodes).astype(np.float64)

    def _guess(self, key: int, load: Load) -> Floats:
        known = self._there.get(key)
        if known is not None and len(known) == len(load.nodes):
            return known
        return load.alone_s / max(float(load.alone_s.sum()) + load.between_s, 1e-12)
