"""The rule of Petals (Borzunov et al., NeurIPS 2023 and its source of 2024), to measure against.

Placement: a server knows for each block how fast its hosts are together, and takes the run of
blocks whose sorted speeds are the smallest in lexicographic order: it raises the weakest block.
Now and then it imagines that it moved, and everybody after it until nobody wants to, and moves if
the weakest block's speed is below `BALANCE` of what that would give, unless a block would be left
without a host.

Routing: the client's shortest path over (server, block): half a round trip and 18 ms for each
server, 10 s if it lacks room for the session, and a step's time per block, idle servers as well as
busy ones. A server, once chosen, is used to the end of its span.
"""

import random
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocol.identity import PeerId
from protocol.messages import Span
from scheduler.simulator.policies import Chain, Missing, Seat, Spans, Swarm
from scheduler.simulator.traces import Request
from scheduler.simulator.world import PeerSpec

BALANCE = 0.75
EPSILON = 1e-3
OVERHEAD_S = 0.018
NO_ROOM_S = 10.0
MAX_ROUNDS = 50  # of imagined moves; a handful settles

Floats = NDArray[np.float64]


class Server(NamedTuple):
    """A server as the rule sees it: one speed for each of its blocks."""

    span: Span
    speed: float


def speed_of(spec: PeerSpec, n_blocks: int) -> float:
    """What a server announces: its blocks per second over the mean number that sessions use.

    A session may enter anywhere in the span, so that (n + 1) / 2 of its blocks are used on average.
    """
    return spec.blocks_per_s() / ((n_blocks + 1) / 2)


def block_speeds(servers: Sequence[Server], n_blocks: int) -> Floats:
    """For each block, the summed speed of its hosts."""
    speeds = np.zeros(n_blocks)
    for span, speed in servers:
        speeds[span.start : span.stop] += speed
    return speeds


def best_start(speeds: Floats, length: int) -> int:
    """Where the weakest run of `length` blocks begins; the first of equals."""
    windows = np.lib.stride_tricks.sliding_window_view(speeds, length)
    weakest = windows.min(axis=1)
    starts = np.flatnonzero(weakest == weakest.min())  # the rest is behind by its first number
    if len(starts) > 1:
        keys = np.sort(windows[starts], axis=1)
        starts = starts[np.lexsort([starts, *keys.T[::-1]])]
    return int(starts[0])


def should_move(
    servers: Mapping[PeerId, Server],
    peer_id: PeerId,
    n_blocks: int,
    rng: random.Random,
    *,
    balance: float = BALANCE,
) -> bool:
    """Whether the swarm's weakest block would gain enough if this server moved, and then others."""
    speeds = block_speeds(list(servers.values()), n_blocks)
    weakest = float(speeds.min())
    own = servers[peer_id]
    # A trifle more is taken away than was added, so that rounding keeps nobody from its old place.
    speeds[own.span.start : own.span.stop] -= own.speed * (1 + EPSILON)
    if weakest > EPSILON and speeds.min() <= 0:
        return False  # the last host of a block stays
    start = best_start(speeds, len(own.span))
    if start == own.span.start:
        return False
    imagined = {peer: server.span for peer, server in servers.items()}
    speeds[own.span.start : own.span.stop] += own.speed * EPSILON
    imagined[peer_id] = Span(start, start + len(own.span))
    speeds[start : start + len(own.span)] += own.speed
    for _ in range(MAX_ROUNDS):
        if not _everybody_moves(imagined, servers, speeds, rng):
            break
    settled = float(speeds.min())
    return settled > 0 and weakest / settled < balance - EPSILON


def _everybody_moves(
    imagined: dict[PeerId, Span],
    servers: Mapping[PeerId, Server],
    speeds: Floats,
    rng: random.Random,
) -> bool:
    """Each server once, in drawn order, to the place it would like; whether any moved."""
    order = sorted(imagined)
    rng.shuffle(order)
    moved = False
    for peer in order:
        span, speed = imagined[peer], servers[peer].speed
        speeds[span.start : span.stop] -= speed * (1 + EPSILON)
        start = best_start(speeds, len(span))
        speeds[span.start : span.stop] += speed * EPSILON
        imagined[peer] = Span(start, start + len(span))
        speeds[start : start + len(span)] += speed
        moved = moved or start != span.start
    return moved


