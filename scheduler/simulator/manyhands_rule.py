"""Our own rule: what the real scheduler decides, from announcements as they have spread.

Nothing is decided here. Spans come from `scheduler.placement`, chains from `scheduler.routing`.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import replace

from protocol.identity import PeerId
from protocol.messages import Span
from scheduler.moves import TURN_S, next_move
from scheduler.placement import choose_move, choose_span
from scheduler.placement_table import Table
from scheduler.probing import choose, token_ms, worth_asking
from scheduler.routing import (
    MENDING_ROUTES,
    Route,
    Wanted,
    draw_route,
    find_replacement,
    find_routes,
)
from scheduler.simulator.announcing import (
    EPOCH_MS,
    MANIFEST,
    PROFILE,
    announced_blocks_per_s,
)
from scheduler.simulator.policies import Chain, Missing, Seat, Spans, Swarm
from scheduler.simulator.traces import Request

RELOAD_S = 60.0


class Manyhands:
    """See the module."""

    name = "Manyhands"
    survives = drains = fetches_first = admits = True
    look_s = 30.0

    def __init__(self) -> None:
        self._turn = -1
        self._next: PeerId | None = None  # who may move in this turn
        self._decided: dict[PeerId, tuple[int, Span]] = {}  # who fetches: since when, what

    def joined(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        spec = swarm.world.spec(peer_id)
        span = choose_span(
            swarm.announcements,
            manifest=MANIFEST,
            n_blocks=swarm.world.model.n_blocks,
            capacity_blocks=spec.capacity_blocks,
            peer_id=peer_id,
            speed_blocks_per_s=announced_blocks_per_s(spec),
            region=spec.region,
            now_ms=_now_ms(swarm),
        )
        return {peer_id: span}

    def left(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        return {}

    def looked(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        # Whose turn it is costs as much to find out as all the rest, and is the same for everybody
        # who looks at the same table: here it is found out once per turn, where each real node does
        # so by itself. The peer whose turn it is then asks as a real one does.
        now_ms = _now_ms(swarm)
        turn = now_ms // (1000 * TURN_S)
        if turn != self._turn:
            self._turn, self._next = turn, self._next_to_move(swarm, turn)
        decided_ms, target = self._decided.pop(peer_id, (now_ms, None))
        if target is None or target == swarm.standing[peer_id].span:
            if self._next != peer_id:
                return {}
            decided_ms = now_ms
        spec = swarm.world.spec(peer_id)
        span = choose_move(
            swarm.announcements,
            manifest=MANIFEST,
            n_blocks=swarm.world.model.n_blocks,
            capacity_blocks=spec.capacity_blocks,
            peer_id=peer_id,
            now_ms=decided_ms,  # weights take longer than a turn: it asks again as of when it began
            reload_s=spec.load_block_s * spec.capacity_blocks,
        )
        if span is None:
            return {}
        self._decided[peer_id] = decided_ms, span
        return {peer_id: span}

    def _next_to_move(self, swarm: Swarm, turn: int) -> PeerId | None:
        n_blocks, now_ms = swarm.world.model.n_blocks, _now_ms(swarm)
        table = Table.of(swarm.announcements, MANIFEST, n_blocks, now_ms=now_ms)
        move = next_move(table, turn, RELOAD_S)
        return None if move is None else move[0]

    def route(
        self, swarm: Swarm, request: Request, avoid: Collection[PeerId], rng: random.Random
    ) -> Chain | None:
        wanted = _wanted(swarm, request, avoid)
        routes = find_routes(swarm.announcements, wanted, seed=rng.getrandbits(32))
        return _seats(_asked(swarm, routes, wanted, rng)) if routes else None

    def mend(
        self,
        swarm: Swarm,
        request: Request,
        missing: Missing,
        avoid: Collection[PeerId],
        rng: random.Random,
    ) -> Chain | None:
        routes = find_replacement(
            swarm.announcements,
            missing.span,
            replace(_wanted(swarm, request, avoid), has_begun=True),
            before=missing.before,
            after=missing.after,
            k=MENDING_ROUTES,
            seed=rng.getrandbits(32),
        )
        n_blocks = swarm.world.model.n_blocks
        return _seats(draw_route(routes, rng, n_blocks=n_blocks)) if routes else None


def _now_ms(swarm: Swarm) -> int:
    return EPOCH_MS + round(swarm.now_s * 1000)


def _wanted(swarm: Swarm, request: Request, avoid: Collection[PeerId]) -> Wanted:
    return Wanted(
        manifest=MANIFEST,
        n_blocks=swarm.world.model.n_blocks,
        n_positions=request.n_positions,
        n_prompt=request.n_prompt,
        hidden_size=swarm.world.model.row_bytes // 4,
        profile=PROFILE,
        avoid=frozenset(avoid),
    )


def _asked(swarm: Swarm, routes: Sequence[Route], wanted: Wanted, rng: random.Random) -> Route:
    """As `choose_fresh` does, over a network that answers at once."""
    worth, firsts = worth_asking(routes)
    if len(firsts) < 2:
        return draw_route(worth, rng)
    loads = {peer.peer_id: swarm.ask_load(peer.peer_id) for peer in firsts}
    return choose(worth, loads, rng, lambda peer: token_ms(peer, wanted, {}))


def _seats(route: Route) -> Chain:
    return tuple(Seat(hop.peer_id, Span(hop.span.start, hop.span.stop)) for hop in route.hops)
