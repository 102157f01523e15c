"""Who of a model's hosts had better serve other blocks, and which; `placement.py` has the rules.

In: the table of members. Out: the one move that is next in this turn. Pure; whether it happens is
left to the node that it names.
"""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from math import log

import numpy as np

from protocol.identity import PeerId
from protocol.messages import Span
from scheduler.board import Member, Trial, Values
from scheduler.placement_table import Table

TURN_S = 30
AT_REST = 0.9  # of the flow that no placement exceeds; nearer than that, nobody moves
CLEAR = 0.25  # of a node's speed: a move must put this much more to use
STAY_S = 3600.0  # how long a swarm stays about as it is: what a move has to pay off in
PAYS = 2.0  # times over
WORK = 8e6  # trials times blocks squared: what one decision weighs at most
MAX_PLANS, NARROWEST, MAX_DEPTH = 2000, 10, 4  # of the search in small swarms
WIDER = 4  # times as many plans, as far as the work allowed goes
MAX_RUNNERS = 2000  # in one turn
ABOVE = 1.25  # times the flow: speed that is idle at this demand could go elsewhere
SLOWEST = 0.01  # pace of a peer without idle speed, by its speed
ROUNDING = 1e-6

STAY, AWAY = 0, 1  # the first trials of every weighing

Move = tuple[PeerId, Span]


def next_move(table: Table, turn: int, reload_s: float) -> Move | None:
    """The move that is next, if any wins."""
    expected, best_flow = table.board.expected(), table.best_flow()
    if table.board.is_covered and expected >= AT_REST * best_flow:
        return None
    peers = [peer for peer, capacity in table.capacities.items() if capacity]
    n_places = max(1, sum(table.n_places(peer) for peer in peers))
    width = MAX_PLANS // n_places
    if table.board.is_covered and width >= NARROWEST:
        width = max(width, min(WIDER * width, int(WORK / table.n_blocks**2 / n_places)))
        return first_of_plan(table, _in_turn(peers, turn), width, PAYS * reload_s / STAY_S)
    return first_of_race(table, _race(table, peers, turn), reload_s)


def lot(turn: int, peer_id: PeerId) -> bytes:
    """The same on every node."""
    return sha256(f"{turn} {peer_id}".encode()).digest()


def _race(table: Table, peers: Sequence[PeerId], turn: int) -> list[PeerId]:
    """Those that may go, in the order of this turn.

    Times to the goal are exponential with a rate of the idle speed squared: who is missed least
    where it is goes first, mostly, and nobody waits for ever behind a peer that stays put.
    """
    # A swarm that lacks blocks makes no tokens: there, nodes that others need may shift too.
    if table.board.is_covered:
        members = table.members
        peers = [p for p in peers if not table.board.only_hosted_by(members[p]).any()]
    if len(peers) > MAX_RUNNERS:
        peers = sorted(peers, key=lambda peer: lot(turn, peer))[:MAX_RUNNERS]
    if not peers:
        return []
    idle = table.board.idle([table.members[peer] for peer in peers], ABOVE)
    finish = {}
    for peer, idle_blocks_per_s in zip(peers, idle, strict=True):
        pace = float(idle_blocks_per_s) + SLOWEST * table.members[peer].blocks_per_s
        chance = (int.from_bytes(lot(turn, peer)[:8], "big") + 1) / 2**64
        finish[peer] = -log(chance) / max(pace, 1e-9) ** 2
    return sorted(peers, key=lambda peer: (finish[peer], peer))


def _in_turn(peers: Sequence[PeerId], turn: int) -> list[PeerId]:
    """Mostly all of them; every fourth turn half, so that no plan waits for one peer for ever."""
    return [peer for peer in peers if turn % 4 != 3 or lot(turn, peer)[8] % 2]


def first_of_race(table: Table, runners: Sequence[PeerId], reload_s: float) -> Move | None:
    """The first in the race whose move wins by itself, as far as the work allowed goes."""
    n_weighed = 0
    for peer in runners:
        member = table.members[peer]
        needed = set(np.flatnonzero(table.board.only_hosted_by(member)).tolist())
        trials = [Trial((), ()), Trial((member,), ())]
        trials += [
            Trial((member,), (place,))
            for place in table.places(peer)
            if place != member and needed <= set(range(place.span.start, place.span.stop))
        ]
        n_weighed += len(trials)
        if n_weighed > WORK / table.n_blocks**2:
            break
        values = table.board.weigh(trials, length=len(member.span))
        best = next(int(i) for i in values.order() if i != AWAY)
        if best != STAY and _wins(values, best, table.n_blocks, member.blocks_per_s, reload_s):
            return peer, trials[best].plus[0].span
    return None


def _wins(values: Values, i: int, n_blocks: int, speed: float, reload_s: float) -> bool:
    """Whether a trial is clearly better than to stay, and pays for the time away."""
    if values.uncovered[STAY]:
        return values.covers_better(i, STAY)
    if values.expected[i] < values.expected[STAY] * (1 - ROUNDING):
        return False
    return any(
        worth[i] - worth[STAY] >= CLEAR * speed
        and (worth[i] - worth[STAY]) * STAY_S >= PAYS * reload_s * (worth[STAY] - worth[AWAY])
        for worth in (values.expected * n_blocks, values.served)
    )


def first_of_plan(table: Table, peers: Sequence[PeerId], width: int, toll: float) -> Move | None:
    """The first step of the best few moves that together are worth more than they cost.

    For swarms so small that it often takes several moves to gain anything, and that all can be
    weighed: a beam search. No step leaves a block without a host, but one may cost flow that a
    later one brings back. What a plan is worth less its tolls grows with every step taken, so that
    no step is ever taken back.

    Args:
        width: of the beam: how many plans are followed at each depth.
        toll: of a move, as a part of what the swarm is expected to make.
    """
    beam: list[_Plan] = [()]
    best: _Plan = ()
    best_worth = now = table.board.expected()
    for depth in range(1, MAX_DEPTH + 1):
        plans = list(
            {frozenset(plan): plan for one in beam for plan in _longer(table, one, peers)}.values()
        )
        if not plans:
            break
        values = table.board.weigh([_trial(table, plan) for plan in plans])
        order = values.order()
        worth = float(values.expected[order[0]]) - depth * toll * now
        if worth > best_worth * (1 + ROUNDING):
            best, best_worth = plans[int(order[0])], worth
        beam = [plans[int(i)] for i in order[:width]]
    return (best[0][0], best[0][1].span) if best else None


_Plan = tuple[tuple[PeerId, Member], ...]  # moves in order, each peer once


def _trial(table: Table, plan: _Plan) -> Trial:
    return Trial(tuple(table.members[peer] for peer, _ in plan), tuple(place for _, place in plan))


def _longer(table: Table, plan: _Plan, peers: Sequence[PeerId]) -> Iterator[_Plan]:
    """With one more move, of a peer whose blocks others hold by then."""
    counts = table.board.after(_trial(table, plan)).counts
    moved = {peer for peer, _ in plan}
    for peer in peers:
        member = table.members[peer]
        if peer not in moved and (counts[member.span.start : member.span.stop] > 1).all():
            for place in table.places(peer):
                if place != member:
                    yield (*plan, (peer, place))
