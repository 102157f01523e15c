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
hosts. `Swarm.with_host` asks this for many hypothetical hosts at once, which is what a placement
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


class Cuts(NamedTuple):
    """The answer for each of several swarms: the flow, and the largest set that limits it."""

    tokens_per_s: Floats  # [swarms]
    limiting: NDArray[np.bool_]  # [swarms, n_blocks]


def max_flow(hosts: Iterable[Host], n_blocks: int) -> float:
    """Tokens per second; 0.0 where a block has no host."""
    return Swarm.of(hosts, n_blocks).tokens_per_s()


def bottleneck(hosts: Sequence[Host], n_blocks: int) -> Bottleneck:
    """What limits the flow: the uncovered blocks, if there are any."""
    cuts = Swarm.of(hosts, n_blocks).cuts()
    limiting = cuts.limiting[0]
    n_hosts = sum(bool(limiting[span.start : span.stop].any()) for span, _ in hosts)
    return Bottleneck(float(cuts.tokens_per_s[0]), _runs(limiting), n_hosts)


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
        return float(self.cuts().tokens_per_s[0])

    def cuts(self) -> Cuts:
        """Of this swarm alone."""
        return self.with_host(np.zeros(1, int), np.full(1, self.n_blocks), np.zeros(1))

    def plus(self, span: Span, blocks_per_s: float) -> Self:
        """With one host more; or, at a negative speed, without one that it has."""
        inside = self.inside.copy()
        inside[: span.start + 1, span.stop :] += blocks_per_s
        return type(self)(np.maximum(inside, 0.0))  # what rounding leaves of a removed host

    def with_host(self, starts: Ints, stops: Ints, speeds: Floats) -> Cuts:
        """Of several swarms at once: this one, each with another one host more.

        Args:
            starts, stops, speeds: [swarms] each; the span and the blocks per second of that host.
        """
        n, totals = self.n_blocks, self.inside[0, -1] + speeds
        rates = totals / n  # the cut through all blocks; no flow is above it
        for _ in range(MAX_ROUNDS):
            best, came_from = self._walk(starts, stops, speeds, rates)
            cut = totals - best[:, -1]  # what the cheapest set lacks at these rates: at most 0
            better = cut < -PRECISION * n * rates - ROUNDING * totals
            if not better.any():
                break
            sizes = np.maximum(_chosen(came_from).sum(axis=1), 1)
            rates = np.where(better, np.maximum(rates + cut / sizes, 0.0), rates)
        rates[rates * n <= PRECISION * totals] = 0.0
        # Asked for a trifle more than flows, all sets that limit fail together.
        trifle = rates * NUDGE + (rates == 0) * totals * ROUNDING
        limiting = _chosen(self._walk(starts, stops, speeds, rates + trifle)[1])
        return Cuts(rates, limiting)

    def served(self, starts: Ints, stops: Ints, speeds: Floats, rates: Floats) -> Floats:
        """Blocks per second that run when each block is asked for `rates` times a second.

        The swarms are those of `with_host`. Where not all can be served, this counts what is: it
        grows with a host anywhere that anything is missing, even where the flow does not.
        """
        best = self._walk(starts, stops, speeds, rates)[0]
        served: Floats = self.inside[0, -1] + speeds + self.n_blocks * rates - best[:, -1]
        return served

    def _walk(
        self, starts: Ints, stops: Ints, speeds: Floats, rates: Floats
    ) -> tuple[Floats, Ints]:
        """For each border: the most that speed inside gaps plus `rates` for each block outside
        of them can sum to so far, and where the gap began that ends there (itself: no gap).
        """
        n = self.n_blocks
        best = np.zeros((len(rates), n + 1))
        came_from = np.zeros((len(rates), n + 1), int)
        swarms = np.arange(len(rates))
        before = np.arange(n + 1)[None, :] <= starts[:, None]  # gaps from there on hold the host
        added = before * speeds[:, None]
        for k in range(1, n + 1):
            sums = best[:, :k] + self.inside[:k, k]
            sums += np.where((stops <= k)[:, None], added[:, :k], 0.0)
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
