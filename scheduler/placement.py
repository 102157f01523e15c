"""Which blocks a node should serve: when it joins, and when it had better serve others.

In: who serves now (announcements), and how many blocks this node can hold. Out: a span, or a move.
Pure; the front door hands these to the node, so that `node` need not know this room. Each node
decides for itself; there is no coordinator. What a placement is worth is weighed in `board.py`.

Joining (`choose_span`): cover what is uncovered, in such a way that what is left lies together, and
beside whoever is weak, since those who cover it will hold a little more than that; then raise the
swarm's max-flow most, counting the risk that a block's only hosts leave; where that is near-equal
and others are near, go where a token's way through this node is soonest (`passage.py`); else a lot
drawn from the peer id, so that nodes that start together spread. What others are about to serve,
and load, counts as if they did. Everybody serves as many blocks as it can hold: any host may be
entered in the middle, so that speed flows to wherever in its span it is missed. That is
water-filling by speed, subject to memory, and the max-flow is its level.

Moving (`choose_move`): a node moves when that wins clearly and pays for the reload, and only from
blocks that others hold too; in a swarm that lacks blocks, and so makes no tokens anyway, it may
also shift, if it takes along what only it holds. All nodes see about the same table and draw the
same lots, so one moves at a time (`moves.py` says which); lots are drawn anew every `TURN_S`, so
that a peer that does not take its turn holds up nobody for long. While a peer is MOVING nobody else
begins. Tables differ for seconds after a change, and two nodes can begin at once; therefore a node
says that it moves, waits until all have heard, and asks again before it drains. Those rules are in
`node/moving_rules.py`: they keep every block hosted, whatever is chosen here.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from protocol.announcements import Announcement
from protocol.identity import PeerId
from protocol.measured import State
from protocol.messages import Span
from scheduler.board import NEVER, Member, Trial, Values
from scheduler.capacity import serving
from scheduler.lifetime import leaves_soon
from scheduler.moves import TURN_S, lot, next_move
from scheduler.placement_table import Table

NEAR_EQUAL = 0.1  # of what a node adds at best: this much it gives up for shorter ways


def choose_span(
    announcements: Iterable[Announcement],
    *,
    manifest: bytes,
    n_blocks: int,
    capacity_blocks: int,
    peer_id: PeerId,
    speed_blocks_per_s: float | None = None,
    region: str = "",
    near: Collection[PeerId] = (),
    loading: Iterable[Announcement] = (),
    now_ms: int | None = None,
) -> Span:
    """The run of at most `capacity_blocks` that the swarm misses most, as the module describes.

    Args:
        speed_blocks_per_s: of this node; None: as fast as the others are in the middle.
        region, near: where it is, and who else is known to be near.
        loading: of peers that will serve, which nobody but a newcomer counts.
        now_ms: wall clock, by which peers have an age; None: the risk of leaving is not weighed.
    """
    length = min(capacity_blocks, n_blocks)
    if length < 1:
        raise ValueError(f"a node that serves can hold a block, got {capacity_blocks}")
    table = Table.of(
        announcements, manifest, n_blocks, without=peer_id, now_ms=now_ms, loading=loading
    )
    speed = table.typical_speed if speed_blocks_per_s is None else speed_blocks_per_s
    leaves = NEVER if now_ms is None else leaves_soon(0.0)
    places = [
        Member(Span(start, start + length), speed, leaves) for start in range(n_blocks - length + 1)
    ]
    places.sort(key=lambda place: lot(0, PeerId(f"{peer_id} {place.span}")))
    trials = [Trial((), (place,)) for place in places]
    values = table.board.weigh(trials, length=length)
    order = [int(i) for i in values.order()]
    if values.uncovered[order[0]]:
        places = [places[i] for i in order if not values.covers_better(order[0], i)]
        values = table.board.weigh(_once_covered(table, places))
        order = [int(i) for i in values.order()]
    equal = [i for i in order if _is_near_equal(values, i, order[0], speed, n_blocks)]
    near_by = table.near(region, near)
    if len(equal) > 1 and near_by:
        through_ms = table.through_ms([places[i].span for i in equal], near_by, speed)
        return places[equal[int(np.argmin(through_ms))]].span
    return places[order[0]].span


def _once_covered(table: Table, places: Sequence[Member]) -> list[Trial]:
    """Each place with others beside it, who cover what is left.

    These hold a little more than that, and what is held twice helps whoever is weak beside the gap.
    Later moves cannot bring it about: in a swarm that can just hold the model nobody may go.
    """
    lengths = [len(member.span) for member in (*table.members.values(), places[0])]
    trials = []
    for place in places:
        uncovered = table.board.counts == 0
        uncovered[place.span.start : place.span.stop] = False
        others = _imagined(uncovered, round(fmean(lengths)), table.typical_speed)
        trials.append(Trial((), (place, *others)))
    return trials


def _imagined(uncovered: NDArray[np.bool_], length: int, speed: float) -> Iterator[Member]:
    """For each run of uncovered blocks those who will hold it, as one host that reaches as far
    beyond the run as they could.
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([0], uncovered.astype(int), [0])))).tolist()
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        n_nodes = -(-(stop - start) // length)
        spare = n_nodes * length - (stop - start)
        span = Span(max(0, start - spare), min(len(uncovered), stop + spare))
        yield Member(span, n_nodes * speed)


def _is_near_equal(values: Values, one: int, best: int, speed: float, n_blocks: int) -> bool:
    """Whether a place costs the swarm next to nothing of what this node could add."""
    lost = n_blocks * (values.expected[best] - values.expected[one])
    unserved = values.served[best] - values.served[one]
    return bool(max(lost, unserved) <= NEAR_EQUAL * speed) and not values.covers_better(best, one)


def choose_move(
    announcements: Sequence[Announcement],
    *,
    manifest: bytes,
    n_blocks: int,
    capacity_blocks: int,
    peer_id: PeerId,
    now_ms: int | None = None,
    reload_s: float = 60.0,
    stuck: Collection[PeerId] = (),
) -> Span | None:
    """The span that `peer_id` should serve instead of its own; None: stay.

    Args:
        now_ms: wall clock: whose turn it is, and how old peers are.
        reload_s: how long this node would serve nothing.
        stuck: peers that have been MOVING for so long that nobody waits for them any more.
    """
    if any(
        peer.measured.state is State.MOVING and peer.peer_id not in {peer_id, *stuck}
        for peer in serving(announcements, manifest, is_stable=False)
    ):
        return None
    table = Table.of(announcements, manifest, n_blocks, now_ms=now_ms)
    if peer_id not in table.members:
        return None
    table.capacities[peer_id] = capacity_blocks
    turn = 0 if now_ms is None else now_ms // (1000 * TURN_S)
    move = next_move(table, turn, reload_s)
    return move[1] if move is not None and move[0] == peer_id else None
