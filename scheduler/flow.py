"""The most tokens per second that a swarm can make with the spans it serves now.

In: hosts, each a span and how many blocks per second it runs in all. Out: the largest t such that
every block can be run t times a second, each host spending its time on whatever blocks of its span
it likes (a session may enter and leave a span in its middle); and which blocks keep t from growing.
No links, no queues, no memory here: `placement.py` chooses spans by these numbers, `routing.py`
chains by milliseconds.

Hall's condition, as max-flow equals min-cut (Ford and Fulkerson 1956) puts it for this network, is

    t = min over sets S of blocks of  speed(hosts that hold a block of S) / |S|

The hosts that hold none of S lie wholly inside one of the gaps of S, so the numerator is the whole
swarm's speed less what lies inside each gap: a two-dimensional prefix sum. The best gaps for a
given t are a walk over the blocks, and t comes down to the answer as in Dinkelbach (1967), "On
nonlinear fractional programming". Exact, a few times n_blocks squared, whatever the number of
hosts. `Swarm.flows` asks this for many hypothetical hosts at once, which is what a placement
is made of.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from protocol.messages import Span

Floats = NDArray[np.float64]
Ints = NDArray[np.int_]

PRECISION = 1e-9  # relative; below it two flows are one
ROUNDING = 1e-13  # of the sum of all speeds
NUDGE = 1e-7  # relative
MAX_ROUNDS = 100  # of Dinkelbach's; a handful is usual


class Host(NamedTuple):
    """One server, alone. What it can do is shared by all blocks of its span."""

    span: Span
    blocks_per_s: float


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The blocks that limit a swarm: more speed anywhere else would not help."""

    tokens_per_s: float
    spans: tuple[Span, ...]  # all blocks that limit, as runs; every block, in a balanced swarm
    n_hosts: int  # how many hold any of them


class Changes(NamedTuple):
    """Hosts that hypothetical swarms have more than a given one; with negative speeds, less."""

    starts: Ints  # [swarms, changes]
    stops: Ints  # [swarms, changes]
    speeds: Floats  # [swarms, changes]


NO_CHANGE = Changes(np.zeros((1, 0), int), np.zeros((1, 0), int), np.zeros((1, 0)))


def max_flow(hosts: Iterable[Host], n_blocks: int) -> float:
    """Tokens per second; 0.0 where a block has no host."""
    return Swarm.of(hosts, n_blocks).tokens_per_s()


def bottleneck(hosts: Sequence[Host], n_blocks: int) -> Bottleneck:
    """What limits the flow: the uncovered blocks, if there are any."""
    swarm = Swarm.of(hosts, n_blocks)
    limiting = swarm.bottleneck()
    n_hosts = sum(bool(limiting[span.start : span.stop].any()) for span, _ in hosts)
    return Bottleneck(swarm.tokens_per_s(), _runs(limiting), n_hosts)


