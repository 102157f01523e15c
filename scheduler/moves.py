"""Who of a model's hosts had better serve other blocks, and which; `placement.py` has the rules.

In: the table of members. Out: the one move that is next in this turn. Pure; whether it happens is
left to the node that it names.
"""

from collections.abc import Sequence
from hashlib import sha256
from math import log

import numpy as np

from protocol.identity import PeerId
from scheduler.board import Trial, Values
from scheduler.placement_table import Table
from scheduler.plans import ROUNDING, Move, first_of_plan

TURN_S = 30
TURNS = 40  # that the same peers plan: longer than a plan takes, whose moves are reloads
AT_REST = 0.9  # of the flow that no placement exceeds; nearer than that, nobody moves
CLEAR = 0.25  # of a node's speed: a move must put this much more to use
STAY_S = 3600.0  # how long a swarm stays about as it is: what a move has to pay off in
PAYS = 2.0  # times over
WORK = 8e6  # trials times blocks squared: what one decision weighs at most
MAX_PLANS, NARROWEST = 2000, 10  # of the search in small swarms
WIDER = 4  # times as many plans, as far as the work allowed goes
MAX_RUNNERS = 2000  # in one turn
ABOVE = 1.25  # times the flow: speed that is idle at this demand could go elsewhere
SLOWEST = 0.01  # pace of a peer without idle speed, by its speed

STAY, AWAY = 0, 1  # the first trials of every weighing


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
    """Mostly all of them; every fourth time half, so that no plan waits for one peer for ever.

    For many turns on end: plans of all and plans of half might take back each other's steps.
    """
    of_time = turn // TURNS
    return [peer for peer in peers if of_time % 4 != 3 or lot(of_time, peer)[8] % 2]


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
