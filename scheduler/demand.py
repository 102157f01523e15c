"""Which of several models a node should serve, so that nodes spread over models by demand.

In: who serves what, how much each host ran lately and how long rows wait there. Out: one of the
models this node could serve. Pure. Which blocks of it: `placement.py`.

Demand in tokens per second is what hosts ran, plus what waits, as if it were to be worked off
within `BACKLOG_S`; load is demand over max-flow. In this order a node

1. completes a model that misses nothing but what it can hold, if somebody serves the rest already;
2. strengthens the model whose load is highest, if that is `BUSY` or more;
3. goes on with the model that needs the fewest further nodes to be complete, so that newcomers do
   not begin many models and finish none;
4. strengthens the model with the highest load, or with none the one with the least flow.

A node that serves already changes its model only for one whose load is `CLEAR` times as high, or
that it completes while nobody waits for its own; only if its own stays complete and calm without
it; and only in its turn, one host of its own model at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from protocol.announcements import Announcement
from protocol.identity import PeerId
from protocol.measured import State
from protocol.messages import Span, require
from scheduler.board import Member, Trial
from scheduler.capacity import serving
from scheduler.moves import TURN_S, lot
from scheduler.placement_table import Table

BACKLOG_S = 10.0
BUSY = 0.8
CLEAR = 2.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that this node could serve."""

    manifest: bytes
    n_blocks: int
    capacity_blocks: int  # that fit here

    def __post_init__(self) -> None:
        require(self.n_blocks >= 1, "a model has blocks")
        require(self.capacity_blocks >= 1, "a node that serves can hold a block")


@dataclass(frozen=True, slots=True)
class _Need:
    """How a model stands without this node, and would with it."""

    n_hosts: int
    demand: float  # tokens per second
    flow: float
    flow_with: float
    needed_with: int  # further nodes like this one

    @property
    def is_complete(self) -> bool:
        return self.flow > 0

    @property
    def is_completed(self) -> bool:
        return not self.is_complete and self.flow_with > 0

    @property
    def load(self) -> float:
        return self.demand / self.flow if self.flow > 0 else 0.0


def choose_model(
    announcements: Sequence[Announcement],
    candidates: Sequence[Candidate],
    *,
    peer_id: PeerId,
    speed_blocks_per_s: float | None = None,
    now_serving: bytes | None = None,
    now_ms: int | None = None,
) -> Candidate:
    """The model that this node should serve; by a lot of its own among equals.

    Args:
        now_serving: the manifest it serves already, which then is among the candidates.
        now_ms: wall clock: whose turn it is to change.

    Raises:
        ValueError: there are no candidates, or the one it serves is not among them.
    """
    if not candidates:
        raise ValueError("a node can serve at least one model")
    needs = {
        candidate.manifest: _need(announcements, candidate, peer_id, speed_blocks_per_s)
        for candidate in candidates
    }
    ranked = sorted(candidates, key=lambda one: _rank(needs[one.manifest], peer_id, one.manifest))
    if now_serving is None:
        return ranked[0]
    own = next((one for one in candidates if one.manifest == now_serving), None)
    if own is None:
        raise ValueError("the model a node serves is one that it can serve")
    turn = 0 if now_ms is None else now_ms // (1000 * TURN_S)
    best, leaves = needs[ranked[0].manifest], needs[now_serving]
    if (
        not leaves.is_complete
        or leaves.load >= BUSY
        or not _is_turn(announcements, own, peer_id, turn)
    ):
        return own
    is_called = best.is_completed and leaves.demand == 0
    is_busier = best.load >= BUSY and best.load >= CLEAR * leaves.load
    return ranked[0] if is_called or is_busier else own


def _need(
    announcements: Sequence[Announcement],
    candidate: Candidate,
    peer_id: PeerId,
    speed_blocks_per_s: float | None,
) -> _Need:
    n_blocks, length = candidate.n_blocks, min(candidate.capacity_blocks, candidate.n_blocks)
    table = Table.of(announcements, candidate.manifest, n_blocks, without=peer_id)
    speed = table.typical_speed if speed_blocks_per_s is None else speed_blocks_per_s
    trials = [
        Trial((), (Member(Span(start, start + length), speed),))
        for start in range(n_blocks - length + 1)
    ]
    values = table.board.weigh(trials, length=length)
    best = int(values.order()[0])
    rows = [
        peer.measured.rows_per_s * (1 + peer.measured.queue_us / 1e6 / BACKLOG_S) * len(peer.span)
        for peer in serving(announcements, candidate.manifest, is_stable=False)
        if peer.span is not None
    ]
    return _Need(
        n_hosts=len(table.members),
        demand=sum(rows) / n_blocks,  # every token runs every block once
        flow=table.board.swarm.tokens_per_s(),
        flow_with=float(values.tokens_per_s[best]),
        needed_with=int(values.needed[best]),
    )


def _rank(need: _Need, peer_id: PeerId, manifest: bytes) -> tuple[int, float, float, bytes]:
    """The least comes first: see the module."""
    own_lot = sha256(peer_id.encode() + manifest).digest()
    if need.is_completed and need.n_hosts:
        return 1, -need.demand, 0.0, own_lot
    if need.is_complete and need.load >= BUSY:
        return 2, -need.load, 0.0, own_lot
    if not need.is_complete:
        return 3, need.needed_with, -need.n_hosts, own_lot
    return 4, -need.load, need.flow, own_lot


def _is_turn(
    announcements: Sequence[Announcement], own: Candidate, peer_id: PeerId, turn: int
) -> bool:
    hosts = serving(announcements, own.manifest, is_stable=False)
    if any(peer.measured.state is State.MOVING and peer.peer_id != peer_id for peer in hosts):
        return False
    lots = {peer.peer_id: lot(turn, peer.peer_id) for peer in hosts}
    return peer_id in lots and lots[peer_id] == min(lots.values())
