"""How fast sessions run that share nodes: the fixed point of who waits for whom.

In: for every session that runs, its visits: node, time alone, weight. Out: seconds per row of each
session. A node runs one step after the other, each of all rows that wait when it begins. So a row
that comes while a step runs waits for its end, and then shares the next step with those that came
meanwhile:

    visit = step + busy * (half of the step that runs), step = alone * (1 + share * busy * others)

where `busy` is the chance that some other session's step runs when the row comes, and `others` how
many steps of others run or wait in the mean, as if each session's were spread evenly over its way
round the ring: Schweitzer's approximate mean value analysis (1979; Bard 1979) with the batcher as
the station, within a tenth of a simulation row by row (`tests/scheduler/simulator/test_rates.py`).
A session whose ring is one node waits for nothing: the batcher keeps those in one batch. A prompt's
rows weigh 1 for as long as they are there, since they fill the node by themselves.
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
MOST_THERE = 0.999


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
        self._nodes = _Stations.idle_ones(n_nodes)

    def queue(self, node: int) -> tuple[float, float]:
        """Seconds that a row waits at present before its step begins, and how many times longer
        that step takes because prompts run, less one."""
        return float(self._nodes.wait_s[node]), float(self._nodes.prompts[node])

    def estimate(self, load: Load) -> float:
        """Seconds per row for one session more, while the others stay as they are."""
        now, nodes = self._nodes, load.nodes
        longer = 1 + now.prompts[nodes]
        if load.is_stream:
            visit = load.alone_s * (longer + now.decodes[nodes])
            return float(np.max(np.maximum(visit, load.carry_s)))
        visit = load.alone_s * (longer + now.busy[nodes] * now.decodes[nodes])
        if len(nodes) > 1:
            visit = visit + now.wait_s[nodes]
        return load.between_s + float(visit.sum())

    def solve(self, loads: Sequence[Load], keys: Sequence[int]) -> Floats:
        """[session] seconds per row. `keys` name the sessions from one call to the next."""
        if not loads:
            self._there, self._nodes = {}, _Stations.idle_ones(self._n_nodes)
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
        streams, waits = is_stream[session], (sizes > 1)[session] & ~is_stream[session]
        there = np.concatenate(
            [self._guess(key, load) for key, load in zip(keys, loads, strict=True)]
        )  # the share of its time that a session's step runs there
        per_row, step = np.zeros(len(loads)), alone
        for _ in range(MAX_ROUNDS):
            now = _Stations.of(self._n_nodes, nodes, np.where(streams, 0.0, there), step, weight)
            prompts = _sum(self._n_nodes, nodes, np.where(streams, there, 0.0))
            decodes = now.decodes[nodes] - np.where(streams, 0.0, weight * there)
            busy = 1 - now.idle[nodes] / np.where(streams, 1.0, 1 - np.minimum(there, MOST_THERE))
            others = np.where(waits, busy, 1.0) * decodes
            step = alone * (1 + prompts[nodes] - np.where(streams, there, 0.0) + others)
            visit = step + np.where(waits, busy * now.half_s[nodes], 0.0)
            in_turn = between + np.add.reduceat(visit, starts)
            at_once = np.maximum.reduceat(np.maximum(visit, carry), starts)
            new_per_row = np.where(is_stream, at_once, in_turn)
            there = there + DAMPING * (step / new_per_row[session] - there)
            change = float(np.max(np.abs(new_per_row - per_row) / new_per_row))
            per_row = new_per_row
            if change < self._precision:
                break
        now = _Stations.of(self._n_nodes, nodes, np.where(streams, 0.0, there), step, weight)
        prompts = _sum(self._n_nodes, nodes, np.where(streams, there, 0.0))
        self._nodes = replace(now, prompts=prompts)
        self._there = {
            key: there[start : start + size]
            for key, start, size in zip(keys, starts, sizes, strict=True)
        }
        return per_row

    def _guess(self, key: int, load: Load) -> Floats:
        known = self._there.get(key)
        if known is not None and len(known) == len(load.nodes):
            return known
        return load.alone_s / max(float(load.alone_s.sum()) + load.between_s, 1e-12)


@dataclass(frozen=True, slots=True, eq=False)
class _Stations:
    """All nodes, by what their sessions' steps are."""

    idle: Floats  # the chance that no decode's step runs
    decodes: Floats  # by how much a step is longer that all of these share
    half_s: Floats  # of the step that runs, if one does
    prompts: Floats  # by how much everything takes longer, since prompts run

    @classmethod
    def of(cls, n: int, nodes: Ints, there: Floats, step: Floats, weight: Floats) -> Self:
        """there: the share of its time that each visit's step runs; 0 of a prompt."""
        runs = _sum(n, nodes, there)
        idle = np.exp(_sum(n, nodes, np.log1p(-np.minimum(there, MOST_THERE))))
        half_s = _sum(n, nodes, there * step) / np.maximum(runs, 1e-12) / 2
        return cls(idle, _sum(n, nodes, weight * there), half_s, np.zeros(n))

    @classmethod
    def idle_ones(cls, n: int) -> Self:
        return cls(np.ones(n), np.zeros(n), np.zeros(n), np.zeros(n))

    @property
    def busy(self) -> Floats:
        return 1 - self.idle

    @property
    def wait_s(self) -> Floats:
        return self.busy * self.half_s


def _sum(n: int, nodes: Ints, values: Floats) -> Floats:
    return np.bincount(nodes, values, minlength=n).astype(np.float64)
