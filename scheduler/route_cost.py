"""What one token costs at one peer, in milliseconds, part by part.

In: an announcement, what the client believes beside it. Out: a `Cost`: what each block adds, and
what a visit adds however many blocks it runs. Routes are chosen by its sums, and people are shown
its parts. Links between peers are counted in `routing.py`.

For `Goal.LATENCY` a block costs what a step of it takes once this session has joined those that
share it: read off the announced curve of step times, else from the time of a step alone. For
`Goal.THROUGHPUT` it costs the node's time that a row takes in a full batch, dearer the less of the
node is left: lengths that grow with load, whose shortest paths share the swarm's capacity as a
maximum flow does (Garg and Könemann, SIAM J. Comput. 2007).
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from protocol.announcements import Announcement
from scheduler.prices import asked
from scheduler.wanted import Goal, Wanted

HOP_MS = 0.5  # what a visit costs beside computing: framing, two event loops, a thread switch
UNMEASURED_BLOCK_MS = 2.0
SHARE_PER_SESSION = 0.17  # batched sessions slow each other: 8 at once give 3.7 times one's tokens
FULL_BATCH = 8  # sessions, where no curve is announced
MS_PER_NCR = 1.0  # what we wait, at most, to save a nanocredit on a token
NEARLY_FULL_MS = 2.0  # per token, where a session takes all KV room that is left: others want it
MOST_LOAD = 0.95


class Cost(NamedTuple):
    """Milliseconds per token at one peer. Those per block first, then those of a visit."""

    compute_ms: float
    price_ms: float
    hop_ms: float
    queue_ms: float
    room_ms: float
    fee_ms: float  # the price of what is not counted by block
    extra_ms: float  # as the client judges: risk

    @property
    def block_ms(self) -> float:
        return self.compute_ms + self.price_ms

    @property
    def visit_ms(self) -> float:
        return self.hop_ms + self.queue_ms + self.room_ms + self.fee_ms + self.extra_ms


def cost_of(
    peer: Announcement, wanted: Wanted, *, slowdown: float = 1.0, extra_ms: float = 0.0
) -> Cost:
    """What a token of the session `wanted` costs at `peer`.

    Args:
        slowdown: by how much its times are longer than it announces, as the client saw.
    """
    assert peer.span is not None
    is_batch = wanted.goal is Goal.THROUGHPUT
    step_us = batched_us(peer) if is_batch else shared_us(peer)
    price = asked(peer.offer, peer.span, wanted.n_blocks, wanted.n_positions)
    needed, free = room_needed(peer, wanted), peer.kv_free_bytes
    return Cost(
        compute_ms=step_us / 1000 / len(peer.span) * slowdown,
        price_ms=price.per_block / 1e6 * MS_PER_NCR,
        hop_ms=HOP_MS,
        queue_ms=0.0 if is_batch else peer.measured.queue_us / 1000 * slowdown,
        room_ms=NEARLY_FULL_MS * min(1.0, needed / free) ** 2 if needed and free else 0.0,
        fee_ms=price.besides / 1e6 * MS_PER_NCR,
        extra_ms=extra_ms,
    )


def has_room(peer: Announcement, wanted: Wanted) -> bool:
    """Whether its free KV room holds the session in all its blocks, as far as it tells."""
    return room_needed(peer, wanted) <= peer.kv_free_bytes


def room_needed(peer: Announcement, wanted: Wanted) -> int:
    """Bytes, if it runs all its span; 0 where it does not tell what a position takes."""
    return wanted.n_positions * peer.measured.position_bytes


def shared_us(peer: Announcement) -> float:
    """A decode step through the whole span, shared with the sessions there are now."""
    curve = peer.measured.decode_steps_us
    if curve:
        return _read_off(curve, peer.n_sessions + 1)
    return _alone_us(peer) * (1 + SHARE_PER_SESSION * peer.n_sessions)


def batched_us(peer: Announcement) -> float:
    """The node's time for one row of a full batch through the span, dearer where it is busy."""
    curve = peer.measured.decode_steps_us or (
        (FULL_BATCH, round(_alone_us(peer) * (1 + SHARE_PER_SESSION * (FULL_BATCH - 1)))),
    )
    row_us, size = min((us / size, size) for size, us in curve)
    busy = max(peer.measured.rows_per_s * row_us / 1e6, peer.n_sessions / (peer.n_sessions + size))
    return row_us / (1 - min(MOST_LOAD, busy))


def _alone_us(peer: Announcement) -> float:
    assert peer.span is not None
    return peer.decode_us or UNMEASURED_BLOCK_MS * 1000 * len(peer.span)


def _read_off(curve: Sequence[tuple[int, int]], size: int) -> float:
    """The time of a step of `size` rows, straight between two measured ones and beyond them."""
    if len(curve) == 1:
        known, us = curve[0]
        return us * (1 + SHARE_PER_SESSION * (size - 1)) / (1 + SHARE_PER_SESSION * (known - 1))
    after = min(max(1, bisect_left(curve, (size, 0))), len(curve) - 1)
    (low, low_us), (high, high_us) = curve[after - 1], curve[after]
    slope = max(0.0, (high_us - low_us) / (high - low))
    return max(1.0, low_us + slope * (size - low))
