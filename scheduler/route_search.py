"""The cheapest ways to cover a run of blocks: a search over (segment, host), each host used once.

In: hosts, each with its span, its cost per block and a fixed cost for being visited, and the
latency between any two. Out: the cheapest cover, and some unlike it that cost little more. Pure
arithmetic: what the costs mean, and who is a host at all, is decided in `routing.py`.

The cost is linear in the block at which one host hands over to the next. So, where latencies obey
the triangle inequality, a cheapest cover hands over only where some span begins or ends, and it is
enough to decide once per segment between two such borders. That includes entering and leaving
spans in their middle.

The cost of a step from each host of a segment to each of the next is a matrix; the cheapest way
between two segments is their product in the (min, +) algebra (Cuninghame-Green 1979), multiplied
here as a balanced tree, all neighbours at once. A ring's cost depends on where it began: the
product holds every pair of a first and a last host, and the closing link is added to it.

A product knows nothing of hosts that are left and entered again, which a cover must not do (a peer
keeps one tab per session). Such a way is a lower bound; the space is split by what the host may do
instead, cheapest bound first, until a way without returns is the cheapest (branch and bound). After
`MAX_BRANCHES` splits the host keeps what lies between its visits, as its span always allows.

Who is a candidate for a segment is decided in `shortlist.py`: with many hosts not all are, and the
answer is then a good one, no longer the best (`benchmarks/routing.py`).
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count, groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocol.messages import Span
from scheduler.min_plus import Numbers, Product
from scheduler.shortlist import SHORTLIST, Flags, Hosts, Indices, shortlisted

MAX_BRANCHES = 8
MOST_BRANCHES = 64  # where the host may not keep what lies between
UNLIKE = 0.10  # how much dearer a cover that shares no host may be, to be the next alternative
LEAST_FINE_MS = 1e-3
MORE_TRIES = 4  # for alternatives that cost far more
NARROW = 12  # candidates for each segment, the cheapest, where alternatives are looked for


class Links(NamedTuple):
    """One-way latencies among some hosts, [from, to], and to the neighbours that are fixed.

    before_ms and after_ms None: there are none, and the last host sends to the first, which takes
    closing_ms, or as long as among_ms says.
    """

    among_ms: NDArray[np.float64]
    before_ms: NDArray[np.float64] | None = None
    after_ms: NDArray[np.float64] | None = None
    closing_ms: NDArray[np.float64] | None = None


LinksOf = Callable[[Sequence[int]], Links]


class Cover(NamedTuple):
    """Which host takes which blocks, in order."""

    cost_ms: float
    hops: tuple[tuple[int, Span], ...]  # (index of the host, blocks)


def cheapest_covers(
    hosts: Hosts,
    blocks: Span,
    links: LinksOf,
    *,
    k: int,
    exclusive: Collection[int] = (),
) -> list[Cover]:
    """Up to `k` covers of `blocks`: the cheapest, and then others by cost.

    Args:
        links: those of the hosts it is asked about, by index.
        exclusive: hosts that run all blocks they hold, or share them with others of these.
    """
    board = _Board.of(hosts, blocks, links, exclusive, SHORTLIST)
    if board is None:
        return []
    best = _best(board)
    if best is None:
        return []
    found, dearer_ms, share = {best.hops: best}, board.fines(best, UNLIKE), UNLIKE
    board = board.narrowed(NARROW)
    for _ in range(k - 1 + MORE_TRIES):
        if len(found) >= k:
            break
        way = without_returns(board.cheapest_way(board.free, dearer_ms)[1])
        cover = board.cover(way) if board.allows(way) else best
        share *= 4 if cover.hops in found else 1
        found.setdefault(cover.hops, cover)
        dearer_ms += board.fines(cover, share)
    return sorted(found.values(), key=lambda cover: (cover.cost_ms, len(cover.hops)))


def lower_bound_ms(hosts: Hosts, blocks: Span, links: LinksOf) -> float:
    """What no cover is cheaper than: hosts may return, and nobody is left out. Slow."""
    board = _Board.of(hosts, blocks, links, (), len(hosts.starts))
    return math.inf if board is None else board.cheapest_way(board.free)[0]


def _best(board: "_Board") -> Cover | None:
    """The cheapest cover that enters no host twice, or a good one after `MAX_BRANCHES` splits.

    None: hosts that run all they hold stand in the way of every other.
    """
    turn = count()  # decides between equal bounds, so that arrays are never compared
    bound_ms, way = board.cheapest_way(board.free)
    waiting = [(bound_ms, next(turn), way, board.free)]
    fallback: Cover | None = None
    for n_split in count():
        if not waiting or (n_split >= MAX_BRANCHES and fallback) or n_split >= MOST_BRANCHES:
            break
        bound_ms, _, way, barred = heappop(waiting)
        returned = _first_return(way)
        if returned is None:
            return board.cover(way)
        merged = without_returns(way)
        if board.allows(merged):
            fallback = min(fallback or board.cover(merged), board.cover(merged))
        for child in board.split(barred, *returned):
            bound_ms, way = board.cheapest_way(child)
            if bound_ms < (fallback.cost_ms if fallback else math.inf):
                heappush(waiting, (bound_ms, next(turn), way, child))
    return fallback


@dataclass(frozen=True, slots=True)
class _Board:
    """The problem as arrays: [segment, slot], where a segment's slots are its candidates."""

    block_ms: NDArray[np.float64]
    visit_ms: NDArray[np.float64]
    links: Links
    kept: list[int]  # the hosts above, by index; below they go by their place here
    borders: list[int]
    slots: Indices
    run_ms: Numbers  # of all blocks of a segment; infinite where a slot is empty
    step_ms: Numbers  # [segment, from, to]: the link and the visit, nothing for who stays
    exclusive: frozenset[int]

    @classmethod
    def of(
        cls,
        hosts: Hosts,
        blocks: Span,
        links_of: LinksOf,
        exclusive: Collection[int],
        shortlist: int,
    ) -> "_Board | None":
        """None where some block has no host."""
        short = shortlisted(hosts, blocks, exclusive, shortlist)
        if short is None:
            return None
        kept, borders, slots, is_empty = short
        block_ms, visit_ms = hosts.block_ms[kept], hosts.visit_ms[kept]
        links = links_of(kept)
        run_ms = np.where(is_empty, np.inf, block_ms[slots] * np.diff(borders)[:, None])
        came_ms = (links.among_ms + visit_ms).astype(np.float32)
        np.fill_diagonal(came_ms, 0)
        step_ms = came_ms[slots[:-1, :, None], slots[1:, None, :]]
        run_ms = run_ms.astype(np.float32)
        alone = frozenset(place for place, i in enumerate(kept) if i in exclusive)
        return cls(block_ms, visit_ms, links, kept, borders, slots, run_ms, step_ms, alone)

    @property
    def free(self) -> Flags:
        """No slot is barred."""
        return np.zeros(self.run_ms.shape, bool)

    def narrowed(self, width: int) -> "_Board":
        """With the first `width` slots of each segment: a product takes width^3 steps."""
        slots, run_ms = self.slots[:, :width], self.run_ms[:, :width]
        return replace(self, slots=slots, run_ms=run_ms, step_ms=self.step_ms[:, :width, :width])

    def cheapest_way(
        self, barred: Flags, dearer_ms: Numbers | None = None
    ) -> tuple[float, list[int]]:
        """The host of every segment, whether or not one is entered twice, and what that costs.

        Args:
            barred: slots that are not to be used. dearer_ms: added to each host's visits.
        """
        run_ms = np.where(barred, np.float32(np.inf), self.run_ms)
        step_ms, visit_ms = self.step_ms, self.visit_ms
        if dearer_ms is not None:
            comes = self.slots[:-1, :, None] != self.slots[1:, None, :]
            step_ms = step_ms + comes * dearer_ms[self.slots[1:, None, :]]
            visit_ms = visit_ms + dearer_ms
        product = Product(step_ms + run_ms[1:, None, :])
        firsts, lasts = self.slots[0], self.slots[-1]
        total_ms = (run_ms[0] + visit_ms[firsts])[:, None] + product.cost
        total_ms += self.closing_ms(firsts[:, None], lasts[None, :])
        first, last = divmod(int(np.argmin(total_ms)), total_ms.shape[1])
        places = product.way(first, last)
        return float(total_ms[first, last]), self.slots[range(len(places)), places].tolist()

    def allows(self, way: Sequence[int]) -> bool:
        """Whether none takes what exclusive hosts hold but one of them."""
        if not self.exclusive:
            return True
        shut = np.isin(self.slots, list(self.exclusive)) & np.isfinite(self.run_ms)
        segments = np.flatnonzero(np.any(shut, axis=1)).tolist()
        return all(way[segment] in self.exclusive for segment in segments)

    def split(self, barred: Flags, host: int, left: int, back: int) -> Iterator[Flags]:
        """What `host` may do instead of leaving behind segment `left` and returning in `back`:
        stay away from `back` on, or up to `left`, or run all from the one to the other.
        """
        is_host = self.slots == host
        place = np.arange(len(self.slots))[:, None]
        yield barred | (is_host & (place >= back))
        yield barred | (is_host & (place <= left))
        yield barred | (~is_host & (place >= left) & (place <= back))

    def fines(self, cover: Cover, share: float) -> Numbers:
        """What makes a cover that shares no host with this one look as cheap, if it costs `share`
        more; the hosts of this one carry alike.
        """
        place = {host: i for i, host in enumerate(self.kept)}
        fines_ms = np.zeros(len(self.kept), np.float32)
        for host, _ in cover.hops:
            fines_ms[place[host]] = max(share * cover.cost_ms / len(cover.hops), LEAST_FINE_MS)
        return fines_ms

    def cover(self, way: Sequence[int]) -> Cover:
        """The hops of a way without returns, and their cost, added up anew."""
        hops, segment = [], 0
        for host, run in groupby(way):
            start, segment = self.borders[segment], segment + len(list(run))
            hops.append((host, Span(start, self.borders[segment])))
        visits = [host for host, _ in hops]
        cost_ms = float(self.closing_ms(visits[0], visits[-1]))
        cost_ms += sum(self.links.among_ms[one, other] for one, other in pairwise(visits))
        cost_ms += sum(self.visit_ms[host] + self.block_ms[host] * len(span) for host, span in hops)
        named = tuple((self.kept[host], span) for host, span in hops)
        return Cover(round(float(cost_ms), 6), named)

    def closing_ms(self, first: Any, last: Any) -> Any:
        """The links that lead into a way and out of it, or from its end back to its beginning."""
        among_ms, before_ms, after_ms, closing_ms = self.links
        if before_ms is None or after_ms is None:
            return (among_ms if closing_ms is None else closing_ms)[last, first]
        return before_ms[first] + after_ms[last]


def without_returns(way: Sequence[int]) -> list[int]:
    """The same way, where a host that would return runs what lies between itself."""
    kept = list(way)
    while (returned := _first_return(kept)) is not None:
        host, left, back = returned
        kept[left : back + 1] = [host] * (back + 1 - left)
    return kept


def _first_return(way: Sequence[int]) -> tuple[int, int, int] | None:
    """A host that is entered again: the segment behind which it left, the one where it is back."""
    seen: dict[int, int] = {}
    for segment, host in enumerate(way):
        if seen.get(host, segment) < segment - 1:
            return host, seen[host], segment
        seen[host] = segment
    return None
