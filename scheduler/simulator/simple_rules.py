"""The two plainest rules: equal stages for everybody, and chance.

Even split is what one gets from tools that cut a model into equal stages: every peer that can hold
a stage serves one, replicas of a stage share its sessions by their number. Random is the floor that
any rule must beat.
"""

import random
from collections.abc import Collection
from itertools import pairwise

from protocol.identity import PeerId
from protocol.messages import Span
from scheduler.simulator.policies import Chain, Missing, Seat, Spans, Standing, Swarm
from scheduler.simulator.traces import Request
from scheduler.simulator.world import World

ABLE = 0.75  # of the peers can hold a stage, at least


def stages(world: World) -> tuple[Span, ...]:
    """Equal runs of blocks, as long as three peers of four can hold."""
    capacities = sorted((peer.capacity_blocks for peer in world.peers), reverse=True)
    longest = capacities[max(0, round(len(capacities) * ABLE) - 1)]
    n_blocks = world.model.n_blocks
    n_stages = -(-n_blocks // longest)
    borders = [round(i * n_blocks / n_stages) for i in range(n_stages + 1)]
    return tuple(Span(a, b) for a, b in pairwise(borders))


class EvenSplit:
    """Equal stages; a peer joins the one with the fewest, and is moved only to an empty one."""

    name = "even split"
    survives = drains = True
    fetches_first = admits = False
    look_s = 30.0

    def joined(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        capacity = swarm.standing[peer_id].spec.capacity_blocks
        able = [stage for stage in stages(swarm.world) if len(stage) <= capacity]
        if not able:
            return {}
        counts = self._counts(swarm)
        return {peer_id: min(able, key=lambda stage: (counts.get(stage, 0), stage))}

    def left(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        counts = self._counts(swarm)
        for stage in stages(swarm.world):
            if counts.get(stage, 0) == 0:
                for other in sorted(swarm.standing.values(), key=lambda s: s.spec.peer_id):
                    spare = other.span is not None and counts.get(other.span, 0) > 1
                    if spare and other.is_serving and other.spec.capacity_blocks >= len(stage):
                        return {other.spec.peer_id: stage}
        return {}

    def looked(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        return {}

    def route(
        self, swarm: Swarm, request: Request, avoid: Collection[PeerId], rng: random.Random
    ) -> Chain | None:
        return _draw_chain(swarm, Span(0, swarm.world.model.n_blocks), avoid, rng, fewest=True)

    def mend(
        self,
        swarm: Swarm,
        request: Request,
        missing: Missing,
        avoid: Collection[PeerId],
        rng: random.Random,
    ) -> Chain | None:
        return _draw_chain(swarm, missing.span, avoid, rng, fewest=True)

    def _counts(self, swarm: Swarm) -> dict[Span, int]:
        counts: dict[Span, int] = {}
        for standing in swarm.standing.values():
            if standing.span is not None:
                counts[standing.span] = counts.get(standing.span, 0) + 1
        return counts


class RandomRule:
    """Spans and hosts by lot; nobody moves."""

    name = "random"
    survives = drains = True
    fetches_first = admits = False
    look_s = 30.0

    def joined(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        n_blocks = swarm.world.model.n_blocks
        length = min(swarm.standing[peer_id].spec.capacity_blocks, n_blocks)
        # Drawn beyond both ends and pushed back, so that the first and last blocks have hosts too.
        start = min(max(0, rng.randint(1 - length, n_blocks - 1)), n_blocks - length)
        return {peer_id: Span(start, start + length)}

    def left(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        return {}

    def looked(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        return {}

    def route(
        self, swarm: Swarm, request: Request, avoid: Collection[PeerId], rng: random.Random
    ) -> Chain | None:
        return _draw_chain(swarm, Span(0, swarm.world.model.n_blocks), avoid, rng)

    def mend(
        self,
        swarm: Swarm,
        request: Request,
        missing: Missing,
        avoid: Collection[PeerId],
        rng: random.Random,
    ) -> Chain | None:
        return _draw_chain(swarm, missing.span, avoid, rng)


def _draw_chain(
    swarm: Swarm,
    blocks: Span,
    avoid: Collection[PeerId],
    rng: random.Random,
    *,
    fewest: bool = False,
) -> Chain | None:
    """Block by block, a host by lot (or with the fewest sessions), used to its span's end."""
    hosts = [
        standing
        for standing in swarm.standing.values()
        if standing.is_serving and standing.spec.peer_id not in avoid
    ]
    seats: list[Seat] = []
    at = blocks.start
    while at < blocks.stop:
        able = [host for host in hosts if host.span is not None and host.span.start <= at]
        able = [host for host in able if host.span is not None and at < host.span.stop]
        able = [host for host in able if host.spec.peer_id not in {seat.peer_id for seat in seats}]
        if not able:
            return None
        lots = {host.spec.peer_id: rng.random() for host in able}

        def rank(host: Standing, lots: dict[PeerId, float] = lots) -> tuple[int, float]:
            return host.n_sessions if fewest else 0, lots[host.spec.peer_id]

        host = min(able, key=rank)
        assert host.span is not None
        stop = min(host.span.stop, blocks.stop)
        seats.append(Seat(host.spec.peer_id, Span(at, stop)))
        at = stop
    return tuple(seats)
