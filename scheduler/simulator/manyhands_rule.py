"""Our own rule: what the real scheduler decides, from announcements as they have spread.

Nothing is decided here. Spans come from `scheduler.placement`, chains from `scheduler.routing`.
"""

import random
from collections.abc import Collection

from protocol.identity import PeerId
from protocol.messages import Span
from scheduler.placement import choose_move, choose_span
from scheduler.routing import Route, Wanted, draw_route, find_replacement, find_routes
from scheduler.simulator.announcing import MANIFEST, PROFILE
from scheduler.simulator.policies import Chain, Missing, Seat, Spans, Swarm
from scheduler.simulator.traces import Request


class Manyhands:
    """See the module."""

    name = "Manyhands"
    survives = drains = fetches_first = True
    look_s = 30.0

    def joined(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        span = choose_span(
            swarm.announcements,
            manifest=MANIFEST,
            n_blocks=swarm.world.model.n_blocks,
            capacity_blocks=swarm.world.spec(peer_id).capacity_blocks,
            peer_id=peer_id,
        )
        return {peer_id: span}

    def left(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        return {}

    def looked(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        span = choose_move(
            swarm.announcements,
            manifest=MANIFEST,
            n_blocks=swarm.world.model.n_blocks,
            capacity_blocks=swarm.world.spec(peer_id).capacity_blocks,
            peer_id=peer_id,
        )
        return {} if span is None else {peer_id: span}

    def route(
        self, swarm: Swarm, request: Request, avoid: Collection[PeerId], rng: random.Random
    ) -> Chain | None:
        routes = find_routes(
            swarm.announcements, _wanted(swarm, request, avoid), seed=rng.getrandbits(32)
        )
        return _seats(draw_route(routes, rng)) if routes else None

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
            _wanted(swarm, request, avoid),
            before=missing.before,
            after=missing.after,
            seed=rng.getrandbits(32),
        )
        return _seats(draw_route(routes, rng)) if routes else None


def _wanted(swarm: Swarm, request: Request, avoid: Collection[PeerId]) -> Wanted:
    return Wanted(
        manifest=MANIFEST,
        n_blocks=swarm.world.model.n_blocks,
        n_positions=request.n_positions,
        profile=PROFILE,
        avoid=frozenset(avoid),
    )


def _seats(route: Route) -> Chain:
    return tuple(Seat(hop.peer_id, Span(hop.span.start, hop.span.stop)) for hop in route.hops)
