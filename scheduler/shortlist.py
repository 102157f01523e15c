"""Who is worth a look: the hosts that a search through thousands considers, segment by segment.

In: hosts, and the blocks to run. Out: borders between segments, and for each segment the hosts that
may take it. Of each segment's hosts the `SHORTLIST` cheapest are kept, and as many of each of the
`REGIONS` that could run everything soonest, since a chain within a region saves links. A cover is
left wherever there is one.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocol.messages import Span

SHORTLIST = 5  # of all, and again of each of the most promising regions
REGIONS = 2
AWAY_MS = 2.0  # what a block is thought to cost more, if it is run in another region
MAX_WIDTH = 16

Indices = NDArray[np.intp]
Flags = NDArray[np.bool_]


class Hosts(NamedTuple):
    """The candidates; of equal ones the first is taken. Those of one region may be near."""

    starts: Indices
    stops: Indices
    regions: Indices
    block_ms: NDArray[np.float64]
    visit_ms: NDArray[np.float64]


def shortlisted(
    hosts: Hosts, blocks: Span, exclusive: Collection[int], size: int
) -> tuple[list[int], list[int], Indices, Flags] | None:
    """Who may take each segment: the hosts kept, the borders, [segment, slot] as places in kept,
    and which slots are empty. None where some block has no host.

    A host kept for one segment is kept for all it holds, so that it can run them in one go.
    """
    spans = np.stack([hosts.starts, hosts.stops], axis=1)
    # A visit is shared by as many blocks as the host can take.
    used = np.minimum(hosts.stops, blocks.stop) - np.maximum(hosts.starts, blocks.start)
    order = np.argsort(hosts.block_ms + hosts.visit_ms / np.maximum(used, 1), kind="stable")
    order = order[used[order] > 0]
    borders = _borders(spans[order], blocks)
    holds = _holds(spans[order], borders)
    if exclusive:
        alone = np.isin(order, list(exclusive))
        holds &= alone | ~holds[:, alone].any(axis=1, keepdims=True)
    if not holds.any(axis=1).all():
        return None
    is_kept = _leads(holds, size)
    lengths = np.diff(borders)
    block_ms = (hosts.block_ms + hosts.visit_ms / np.maximum(used, 1))[order]
    for region in _promising(holds, lengths, block_ms, hosts.regions[order]):
        is_kept |= _leads(holds & (hosts.regions[order] == region), size)
    order, holds = order[is_kept], holds[:, is_kept]
    rank = holds.cumsum(axis=1, dtype=np.int32)
    width = min(max(size, MAX_WIDTH), int(rank[:, -1].max()))
    segment, place = np.nonzero(holds & (rank <= width))
    slots = np.full((len(holds), width), -1)
    slots[segment, rank[segment, place] - 1] = place
    is_empty = slots < 0
    return order.tolist(), borders, np.where(is_empty, 0, slots), is_empty


def _leads(holds: Flags, size: int) -> Flags:
    """Which hosts, best first, are among the first `size` of any segment."""
    leads: Flags = np.any(holds & (holds.cumsum(axis=1, dtype=np.int32) <= size), axis=0)
    return leads


def _promising(
    holds: Flags, lengths: Indices, block_ms: NDArray[np.float64], regions: Indices
) -> list[int]:
    """The regions that would run all segments soonest, blocks they lack being run elsewhere."""
    names = np.unique(regions)
    if len(names) < 2:
        return []
    away_ms = block_ms[holds.argmax(axis=1)] + AWAY_MS
    totals = []
    for region in names:
        here = holds[:, regions == region]
        first_ms = np.where(
            here.any(axis=1), block_ms[regions == region][here.argmax(axis=1)], np.inf
        )
        totals.append(float((np.minimum(first_ms, away_ms) * lengths).sum()))
    return [int(names[i]) for i in np.argsort(totals, kind="stable")[:REGIONS]]


def _borders(spans: Indices, blocks: Span) -> list[int]:
    inside = spans[(spans > blocks.start) & (spans < blocks.stop)]
    return sorted({blocks.start, blocks.stop, *inside.tolist()})


def _holds(spans: Indices, borders: Sequence[int]) -> Flags:
    """[segment, host]: whether the host can run all of the segment."""
    starts, stops = np.array(borders[:-1])[:, None], np.array(borders[1:])[:, None]
    return (spans[:, 0] <= starts) & (stops <= spans[:, 1])
