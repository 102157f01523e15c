"""Nodes as sessions find them: whose rows wait there, for which parts, and how long steps take.

In: visits of sessions, and which share of its time each runs or waits there. Out: what each visit's
row waits before its step, and how long that step is. The formulas are said in `rates.py`, which
looks for the shares that agree with what comes of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

MOST_THERE = 0.999
GOES_FIRST = 0.6  # the chance of a part that waits when a row comes, if many sessions use the part
PART_BITS = 20
SLOWDOWN, MENDING_SLOWDOWN = 1.8, 10.0  # of decodes by prompts beside them, as in node/schedule.py


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """What one session asks of the nodes it visits, per row.

    One visit after the other (a decode: its next row exists when the last hop has drawn it), or
    all at once (a prompt: its rows are in all hops at the same time, the slowest one decides).
    """

    nodes: Ints
    parts: Ints  # of each node's span, as `part_key` has them
    alone_s: Floats
    weight: Floats
    carry_s: Floats  # what the row takes on the link after each hop when links are the limit
    between_s: float  # spent on no node, per row: latencies round the ring
    is_stream: bool  # all at once
    slowdown: float = SLOWDOWN  # how many times longer a stream may make the steps of decodes

    def carried(self, row_s: float) -> Self:
        """The same rows, brought by a link instead of computed."""
        return replace(self, alone_s=self.alone_s * 1e-6, carry_s=np.full(len(self.nodes), row_s))

    def __post_init__(self) -> None:
        columns = (self.parts, self.alone_s, self.weight, self.carry_s)
        assert {len(column) for column in columns} == {len(self.nodes)} != {0}


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The parts of nodes' spans that sessions run, sorted by node; each pair of one node that
    overlaps, and each that does not.
    """

    nodes: Ints
    n_blocks: int
    meets: tuple[Ints, ...]  # (part, other), by part; each part meets itself
    in_common: Floats  # blocks of each of these pairs; none of a part and itself
    outside: tuple[Ints, Ints]  # (part * n_blocks + block, other): blocks that the other runs alone
    apart: tuple[Ints, ...]
    between: tuple[Ints, ...]  # (place in `apart`, part that meets both)

    @classmethod
    def of(cls, nodes: Ints, keys: Ints) -> Self:
        entry, exit = keys >> PART_BITS, keys & (1 << PART_BITS) - 1
        one, other = _of_one_node(nodes)
        common = np.minimum(exit[one], exit[other]) - np.maximum(entry[one], entry[other])
        meets = one[common > 0], other[common > 0]
        apart = one[common <= 0], other[common <= 0]
        blocks = np.arange(exit.max())
        covers = (entry[:, None] <= blocks) & (blocks < exit[:, None])
        pair, block = np.nonzero(covers[meets[1]] & ~covers[meets[0]])
        return cls(
            nodes=nodes,
            n_blocks=len(blocks),
            meets=meets,
            outside=(meets[0][pair] * len(blocks) + block, meets[1][pair]),
            in_common=np.where(meets[0] == meets[1], 0, common[common > 0]).astype(np.float64),
            apart=apart,
            between=_between(len(nodes), meets, apart),
        )

    def turns_s(self, turn_s: Floats, is_waiting: Floats) -> Floats:
        """[part]: steps of others that go first, unless rows of a part that meets both wait too,
        and take both into one step.

        Args:
            turn_s: [part], its step, times the chance that it waits and goes first.
        """
        (one, other), (pair, part) = self.apart, self.between
        alone = np.exp(sum_by(len(one), pair, np.log1p(-is_waiting)[part]))
        return sum_by(len(self.nodes), one, turn_s[other] * alone)

    def more_blocks(self, waits: Floats, are_there: Floats, share: Floats) -> Floats:
        """[part]: what rows for others add to a step, in times that one block takes.

        Args:
            waits: [part], how many rows share a step. are_there: the chance that any does.
        """
        part, other = self.meets
        inside = share * sum_by(len(self.nodes), part, waits[other] * self.in_common)
        (cell, who), shape = self.outside, (len(self.nodes), self.n_blocks)
        rows = sum_by(shape[0] * shape[1], cell, waits[who]).reshape(shape)
        none = sum_by(shape[0] * shape[1], cell, np.log1p(-are_there)[who]).reshape(shape)
        runs = 1 - np.exp(none)
        more: Floats = inside + (runs + share[:, None] * np.maximum(rows - runs, 0.0)).sum(axis=1)
        return more