class Candidate(NamedTuple):
    """A server as the client's search sees it."""

    span: Span
    block_s: float
    enter_s: float  # overhead, and the penalty


def cheapest_chain(
    candidates: Sequence[Candidate],
    blocks: Span,
    hop_s: Floats,
    from_before_s: Floats,
    to_after_s: Floats,
) -> list[tuple[int, Span]] | None:
    """(index, blocks run) of each server of the shortest path, or None.

    A server's only exit is the end of its span, so the path is found by going through servers in
    the order of their ends.
    """
    n = len(candidates)
    starts = np.array([candidate.span.start for candidate in candidates], int)
    stops = np.array([min(candidate.span.stop, blocks.stop) for candidate in candidates], int)
    block_s = np.array([candidate.block_s for candidate in candidates])
    enter_s = np.array([candidate.enter_s for candidate in candidates])
    best, came, entry = np.full(n, np.inf), np.full(n, -1), np.full(n, -1)

    def reach(at: int, cost: Floats, source: int) -> None:
        cost = cost + enter_s + (stops - at) * block_s
        better = (starts <= at) & (at < stops) & (cost < best)
        best[better], came[better], entry[better] = cost[better], source, at

    reach(blocks.start, from_before_s, -1)
    for i in np.argsort(stops, kind="stable"):
        if np.isfinite(best[i]) and stops[i] < blocks.stop:
            reach(int(stops[i]), best[i] + hop_s[i], int(i))
    total = np.where(stops == blocks.stop, best + to_after_s, np.inf)
    if n == 0 or not np.isfinite(total).any():
        return None
    chain, i = [], int(np.argmin(total))
    while i >= 0:
        chain.append((i, Span(int(entry[i]), int(stops[i]))))
        i = int(came[i])
    return chain[::-1]


class Petals:
    """See the module. Who loses a server goes on with another one, which is sent the inputs."""

    name = "Petals rule"
    survives = True
    drains = fetches_first = admits = False
    look_s = 120.0  # drawn from 0 to 240 s

    def joined(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        spec = swarm.standing[peer_id].spec
        length = min(spec.capacity_blocks, swarm.world.model.n_blocks)
        others = [server for peer, server in _servers(swarm).items() if peer != peer_id]
        start = best_start(block_speeds(others, swarm.world.model.n_blocks), length)
        return {peer_id: Span(start, start + length)}

    def left(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        return {}

    def looked(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        if should_move(_servers(swarm), peer_id, swarm.world.model.n_blocks, rng):
            return self.joined(swarm, peer_id, rng)
        return {}

    def route(
        self, swarm: Swarm, request: Request, avoid: Collection[PeerId], rng: random.Random
    ) -> Chain | None:
        blocks = Span(0, swarm.world.model.n_blocks)
        return self.mend(swarm, request, Missing(blocks, None, None), avoid, rng)

    def mend(
        self,
        swarm: Swarm,
        request: Request,
        missing: Missing,
        avoid: Collection[PeerId],
        rng: random.Random,
    ) -> Chain | None:
        world = swarm.world
        hosts = [
            standing
            for standing in swarm.standing.values()
            if standing.is_serving and standing.spec.peer_id not in avoid
        ]
        row_kv = request.n_positions * world.model.kv_bytes
        candidates = [
            Candidate(
                host.span,
                host.spec.block_s,
                OVERHEAD_S + (NO_ROOM_S if host.kv_free_bytes < row_kv * len(host.span) else 0.0),
            )
            for host in hosts
            if host.span is not None
        ]
        nodes = np.array([world.index[host.spec.peer_id] for host in hosts], int)
        client_s = np.array([world.client_one_way_s(request.region, host.spec) for host in hosts])
        before, after = missing.before, missing.after
        chain = cheapest_chain(
            candidates,
            missing.span,
            world.one_way_s[np.ix_(nodes, nodes)],
            client_s if before is None else world.one_way_s[world.index[before], nodes],
            client_s if after is None else world.one_way_s[nodes, world.index[after]],
        )
        if chain is None:
            return None
        return tuple(Seat(hosts[i].spec.peer_id, span) for i, span in chain)


def _servers(swarm: Swarm) -> dict[PeerId, Server]:
    """All that serve or are about to: a Petals server announces itself before it has loaded."""
    return {
        peer_id: Server(standing.span, speed_of(standing.spec, len(standing.span)))
        for peer_id, standing in swarm.standing.items()
        if standing.span is not None
    }
