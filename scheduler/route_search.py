"""The cheapest ways to cover a run of blocks: a search over (block, host), each host used once.

In: hosts, each with its span, its cost per block and a fixed cost for being visited, and the
latency between any two. Out: the k cheapest covers. Pure arithmetic: what the costs mean, and who
is a host at all, is decided in `routing.py`.

The cost is linear in the block at which one host hands over to the next. So, where latencies obey
the triangle inequality, a cheapest cover hands over only where some span begins or ends, and it is
enough to decide once per segment between two such borders. That includes entering and leaving
spans in their middle.

A cover visits no host twice (a peer keeps one tab per session), which makes this a search over
labels that remember whom they visited. Labels that k others beat, with no more hosts spent, are
dropped. With more hosts than `MAX_HOSTS_PER_SEGMENT` for some segment, or more than `BEAM` labels
worth keeping for one host, the rest is cut: the answer is then a good one, no longer the best.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from protocol.messages import Span

MAX_HOSTS_PER_SEGMENT = 8
MAX_FIRST_HOSTS = 6
BEAM = 16


class Host(NamedTuple):
    """One candidate; its place in the sequence given to `cheapest_covers` breaks ties."""

    span: Span
    block_ms: float
    visit_ms: float


class Cover(NamedTuple):
    """Which host takes which blocks, in order."""

    cost_ms: float
    hops: tuple[tuple[int, Span], ...]  # (index of the host, blocks)


class _Label(NamedTuple):
    """One way to have covered everything up to a border, ending with some host."""

    cost_ms: float  # rounded, so that equal sums in another order are equal
    n_hops: int
    entries: tuple[tuple[int, int], ...]  # (first block, host) of each hop
    visited: int  # bit set of hosts that could be visited again by mistake


LinkMs = Callable[[int, int], float]
EndMs = Callable[[int], float]


def cheapest_covers(
    hosts: Sequence[Host],
    blocks: Span,
    link_ms: LinkMs,
    *,
    ends: tuple[EndMs, EndMs] | None,
    k: int,
) -> list[Cover]:
    """The `k` cheapest covers of `blocks`, best first; fewer hops first among equals.

    Args:
        ends: the latency from the fixed neighbour before to a host, and from a host to the fixed
            neighbour after. None closes a ring: the last host sends to the first one.
    """
    borders = _borders(hosts, blocks)
    segments = [Span(start, stop) for start, stop in pairwise(borders)]
    covering = _candidates(hosts, segments)
    if not all(covering):
        return []
    finished: list[_Label] = []
    for firsts in _starts(hosts, covering[0], is_ring=ends is None):
        labels = {host: [_first_label(host, hosts[host], segments[0], ends)] for host in firsts}
        for segment, candidates in zip(segments[1:], covering[1:], strict=True):
            labels = _extend(labels, hosts, segment, candidates, link_ms, k)
        for last, at_end in labels.items():
            closing_ms = link_ms(last, firsts[0]) if ends is None else ends[1](last)
            finished += [_add(label, closing_ms) for label in at_end]
    finished.sort()
    return [_cover(label, blocks.stop) for label in finished[:k]]


def _borders(hosts: Iterable[Host], blocks: Span) -> list[int]:
    inside = {border for host in hosts for border in (host.span.start, host.span.stop)}
    return sorted(
        {blocks.start, blocks.stop} | {b for b in inside if blocks.start < b < blocks.stop}
    )


def _candidates(hosts: Sequence[Host], segments: Sequence[Span]) -> list[list[int]]:
    """Who may take each segment. A host kept for one segment is kept for all it holds, so that
    the cut leaves a cover wherever there was one.
    """
    covering = [[i for i, host in enumerate(hosts) if host.span.holds(s)] for s in segments]
    kept: set[int] = set()
    for candidates in covering:
        kept.update(_cheapest(hosts, candidates, MAX_HOSTS_PER_SEGMENT))
    return [[i for i in candidates if i in kept] for candidates in covering]


def _starts(hosts: Sequence[Host], first: list[int], *, is_ring: bool) -> list[list[int]]:
    """A ring's cost depends on where it began, so each beginning is searched by itself."""
    return [[i] for i in _cheapest(hosts, first, MAX_FIRST_HOSTS)] if is_ring else [first]


def _cheapest(hosts: Sequence[Host], candidates: list[int], n: int) -> list[int]:
    if len(candidates) <= n:
        return candidates

    # A visit is shared by as many blocks as the host can take.
    def ms_per_block(i: int) -> float:
        return hosts[i].block_ms + hosts[i].visit_ms / len(hosts[i].span)

    return sorted(candidates, key=ms_per_block)[:n]


def _first_label(i: int, host: Host, segment: Span, ends: tuple[EndMs, EndMs] | None) -> _Label:
    entry_ms = 0.0 if ends is None else ends[0](i)
    cost_ms = entry_ms + host.visit_ms + host.block_ms * len(segment)
    return _Label(round(cost_ms, 6), 1, ((segment.start, i),), 1 << i)


def _extend(
    labels: dict[int, list[_Label]],
    hosts: Sequence[Host],
    segment: Span,
    candidates: list[int],
    link_ms: LinkMs,
    k: int,
) -> dict[int, list[_Label]]:
    """The labels at the end of `segment`, from those at its start."""
    returnable = sum(1 << i for i in candidates)  # who left a span for good needs no bit
    extended: dict[int, list[_Label]] = {}
    for i in candidates:
        compute_ms = hosts[i].block_ms * len(segment)
        stayed = [
            _Label(round(cost_ms + compute_ms, 6), n_hops, entries, visited & returnable)
            for cost_ms, n_hops, entries, visited in labels.get(i, ())
        ]
        entry, bit = (segment.start, i), 1 << i
        came = []
        for previous, before in labels.items():
            if previous != i:
                step_ms = link_ms(previous, i) + hosts[i].visit_ms + compute_ms
                came += [
                    _Label(
                        round(cost_ms + step_ms, 6),
                        n_hops + 1,
                        (*entries, entry),
                        (visited | bit) & returnable,
                    )
                    for cost_ms, n_hops, entries, visited in before
                    if not visited & bit
                ]
        extended[i] = _unbeaten(stayed + came, k)
    return extended


def _unbeaten(labels: list[_Label], k: int) -> list[_Label]:
    kept: list[_Label] = []
    for label in sorted(labels):
        spent = ~label.visited
        beaten_by = 0
        for better in kept:
            beaten_by += not better.visited & spent
        if beaten_by < k:
            kept.append(label)
            if len(kept) == BEAM:
                break
    return kept


def _add(label: _Label, ms: float) -> _Label:
    return label._replace(cost_ms=round(label.cost_ms + ms, 6))


def _cover(label: _Label, stop: int) -> Cover:
    stops = [start for start, _ in label.entries[1:]] + [stop]
    hops = ((i, Span(start, end)) for (start, i), end in zip(label.entries, stops, strict=True))
    return Cover(label.cost_ms, tuple(hops))
