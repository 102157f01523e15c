"""How fast sessions run that share nodes: the fixed point of who waits for whom.

In: for every session that runs, its visits: node, part of its span, time alone, weight. Out:
seconds per row of each session. A node runs one step after the other, each of all rows that wait
when it begins and whose parts overlap; parts without a block in common take turns
(`node/schedule.py`). A step runs each block once, for those of its rows that come through it. So a
row that comes while a step runs waits for its end, and for some of the parts that take turns with
its own, and then shares the next step with those that came meanwhile:

    wait = busy * (half of the step that runs) + the steps of other parts that go first
    step = sum over its blocks of block * (1 + share * (rows - 1))

where `busy` is the chance that some other session's step runs when the row comes, a part that
waits goes first with the chance `GOES_FIRST`, more where it is one session's, and twice the share
of its time that a session waits is the chance that it shares my step: who comes within my wait, and
in whose wait I come. Each session is spread evenly over its way round the ring: that is
Schweitzer's approximate mean value analysis (1979; Bard 1979) with the batcher as the station,
within a sixth of a simulation row by row (`tests/scheduler/simulator/test_rates.py`). A session
whose ring is one node waits for nothing: the batcher keeps those in one batch. Prompts share
what decodes leave them: they make a step up to `SLOWDOWN` times longer than the decodes would need,
`MENDING_SLOWDOWN` times where rows of a broken chain are run again.
"""

import math
from collections.abc import Sequence

import numpy as np

from scheduler.simulator.stations import Floats, Load, Stations, Visits, sum_by

MAX_ROUNDS = 60
DAMPING = 0.5
SEEN_S = 10.0  # what nodes say of waits is a mean of so long
FEW_ROWS = 1e-3  # a second: what was seen of so few is forgotten


class Rates:
    """Seconds per row for a set of loads; remembers where it was to be quick the next time."""

    def __init__(self, n_nodes: int, precision: float = 1e-6) -> None:
        """precision: relative, of what is answered."""
        self._n_nodes, self._precision = n_nodes, precision
        self._known: dict[int, tuple[Floats, Floats]] = {}  # by session: runs, waits
        self._seen = np.zeros((3, n_nodes))  # rows a second, and by them what they waited, shared
        self._now = Stations.idle_ones(n_nodes)

    def waited_s(self, node: int) -> float:
        """How long rows waited there lately before their step began, in the mean."""
        rows, waited, _ = self._seen[:, node]
        return float(waited / max(rows, FEW_ROWS))

    def shared_s(self, node: int) -> float:
        """How much longer their steps took than alone."""
        rows, _, shared = self._seen[:, node]
        return float(shared / max(rows, FEW_ROWS))

    def share_of_time(self, key: int, load: Load, node: int) -> float:
        """How much of its time a session's rows run at a node: all of it where it is held up."""
        runs, _ = self._known.get(key, (np.zeros(0), None))
        at = load.nodes == node
        return float(runs[at].max(initial=0.0)) if len(runs) == len(at) else 0.0

    def estimate(self, load: Load) -> float:
        """Seconds per row for one session more, while the others stay as they are."""
        now, nodes = self._now, load.nodes
        if load.is_stream:
            visit = load.alone_s * (1 + now.prompts[nodes]) / now.left[nodes]
            return float(np.max(np.maximum(visit, load.carry_s)))
        rows, waited, shared = self._seen[:, nodes]
        visit = load.alone_s * (1 + now.slower[nodes]) + shared / np.maximum(rows, FEW_ROWS)
        if len(nodes) > 1:
            visit = visit + waited / np.maximum(rows, FEW_ROWS)
        return load.between_s + float(visit.sum())

    def solve(
        self, loads: Sequence[Load], keys: Sequence[int], *, elapsed_s: float = math.inf
    ) -> Floats:
        """[session] seconds per row.

        Args:
            keys: names of the sessions, from one call to the next.
            elapsed_s: since that call.
        """
        if not loads:
            self._known, self._now = {}, Stations.idle_ones(self._n_nodes)
            self._seen *= 1 - min(1.0, elapsed_s / SEEN_S)
            return np.zeros(0)
        visits = Visits.of(loads)
        starts, session, streams = visits.starts, visits.session, visits.streams
        known = [self._guess(key, load) for key, load in zip(keys, loads, strict=True)]
        runs, waits = (np.concatenate(column) for column in zip(*known, strict=True))
        per_row, step = np.zeros(len(loads)), visits.alone
        for _ in range(MAX_ROUNDS):
            now = Stations.of(self._n_nodes, visits, runs, waits, step)
            wait, step = now.waits_s(visits, runs), now.steps_s(visits, runs, waits)
            visit = step + wait
            in_turn = visits.between + np.add.reduceat(visit, starts)
            at_once = np.maximum.reduceat(np.maximum(visit, visits.carry), starts)
            new_per_row = np.where(visits.is_stream, at_once, in_turn)
            runs = runs + DAMPING * (step / new_per_row[session] - runs)
            waits = waits + DAMPING * (wait / new_per_row[session] - waits)
            change = float(np.max(np.abs(new_per_row - per_row) / new_per_row))
            per_row = new_per_row
            if change < self._precision:
                break
        rows = np.where(streams, 0.0, 1 / per_row[session])
        self._see(visits, rows, wait, step - visits.alone, elapsed_s)
        self._now = Stations.of(self._n_nodes, visits, runs, waits, step)
        self._known = {
            key: (runs[start:stop], waits[start:stop])
            for key, start, stop in zip(keys, starts, [*starts[1:], len(runs)], strict=True)
        }
        return per_row

    def _see(
        self, visits: Visits, rows: Floats, wait_s: Floats, shared_s: Floats, elapsed_s: float
    ) -> None:
        """What nodes will say of what their rows waited and shared: means over seconds."""
        newest = min(1.0, elapsed_s / SEEN_S)
        now = [
            sum_by(self._n_nodes, visits.nodes, rows * value) for value in (1.0, wait_s, shared_s)
        ]
        self._seen += newest * (np.array(now) - self._seen)

    def _guess(self, key: int, load: Load) -> tuple[Floats, Floats]:
        known = self._known.get(key)
        if known is not None and len(known[0]) == len(load.nodes):
            return known
        runs = load.alone_s / max(float(load.alone_s.sum()) + load.between_s, 1e-12)
        return runs, np.zeros(len(runs))