@dataclass(frozen=True, slots=True)
class Swarm:
    """Hosts, as sums: `inside[i, j]` is the speed of all whose spans lie within `[i, j)`."""

    inside: Floats  # [n_blocks + 1, n_blocks + 1]

    @classmethod
    def of(cls, hosts: Iterable[Host], n_blocks: int) -> Self:
        """Spans that reach beyond the model are cut to it.

        Raises:
            ValueError: a model without blocks, or a speed that is no speed.
        """
        if n_blocks < 1:
            raise ValueError(f"a model has blocks, got {n_blocks}")
        speeds = np.zeros((n_blocks + 1, n_blocks + 1))
        for span, blocks_per_s in hosts:
            if not 0 <= blocks_per_s < float("inf"):
                raise ValueError(f"a host runs blocks per second, got {blocks_per_s}")
            if span.start < n_blocks:
                speeds[span.start, min(span.stop, n_blocks)] += blocks_per_s
        return cls(np.cumsum(np.cumsum(speeds[::-1], axis=0)[::-1], axis=1))

    @property
    def n_blocks(self) -> int:
        return len(self.inside) - 1

    def tokens_per_s(self) -> float:
        return float(self.flows(NO_CHANGE)[0])

    def bottleneck(self) -> NDArray[np.bool_]:
        """[n_blocks]: the largest set of blocks that limits the flow."""
        rate, total = self.tokens_per_s(), self.inside[0, -1]
        # Asked for a trifle more than flows, all sets that limit fail together.
        trifle = rate * NUDGE if rate else total * ROUNDING
        limiting: NDArray[np.bool_] = _chosen(self._walk(NO_CHANGE, np.full(1, rate + trifle))[1])[
            0
        ]
        return limiting

    def plus(self, span: Span, blocks_per_s: float) -> Self:
        """With one host more; or, at a negative speed, without one that it has."""
        inside = self.inside.copy()
        inside[: span.start + 1, span.stop :] += blocks_per_s
        return type(self)(np.maximum(inside, 0.0))  # what rounding leaves of a removed host

    def flows(self, changes: Changes) -> Floats:
        """Tokens per second of several swarms at once: this one, each with changes of its own."""
        n, totals = self.n_blocks, self._totals(changes)
        rates = totals / n  # the cut through all blocks; no flow is above it
        todo = np.arange(len(rates))
        for _ in range(MAX_ROUNDS):
            some = Changes(changes.starts[todo], changes.stops[todo], changes.speeds[todo])
            best, came_from = self._walk(some, rates[todo])
            cut = totals[todo] - best[:, -1]  # what the cheapest set lacks: at most 0
            falls = cut < -PRECISION * n * rates[todo] - ROUNDING * totals[todo]
            if not falls.any():
                break
            todo, sizes = todo[falls], _chosen(came_from[falls]).sum(axis=1)
            rates[todo] = np.maximum(rates[todo] + cut[falls] / sizes, 0.0)
        rates[rates * n <= PRECISION * totals] = 0.0
        return rates

    def served(self, changes: Changes, rates: Floats) -> Floats:
        """Blocks per second that run when each block is asked for `rates` times a second.

        Where not all can be served, this counts what is: it grows with a host anywhere that
        anything is missing, even where the flow does not.
        """
        best = self._walk(changes, rates)[0]
        served: Floats = self._totals(changes) + self.n_blocks * rates - best[:, -1]
        return served

    def _totals(self, changes: Changes) -> Floats:
        totals: Floats = self.inside[0, -1] + changes.speeds.sum(axis=1)
        return np.maximum(totals, 0.0)

    def _walk(self, changes: Changes, rates: Floats) -> tuple[Floats, Ints]:
        """For each border: the most that speed inside gaps plus `rates` for each block outside
        of them can sum to so far, and where the gap began that ends there (itself: no gap).
        """
        n, n_swarms = self.n_blocks, len(rates)
        best = np.zeros((n_swarms, n + 1))
        came_from = np.zeros((n_swarms, n + 1), int)
        added = np.zeros((n_swarms, n + 1))  # what changes add to a gap from j to the present k
        swarms, borders = np.arange(n_swarms), np.arange(n + 1)
        for k in range(1, n + 1):
            for column in range(changes.speeds.shape[1]):
                (ending,) = np.nonzero(changes.stops[:, column] == k)
                if len(ending):
                    holds = borders <= changes.starts[ending, column, None]
                    added[ending] += holds * changes.speeds[ending, column, None]
            sums = best[:, :k] + self.inside[:k, k]
            sums += added[:, :k]
            from_gap = sums.argmax(axis=1)
            gap = sums[swarms, from_gap]
            block = best[:, k - 1] + rates
            is_gap = gap > block
            best[:, k] = np.where(is_gap, gap, block)
            came_from[:, k] = np.where(is_gap, from_gap, k)
        return best, came_from


def _chosen(came_from: Ints) -> NDArray[np.bool_]:
    """[swarms, n_blocks]: the blocks outside of the gaps, walked back from the last border."""
    n_swarms, n_borders = came_from.shape
    chosen = np.zeros((n_swarms, n_borders - 1), bool)
    at = np.full(n_swarms, n_borders - 1)
    for k in range(n_borders - 1, 0, -1):
        source, here = came_from[:, k], at == k
        chosen[:, k - 1] = here & (source == k)
        at = np.where(here, np.minimum(source, k - 1), at)
    return chosen


def _runs(chosen: NDArray[np.bool_]) -> tuple[Span, ...]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], chosen, [False])).astype(int)))
    return tuple(Span(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True))
