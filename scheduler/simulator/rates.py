"""How fast sessions run that share nodes: the fixed point of who waits for whom.

In: for every session that runs, its visits: node, part of its span, time alone, weight. Out:
seconds per row of each session. A node runs one step after the other, each of all rows that wait
for the same part of its span when it begins; rows for other parts take turns (`node/schedule.py`).
So a row that comes while a step runs waits for its end, and for some of the parts that wait too,
and then shares the next step of its part with those that came meanwhile:

    wait = busy * (half of the step that runs) + the steps of parts that go first
    step = alone * (1 + share * 2 * others)

where `busy` is the chance that some other session's step runs when the row comes, a part that
waits goes first with the chance `GOES_FIRST`, more where it is one session's, and `others` is how
many of the part wait in the mean, each spread evenly over its way round the ring: who comes within
my wait, and in whose wait I come, shares my step. That is Schweitzer's approximate mean value
analysis (1979; Bard 1979) with the batcher as the station, within a sixth of a simulation row by
row (`tests/scheduler/simulator/test_rates.py`). A session whose ring is one node waits for nothing:
the batcher keeps those in one batch. A prompt's rows weigh 1 for as long as they are there, since
they fill the node by themselves.
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
GOES_FIRST = 0.6  # the chance of a part that waits when a row comes, if many sessions use the part
PARTS = 1 << 40  # keys of parts are below


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """What one session asks of the nodes it visits, per row.

    One visit after the other (a decode: its next row exists when the last hop has drawn it), or
    all at once (a prompt: its rows are in all hops at the same time, the slowest one decides).
    """

    nodes: Ints
    parts: Ints  # of each node's span, a number for each
    alone_s: Floats
    weight: Floats
    carry_s: Floats  # what the row takes on the link after each hop when links are the limit
    between_s: float  # spent on no node, per row: latencies round the ring
    is_stream: bool  # all at once

    def carried(self, row_s: float) -> Self:
        """The same rows, brought by a link instead of computed."""
        return replace(self, alone_s=self.alone_s * 1e-6, carry_s=np.full(len(self.nodes), row_s))

    def __post_init__(self) -> None:
        columns = (self.parts, self.alone_s, self.weight, self.carry_s)
        assert {len(column) for column in columns} == {len(self.nodes)} != {0}


class Rates:
    """Seconds per row for a set of loads; remembers where it was to be quick the next time."""

    def __init__(self, n_nodes: int, precision: float = 1e-6) -> None:
        """precision: relative, of what is answered."""
        self._n_nodes, self._precision = n_nodes, precision
        self._known: dict[int, tuple[Floats, Floats]] = {}  # by session: runs, waits
        self._now = _Stations.idle_ones(n_nodes)

    def queue(self, node: int) -> tuple[float, float]:
        """Seconds that rows wait at present before their step begins, in the mean, and how many
        times longer that step takes because prompts run, less one."""
        return float(self._now.waited_s[node]), float(self._now.prompts[node])

    def estimate(self, load: Load) -> float:
        """Seconds per row for one session more, while the others stay as they are."""
        now, nodes = self._now, load.nodes
        longer = 1 + now.prompts[nodes]
        if load.is_stream:
            visit = load.alone_s * (longer + now.decodes[nodes])
            return float(np.max(np.maximum(visit, load.carry_s)))
        ahead_s, company = now.of_parts(nodes, load.parts)
        visit = load.alone_s * (longer + load.weight * 2 * company)
        if len(nodes) > 1:
            visit = visit + (1 - now.idle[nodes]) * now.half_s[nodes] + ahead_s
        return load.between_s + float(visit.sum())

    def solve(self, loads: Sequence[Load], keys: Sequence[int]) -> Floats:
        """[session] seconds per row. `keys` name the sessions from one call to the next."""
        if not loads:
            self._known, self._now = {}, _Stations.idle_ones(self._n_nodes)
            return np.zeros(0)
        visits = _Visits.of(loads)
        starts, session, streams = visits.starts, visits.session, visits.streams
        known = [self._guess(key, load) for key, load in zip(keys, loads, strict=True)]
        runs, waits = (np.concatenate(column) for column in zip(*known, strict=True))
        per_row, step = np.zeros(len(loads)), visits.alone
        for _ in range(MAX_ROUNDS):
            now = _Stations.of(self._n_nodes, visits, runs, waits, step)
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
        waited_s = _sum(self._n_nodes, visits.nodes, rows * wait)
        waited_s /= np.maximum(_sum(self._n_nodes, visits.nodes, rows), 1e-12)
        now = _Stations.of(self._n_nodes, visits, runs, waits, step)
        self._now = replace(now, waited_s=waited_s)
        self._known = {
            key: (runs[start:stop], waits[start:stop])
            for key, start, stop in zip(keys, starts, [*starts[1:], len(runs)], strict=True)
        }
        return per_row

    def _guess(self, key: int, load: Load) -> tuple[Floats, Floats]:
        known = self._known.get(key)
        if known is not None and len(known[0]) == len(load.nodes):
            return known
        runs = load.alone_s / max(float(load.alone_s.sum()) + load.between_s, 1e-12)
        return runs, np.zeros(len(runs))


@dataclass(frozen=True, slots=True, eq=False)
class _Visits:
    """All visits of all sessions, one after the other."""

    starts: Ints  # of each session
    session: Ints
    nodes: Ints
    part: Ints  # by its place among `parts`
    parts: Ints  # keys of all (node, part)
    used_by: Floats  # how many sessions each part has
    alone: Floats
    weight: Floats
    carry: Floats
    streams: NDArray[np.bool_]
    queues: NDArray[np.bool_]  # whether its rows wait for steps under way
    between: Floats  # [session]
    is_stream: NDArray[np.bool_]  # [session]

    @classmethod
    def of(cls, loads: Sequence[Load]) -> Self:
        sizes = np.array([len(load.nodes) for load in loads])
        session = np.repeat(np.arange(len(loads)), sizes)
        nodes = np.concatenate([load.nodes for load in loads])
        keys = _part_keys(nodes, np.concatenate([load.parts for load in loads]))
        is_stream = np.array([load.is_stream for load in loads])
        parts, part = np.unique(keys, return_inverse=True)
        streams = is_stream[session]
        return cls(
            starts=np.concatenate(([0], np.cumsum(sizes)[:-1])),
            session=session,
            nodes=nodes,
            part=part,
            parts=parts,
            used_by=_sum(len(parts), part, np.where(streams, 0.0, 1.0)),
            alone=np.concatenate([load.alone_s for load in loads]),
            weight=np.concatenate([load.weight for load in loads]),
            carry=np.concatenate([load.carry_s for load in loads]),
            streams=streams,
            queues=(sizes > 1)[session] & ~streams,
            between=np.array([load.between_s for load in loads]),
            is_stream=is_stream,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Stations:
    """All nodes and the parts of their spans, by what their sessions' rows do there."""

    idle: Floats  # the chance that no decode's step runs
    half_s: Floats  # of the step that runs, if one does
    decodes: Floats  # by how much a prompt's step is longer because decodes run
    prompts: Floats  # by how much everything takes longer, since prompts run
    ahead_s: Floats  # steps of parts that wait and go before a row that comes now
    waited_s: Floats  # what rows wait in the mean
    parts: Ints  # keys of all (node, part)
    part_runs: Floats  # of a part: how many of its sessions' steps run
    part_waits: Floats  # ... and wait
    part_ahead_s: Floats  # what of `ahead_s` is its own

    @classmethod
    def of(cls, n: int, visits: _Visits, runs: Floats, waits: Floats, step: Floats) -> Self:
        """runs, waits: the share of its time that each visit's step runs, or waits."""
        nodes, part, n_parts = visits.nodes, visits.part, len(visits.parts)
        prompts = _sum(n, nodes, np.where(visits.streams, runs, 0.0))
        runs = np.where(visits.streams, 0.0, runs)
        waits = np.where(visits.streams, 0.0, waits)
        part_runs = _sum(n_parts, part, runs)
        part_step_s = _sum(n_parts, part, runs * step) / np.maximum(part_runs, 1e-12)
        is_waiting = 1 - np.exp(_sum(n_parts, part, np.log1p(-np.minimum(waits, MOST_THERE))))
        first = GOES_FIRST + (1 - GOES_FIRST) / np.maximum(visits.used_by, 1.0)
        part_ahead_s = is_waiting * first * part_step_s
        return cls(
            idle=np.exp(_sum(n, nodes, np.log1p(-np.minimum(runs, MOST_THERE)))),
            half_s=_sum(n, nodes, runs * step) / np.maximum(_sum(n, nodes, runs), 1e-12) / 2,
            decodes=_sum(n, nodes, visits.weight * runs),
            prompts=prompts,
            ahead_s=_sum(n, visits.parts // PARTS, part_ahead_s),
            waited_s=np.zeros(n),
            parts=visits.parts,
            part_runs=part_runs,
            part_waits=_sum(n_parts, part, waits),
            part_ahead_s=part_ahead_s,
        )

    @classmethod
    def idle_ones(cls, n: int) -> Self:
        none, nothing = np.zeros(0), np.zeros(n)
        return cls(np.ones(n), *(nothing for _ in range(5)), np.zeros(0, np.intp), none, none, none)

    def waits_s(self, visits: _Visits, runs: Floats) -> Floats:
        """What each visit's row waits before its step begins."""
        nodes = visits.nodes
        busy = 1 - self.idle[nodes] / (1 - np.minimum(runs, MOST_THERE))  # by others
        ahead_s = self.ahead_s[nodes] - self.part_ahead_s[visits.part]
        return np.where(visits.queues, busy * self.half_s[nodes] + ahead_s, 0.0)

    def steps_s(self, visits: _Visits, runs: Floats, waits: Floats) -> Floats:
        """How long each visit's step takes, with all that share it."""
        nodes, part, streams = visits.nodes, visits.part, visits.streams
        company = np.where(
            visits.queues, 2 * (self.part_waits[part] - waits), self.part_runs[part] - runs
        )
        others = np.where(streams, self.decodes[nodes], visits.weight * company)
        prompts = self.prompts[nodes] - np.where(streams, runs, 0.0)
        return visits.alone * (1 + prompts + others)

    def of_parts(self, nodes: Ints, parts: Ints) -> tuple[Floats, Floats]:
        """What other parts make a row wait that comes to these, and who waits with it."""
        if not len(self.parts):
            return np.zeros(len(nodes)), np.zeros(len(nodes))
        keys = _part_keys(nodes, parts)
        at = np.minimum(np.searchsorted(self.parts, keys), len(self.parts) - 1)
        is_known = self.parts[at] == keys
        own_s = np.where(is_known, self.part_ahead_s[at], 0.0)
        return self.ahead_s[nodes] - own_s, np.where(is_known, self.part_waits[at], 0.0)


def _part_keys(nodes: Ints, parts: Ints) -> Ints:
    return nodes * PARTS + parts


def _sum(n: int, nodes: Ints, values: Floats) -> Floats:
    return np.bincount(nodes, values, minlength=n).astype(np.float64)
