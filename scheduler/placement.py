"""Which blocks a joining node should serve: those that the swarm misses most.

In: who serves now, and how many blocks the newcomer can hold. Out: a span, or a move. Pure; the
front door hands these to the node, so that `node` need not know this room. The full planner, which
weighs flows, links and risks, comes in this place later; the rule for now is simple:

1. cover as many uncovered blocks as possible;
2. leave the rest in such pieces that the fewest further nodes of this size can cover them;
3. strengthen the weakest: the least summed speed over the span;
4. among equals, a lot drawn from the peer id, so that nodes that start together spread.

Nodes that start together can still take the same blocks, because none has seen the other yet.
`choose_move` mends that afterwards, one node at a time.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

from protocol.announcements import Announcement
from protocol.identity import PeerId
from protocol.messages import Span

UNMEASURED_BLOCKS_PER_S = 500.0


def choose_span(
    announcements: Iterable[Announcement],
    *,
    manifest: bytes,
    n_blocks: int,
    capacity_blocks: int,
    peer_id: PeerId,
) -> Span:
    """The run of at most `capacity_blocks` that the swarm misses most, as the module describes."""
    length = min(capacity_blocks, n_blocks)
    if length < 1:
        raise ValueError(f"a node that serves can hold a block, got {capacity_blocks}")
    hosts = [host for host in _hosts(announcements, manifest) if host.peer_id != peer_id]
    speeds = _speeds(hosts, n_blocks)

    def rank(span: Span) -> tuple[int, int, float, bytes]:
        left = [block for block in _uncovered(speeds) if not span.start <= block < span.stop]
        return (
            len(left),
            _nodes_needed(left, length),
            round(sum(speeds[span.start : span.stop]), 3),
            sha256(f"{peer_id} {span}".encode()).digest(),
        )

    return min((Span(start, start + length) for start in range(n_blocks - length + 1)), key=rank)


def choose_move(
    announcements: Sequence[Announcement],
    *,
    manifest: bytes,
    n_blocks: int,
    capacity_blocks: int,
    peer_id: PeerId,
) -> Span | None:
    """The span that `peer_id` should serve instead of its own; None: stay.

    A node moves only when blocks are missing, others hold all of its own, and of all who could
    move it holds the highest lot: every node sees the same table, so one moves at a time. It
    never leaves a block without a host.
    """
    hosts = _hosts(announcements, manifest)
    if not _uncovered(_speeds(hosts, n_blocks)):
        return None
    movable = [host.peer_id for host in hosts if _is_spare(host, hosts, n_blocks)]
    if not movable or max(movable, key=_lot) != peer_id:
        return None
    return choose_span(
        announcements,
        manifest=manifest,
        n_blocks=n_blocks,
        capacity_blocks=capacity_blocks,
        peer_id=peer_id,
    )


def _hosts(announcements: Iterable[Announcement], manifest: bytes) -> list[Announcement]:
    return [
        announcement
        for announcement in announcements
        if announcement.manifest == manifest and announcement.span is not None
    ]


def _speeds(hosts: Iterable[Announcement], n_blocks: int) -> list[float]:
    """For each block, how often per second its hosts together could run it, shared over a span."""
    speeds = [0.0] * n_blocks
    for host in hosts:
        assert host.span is not None
        per_s = 1e6 / host.decode_us if host.decode_us else UNMEASURED_BLOCKS_PER_S / len(host.span)
        for block in range(host.span.start, min(host.span.stop, n_blocks)):
            speeds[block] += per_s
    return speeds


def _uncovered(speeds: Sequence[float]) -> list[int]:
    return [block for block, speed in enumerate(speeds) if speed == 0]


def _nodes_needed(blocks: Sequence[int], length: int) -> int:
    """How many spans of `length` it takes to cover `blocks`, which are in order."""
    n, reached = 0, -1
    for block in blocks:
        if block > reached:
            n, reached = n + 1, block + length - 1
    return n


def _is_spare(host: Announcement, hosts: Iterable[Announcement], n_blocks: int) -> bool:
    others = _speeds((other for other in hosts if other.peer_id != host.peer_id), n_blocks)
    assert host.span is not None
    return all(others[host.span.start : host.span.stop])


def _lot(peer_id: PeerId) -> bytes:
    return sha256(peer_id.encode()).digest()
