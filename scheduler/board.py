"""What a placement is worth: one model's hosts as sums, many hypothetical changes weighed at once.

In: members (span, speed, how likely each leaves soon) and trials: who is taken away, who is put
where. Out: for each trial, in this order of importance:

1. `uncovered`: blocks without a host; in how many `runs`, for how many further nodes (`needed`);
2. `expected`: the max-flow in tokens per second, less what is missed while a block has lost all its
   hosts, by the chance that one does soon. That is what a second replica of a risky block is worth;
3. `served`: blocks per second that run if more tokens are asked for than flow. It grows where one
   of several bottlenecks widens, long before the flow does, so that searches cross plateaus.

Pure arithmetic; who may move, and when it pays, is decided in `placement.py` and `joint.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from protocol.messages import Span
from scheduler.flow import NO_CHANGE, Changes, Floats, Host, Ints, Swarm

NEVER = 1e-12  # of leaving, where nothing is known of a peer's age: risk is then not weighed
CLEAR = 1e-6  # relative
# Of the time in which hosts may leave, how long a block stays lost: then others have moved there.
# In full, swarms whose hosts all just came gave up half of their flow for second replicas
# (benchmarks/placement.py), and the simulator's answers were none the better for it.
MISSED = 0.25
DEMANDS = (0.02, 0.15, 0.5, 1.0)  # above the flow, as parts of what all speeds would suffice for


class Member(NamedTuple):
    """One host, and the probability that it leaves soon."""

    span: Span
    blocks_per_s: float
    leaves: float = NEVER

    def at(self, span: Span) -> "Member":
        return self._replace(span=span)


class Trial(NamedTuple):
    """A hypothetical change."""

    without: tuple[Member, ...]
    plus: tuple[Member, ...]


class Values(NamedTuple):
    """One number per trial in each."""

    uncovered: Ints
    runs: Ints  # of uncovered blocks
    needed: Ints  # nodes, to cover them
    tokens_per_s: Floats
    expected: Floats
    served: Floats

    def order(self) -> Ints:
        """Trials from best to worst; those that differ by rounding alone stay as they came."""
        scale = max(float(self.expected.max(initial=0.0)), 1e-9)
        most = max(float(self.served.max(initial=0.0)), 1e-9)
        keys = (
            -np.round(self.served / most, 9),
            -np.round(self.expected / scale, 7),
            self.needed,
            self.runs,
            self.uncovered,
        )
        return np.lexsort(keys)

    def covers_better(self, one: int, other: int) -> bool:
        """Whether a trial leaves less uncovered than another, or in better pieces."""
        ones, others = (
            [int(counts[i]) for counts in (self.uncovered, self.runs, self.needed)]
            for i in (one, other)
        )
        return ones < others

    def is_clearly_better(self, one: int, other: int) -> bool:
        """Whether it is more than rounding that puts one trial before the other."""
        if self.covers_better(one, other) or self.covers_better(other, one):
            return self.covers_better(one, other)
        gained = self.expected[one] - self.expected[other]
        if abs(gained) > CLEAR * max(self.expected[one], self.expected[other]):
            return bool(gained > 0)
        return bool(self.served[one] - self.served[other] > CLEAR * self.served[other])


@dataclass(frozen=True, slots=True)
class Board:
    """Members of one model, summed over."""

    swarm: Swarm
    counts: Ints  # [n_blocks], hosts
    log_lost: Floats  # [n_blocks], of the chance that all its hosts leave soon
    borders: Ints  # [n_blocks + 1], spans that begin or end there

    @classmethod
    def of(cls, members: Iterable[Member], n_blocks: int) -> Self:
        members = list(members)
        swarm = Swarm.of([Host(span, speed) for span, speed, _ in members], n_blocks)
        empty = cls(swarm, np.zeros(n_blocks, int), np.zeros(n_blocks), np.zeros(n_blocks + 1, int))
        counts, log_lost, borders = empty._sums(Shifts.of([Trial((), tuple(members))]))
        return cls(swarm, counts[0], log_lost[0], borders[0])

    @property
    def n_blocks(self) -> int:
        return len(self.counts)

    @property
    def is_covered(self) -> bool:
        return bool(self.counts.all())

    def expected(self) -> float:
        """Tokens per second as it is, less what is missed if a block is lost soon."""
        there = _there(self.log_lost[None], self.borders[None])[0]
        return float(self.swarm.tokens_per_s() * there)

    def after(self, trial: Trial) -> Self:
        counts, log_lost, borders = self._sums(Shifts.of([trial]))
        swarm = self.swarm
        for member in trial.without:
            swarm = swarm.plus(member.span, -member.blocks_per_s)
        for member in trial.plus:
            swarm = swarm.plus(member.span, member.blocks_per_s)
        return type(self)(swarm, counts[0], log_lost[0], borders[0])

    def counts_after(self, shifts: "Shifts") -> Ints:
        """[trials, n_blocks]: hosts."""
        return self._sums(shifts)[0]

    def only_hosted_by(self, member: Member) -> NDArray[np.bool_]:
        """[n_blocks]: those that would have no host without this one."""
        only = self.counts <= 1
        only[: member.span.start] = False
        only[member.span.stop :] = False
        return only

    def weigh(self, trials: Sequence[Trial], *, length: int = 1) -> Values:
        """What each trial makes of the swarm.

        Args:
            length: of the spans by which uncovered blocks are thought to be covered later.
        """
        return self.weigh_shifts(Shifts.of(trials), length=length)

    def weigh_shifts(self, shifts: "Shifts", *, length: int = 1) -> Values:
        """The same, of trials that are arrays already."""
        counts, log_lost, borders = self._sums(shifts)
        tokens_per_s = self.swarm.flows(shifts.changes)
        uncovered = counts == 0
        starts = np.diff(uncovered.astype(int), axis=1, prepend=0) > 0
        return Values(
            uncovered=uncovered.sum(axis=1),
            runs=starts.sum(axis=1),
            needed=_nodes_needed(uncovered, length),
            tokens_per_s=tokens_per_s,
            expected=tokens_per_s * _there(log_lost, borders),
            served=self._served(shifts.changes, tokens_per_s),
        )

    def idle(self, members: Sequence[Member], above: float) -> Floats:
        """How much of each one's speed, in blocks per second, would not be missed where it is, if
        `above` times the flow were asked for.
        """
        flow = self.swarm.tokens_per_s()
        full = float(self.swarm.inside[0, -1])
        rate = min(flow * above, full / self.n_blocks) if flow else full / self.n_blocks
        everybody = self.swarm.served(NO_CHANGE, np.full(1, rate))[0]
        changes = Shifts.of([Trial((member,), ()) for member in members]).changes
        others = self.swarm.served(changes, np.full(len(members), rate))
        speeds = np.array([member.blocks_per_s for member in members])
        idle: Floats = np.maximum(speeds - np.maximum(everybody - others, 0.0), 0.0)
        return idle

    def _served(self, changes: Changes, tokens_per_s: Floats) -> Floats:
        """The mean over several demands, from the best flow up to what all speeds suffice for."""
        flow = float(tokens_per_s.max(initial=0.0))
        speeds = self.swarm.inside[0, -1] + changes.speeds.sum(axis=1)
        spare = max(float(speeds.max(initial=0.0)) / self.n_blocks - flow, 0.0)
        served = np.zeros(len(tokens_per_s))
        for part in DEMANDS:
            rates = np.full(len(served), flow + spare * part)
            served += self.swarm.served(changes, rates) / len(DEMANDS)
        return served

    def _sums(self, shifts: "Shifts") -> tuple[Ints, Floats, Ints]:
        """`counts`, `log_lost` and `borders` after each trial."""
        n, (changes, signs, logs) = self.n_blocks, shifts
        rows = np.arange(len(signs))[:, None] * (n + 1)

        def at(edges: Ints, each: Ints | Floats) -> Floats:
            flat, size = (rows + edges).ravel(), len(signs) * (n + 1)
            sums = np.bincount(flat, weights=each.ravel(), minlength=size).astype(float)
            return sums.reshape(len(signs), n + 1)

        begun, ended = at(changes.starts, signs), at(changes.stops, signs)
        lost = at(changes.starts, logs) - at(changes.stops, logs)
        return (
            self.counts + np.cumsum(begun - ended, axis=1)[:, :-1].astype(int),
            self.log_lost + np.cumsum(lost, axis=1)[:, :-1],
            self.borders + (begun + ended).astype(int),
        )


class Shifts(NamedTuple):
    """Trials as arrays."""

    changes: Changes
    signs: Ints  # [trials, changes]: 1 is put there, -1 is taken away, 0 fills a row up
    logs: Floats  # [trials, changes], of the chance that each leaves soon, times the sign

    @classmethod
    def of(cls, trials: Sequence[Trial]) -> Self:
        width = max((len(trial.without) + len(trial.plus) for trial in trials), default=0)
        shape = len(trials), width
        starts, stops, signs = np.zeros(shape, int), np.zeros(shape, int), np.zeros(shape, int)
        speeds, leaves = np.zeros(shape), np.ones(shape)
        for row, (without, plus) in enumerate(trials):
            for column, (sign, (span, speed, leaving)) in enumerate(
                [*((-1, member) for member in without), *((1, member) for member in plus)]
            ):
                starts[row, column], stops[row, column] = span.start, span.stop
                signs[row, column], leaves[row, column] = sign, leaving
                speeds[row, column] = sign * speed
        logs = signs * np.log(np.clip(leaves, NEVER, 1.0))
        return cls(Changes(starts, stops, speeds), signs, logs)


def _there(log_lost: Floats, borders: Ints) -> Floats:
    """The chance that no block is lost within the time in which it would be missed."""
    there: Floats = _none_is_lost(log_lost, borders) ** MISSED  # as who leaves at a steady rate
    return there


def _none_is_lost(log_lost: Floats, borders: Ints) -> Floats:
    """The chance that no block loses all its hosts. Blocks between two borders have the same hosts
    and fall together; runs with other hosts are taken as independent, which errs on the safe side.
    """
    lost = np.minimum(np.exp(np.minimum(log_lost, 0.0)), 1.0 - 1e-9)
    begins = borders[:, :-1] > 0
    begins[:, 0] = True
    safe: Floats = np.exp(np.where(begins, np.log1p(-lost), 0.0).sum(axis=1))
    return safe


def _nodes_needed(uncovered: NDArray[np.bool_], length: int) -> Ints:
    """How many spans of `length` it takes to cover them, from left to right."""
    needed, reached = np.zeros(len(uncovered), int), np.full(len(uncovered), -1)
    if uncovered.any():
        for block in range(uncovered.shape[1]):
            opens = uncovered[:, block] & (reached < block)
            needed += opens
            reached = np.where(opens, block + length - 1, reached)
    return needed