@dataclass(frozen=True, slots=True, eq=False)
class Visits:
    """All visits of all sessions, one after the other."""

    starts: Ints  # of each session
    session: Ints
    nodes: Ints
    part: Ints  # by its place among `parts`
    parts: Parts
    used_by: Floats  # how many sessions each part has
    part_share: Floats
    block_s: Floats  # of each part's node
    alone: Floats
    weight: Floats
    carry: Floats
    streams: NDArray[np.bool_]
    slowdown: Floats
    queues: NDArray[np.bool_]  # whether its rows wait for steps under way
    between: Floats  # [session]
    is_stream: NDArray[np.bool_]  # [session]

    @classmethod
    def of(cls, loads: Sequence[Load]) -> Self:
        sizes = np.array([len(load.nodes) for load in loads])
        session = np.repeat(np.arange(len(loads)), sizes)
        nodes = np.concatenate([load.nodes for load in loads])
        keys = np.concatenate([load.parts for load in loads])
        is_stream = np.array([load.is_stream for load in loads])
        streams = is_stream[session]
        # Prompts have parts of their own, that nobody meets: they weigh on all of the node.
        named = np.stack([np.where(streams, -1 - nodes, nodes), keys])
        parts, first, part = np.unique(named, axis=1, return_index=True, return_inverse=True)
        alone = np.concatenate([load.alone_s for load in loads])
        weight = np.concatenate([load.weight for load in loads])
        lengths = (parts[1] & (1 << PART_BITS) - 1) - (parts[1] >> PART_BITS)
        return cls(
            starts=np.concatenate(([0], np.cumsum(sizes)[:-1])),
            session=session,
            nodes=nodes,
            part=part.reshape(-1),
            parts=Parts.of(parts[0], parts[1]),
            used_by=sum_by(len(first), part.reshape(-1), np.where(streams, 0.0, 1.0)),
            part_share=weight[first],
            block_s=alone[first] / lengths,
            alone=alone,
            weight=weight,
            carry=np.concatenate([load.carry_s for load in loads]),
            streams=streams,
            slowdown=np.array([load.slowdown for load in loads])[session],
            queues=(sizes > 1)[session] & ~streams,
            between=np.array([load.between_s for load in loads]),
            is_stream=is_stream,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Stations:
    """All nodes and the parts of their spans, by what their sessions' rows do there."""

    idle: Floats  # the chance that no decode's step runs
    half_s: Floats  # of the step that runs, if one does
    prompts: Floats  # how many run
    slower: Floats  # by how much decodes' steps are longer, since prompts run in them
    left: Floats  # the share of the time that prompts get beside decodes
    part_runs: Floats  # of a part: how many of its sessions' steps run
    part_rows: Floats  # ... how many rows of it share a step with one that comes
    part_more_s: Floats  # by how much others' rows make its steps longer
    part_ahead_s: Floats  # steps of parts that take turns with it and go first

    @classmethod
    def of(cls, n: int, visits: Visits, runs: Floats, waits: Floats, step: Floats) -> Self:
        """runs, waits: the share of its time that each visit's step runs, or waits."""
        nodes, part, parts, n_parts = visits.nodes, visits.part, visits.parts, len(visits.used_by)
        prompts = sum_by(n, nodes, np.where(visits.streams, runs, 0.0))
        most = np.full(n, SLOWDOWN - 1)
        np.maximum.at(most, nodes, np.where(visits.streams, visits.slowdown - 1, 0.0))
        runs = np.where(visits.streams, 0.0, runs)
        waits = np.where(visits.streams, 0.0, waits)
        part_runs = sum_by(n_parts, part, runs)
        part_step_s = sum_by(n_parts, part, runs * step) / np.maximum(part_runs, 1e-12)
        rows = np.minimum(2 * waits, MOST_THERE)
        part_rows = sum_by(n_parts, part, rows)
        are_there = 1 - np.exp(sum_by(n_parts, part, np.log1p(-rows)))
        is_waiting = 1 - np.exp(sum_by(n_parts, part, np.log1p(-np.minimum(waits, MOST_THERE))))
        first = GOES_FIRST + (1 - GOES_FIRST) / np.maximum(visits.used_by, 1.0)
        turn_s = is_waiting * first * part_step_s
        more = parts.more_blocks(part_rows, np.minimum(are_there, MOST_THERE), visits.part_share)
        idle = np.exp(sum_by(n, nodes, np.log1p(-np.minimum(runs, MOST_THERE))))
        return cls(
            idle=idle,
            half_s=sum_by(n, nodes, runs * step) / np.maximum(sum_by(n, nodes, runs), 1e-12) / 2,
            prompts=prompts,
            slower=np.minimum(prompts, most),
            left=1 - (1 - idle) / (1 + most),
            part_runs=part_runs,
            part_rows=part_rows,
            part_more_s=more * visits.block_s,
            part_ahead_s=parts.turns_s(turn_s, np.minimum(is_waiting, MOST_THERE)),
        )

    @classmethod
    def idle_ones(cls, n: int) -> Self:
        nothing, none = np.zeros(n), np.zeros(0)
        return cls(np.ones(n), nothing, nothing, nothing, np.ones(n), none, none, none, none)

    def waits_s(self, visits: Visits, runs: Floats) -> Floats:
        """What each visit's row waits before its step begins."""
        nodes = visits.nodes
        busy = 1 - self.idle[nodes] / (1 - np.minimum(runs, MOST_THERE))  # by others
        wait_s = busy * self.half_s[nodes] + self.part_ahead_s[visits.part]
        return np.where(visits.queues, wait_s, 0.0)

    def steps_s(self, visits: Visits, runs: Floats, waits: Floats) -> Floats:
        """How long each visit's step takes, with all that share it."""
        nodes, part, streams = visits.nodes, visits.part, visits.streams
        own = self.part_rows[part] - np.minimum(2 * waits, MOST_THERE)
        company = np.where(visits.queues, own, self.part_runs[part] - runs)
        more_s = np.where(visits.queues, self.part_more_s[part], 0.0)
        shared_s = visits.alone * (1 + visits.weight * company) + more_s
        in_turn_s = visits.alone * (1 + self.prompts[nodes] - runs) / self.left[nodes]
        return np.where(streams, in_turn_s, shared_s * (1 + self.slower[nodes]))


def _of_one_node(nodes: Ints) -> tuple[Ints, Ints]:
    """All pairs of parts of the same node; a table of all parts by all would be too large."""
    return _repeated(np.searchsorted(nodes, nodes), np.searchsorted(nodes, nodes, "right"))


def _between(n_parts: int, meets: tuple[Ints, ...], apart: tuple[Ints, ...]) -> tuple[Ints, Ints]:
    """(place in `apart`, part): the parts that meet both of a pair which does not."""
    (part, met), (one, other) = meets, apart
    place, at = _repeated(np.searchsorted(part, one), np.searchsorted(part, one, "right"))
    do_meet = np.isin(other[place] * n_parts + met[at], part * n_parts + met)
    return place[do_meet], met[at[do_meet]]


def _repeated(starts: Ints, stops: Ints) -> tuple[Ints, Ints]:
    """(row, number): each number of `[starts[row], stops[row])`, row by row."""
    sizes = stops - starts
    rows = np.repeat(np.arange(len(sizes)), sizes)
    return rows, np.arange(len(rows)) + np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)


def part_key(start: int, stop: int) -> int:
    """Of blocks `[start, stop)`."""
    return (start << PART_BITS) + stop


def sum_by(n: int, nodes: Ints, values: Floats) -> Floats:
    return np.bincount(nodes, values, minlength=n).astype(np.float64)
