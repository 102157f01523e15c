"""Parallax as a rule for the simulator: one coordinator, pipelines, chains of whole spans.

As its source has it by default, requests go round the fixed pipelines in turn; a peer that comes
waits until those who wait can form a pipeline. With `dynamic`, which its paper describes, a peer
that comes takes the blocks whose hosts have the least memory together, and the chain of least
latency is chosen for each request: over whole spans only, one must end where the next begins. The
source adds a peer's latency per block once, however many blocks it runs (`per_shard=False`); the
paper multiplies it. When a block loses its last host everybody's weights are laid out anew. An
answer that has begun and loses a peer is lost.
"""

import random
from collections.abc import Collection, Sequence

from protocol.identity import PeerId
from protocol.messages import Span
from scheduler.simulator.parallax import pipelines, water_fill
from scheduler.simulator.policies import Chain, Missing, Seat, Spans, Standing, Swarm
from scheduler.simulator.traces import Request
from scheduler.simulator.world import PeerSpec

LOAD_S = 0.00005  # at a full peer; the whole of the source's load term


class Parallax:
    """See the module."""

    survives = drains = fetches_first = admits = False
    look_s = 60.0

    def __init__(self, *, dynamic: bool = False, per_shard: bool = True) -> None:
        self._dynamic, self._per_shard = dynamic, per_shard
        self._pipelines: list[list[PeerId]] = []
        self._turn = 0
        kind = "DP, paper" if per_shard else "DP, source"
        self.name = f"Parallax ({kind})" if dynamic else "Parallax (round robin)"

    def joined(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        standing = swarm.standing
        placed = {peer: s.span for peer, s in standing.items() if s.span is not None}
        if swarm.now_s == 0 or not _covers(placed.values(), swarm.world.model.n_blocks):
            return self._lay_out(swarm, list(standing))
        if self._dynamic:
            return {peer_id: lightest(placed.values(), standing[peer_id].spec, swarm)}
        return self._lay_out_waiting(swarm)

    def left(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        standing = swarm.standing
        self._pipelines = [p for p in self._pipelines if all(peer in standing for peer in p)]
        placed = [s.span for s in standing.values() if s.span is not None]
        if not _covers(placed, swarm.world.model.n_blocks):
            return self._lay_out(swarm, list(standing))
        return {} if self._dynamic else self._lay_out_waiting(swarm)

    def looked(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        return {}

    def route(
        self, swarm: Swarm, request: Request, avoid: Collection[PeerId], rng: random.Random
    ) -> Chain | None:
        standing = swarm.standing
        if self._dynamic:
            return self._shortest(swarm, request, avoid)
        for _ in self._pipelines:
            self._turn += 1
            members = self._pipelines[self._turn % len(self._pipelines)]
            seats = [(peer, standing.get(peer)) for peer in members if peer not in avoid]
            if len(seats) == len(members) and all(s is not None and s.is_serving for _, s in seats):
                return tuple(Seat(peer, s.span) for peer, s in seats if s and s.span)
        return None

    def mend(
        self,
        swarm: Swarm,
        request: Request,
        missing: Missing,
        avoid: Collection[PeerId],
        rng: random.Random,
    ) -> Chain | None:
        return None

    def _lay_out(self, swarm: Swarm, peers: Sequence[PeerId]) -> dict[PeerId, Span]:
        """Pipelines of all of these, from nothing; with `dynamic`, the rest beside them."""
        self._pipelines = []
        spans = self._pipelines_of(swarm, peers)
        if self._dynamic and spans:
            for peer in peers:
                if peer not in spans:
                    spans[peer] = lightest(spans.values(), swarm.standing[peer].spec, swarm)
        return spans

    def _lay_out_waiting(self, swarm: Swarm) -> dict[PeerId, Span]:
        busy = {peer for pipeline in self._pipelines for peer in pipeline}
        return self._pipelines_of(swarm, [peer for peer in swarm.standing if peer not in busy])

    def _pipelines_of(self, swarm: Swarm, peers: Sequence[PeerId]) -> dict[PeerId, Span]:
        n_blocks = swarm.world.model.n_blocks
        specs = [swarm.standing[peer].spec for peer in peers]
        spans: dict[PeerId, Span] = {}
        for members in pipelines([spec.capacity_blocks for spec in specs], n_blocks):
            blocks = water_fill(
                [specs[i].capacity_blocks for i in members],
                [1 / specs[i].block_s for i in members],
                n_blocks,
            )
            at, pipeline = 0, []
            for i, n in zip(members, blocks, strict=True):
                if n > 0:
                    spans[specs[i].peer_id] = Span(at, at + n)
                    pipeline.append(specs[i].peer_id)
                    at += n
            self._pipelines.append(pipeline)
        return spans

    def _shortest(self, swarm: Swarm, request: Request, avoid: Collection[PeerId]) -> Chain | None:
        """The chain of whole spans with the least latency, in the order of their starts."""
        world = swarm.world
        hosts = [s for s in swarm.standing.values() if s.is_serving and s.spec.peer_id not in avoid]
        hosts.sort(key=lambda s: (s.span or Span(0, 1), s.spec.peer_id))
        nodes = [world.index[host.spec.peer_id] for host in hosts]
        best: list[tuple[float, int]] = []
        ending: dict[int, list[int]] = {}
        for i, host in enumerate(hosts):
            assert host.span is not None
            if host.span.start == 0:
                before = [(0.0, -1)]
            else:
                before = [
                    (best[j][0] + 2 * float(world.one_way_s[nodes[j], nodes[i]]), j)
                    for j in ending.get(host.span.start, ())
                ]
            cost, came = min(before, default=(float("inf"), -1))
            best.append((cost + self._latency_s(host, request, swarm), came))
            ending.setdefault(host.span.stop, []).append(i)
        last = ending.get(world.model.n_blocks, [])
        at = min(last, key=lambda i: best[i][0], default=-1)
        if at < 0 or best[at][0] == float("inf"):
            return None
        seats = []
        while at >= 0:
            span = hosts[at].span
            assert span is not None
            seats.append(Seat(hosts[at].spec.peer_id, span))
            at = best[at][1]
        return tuple(seats[::-1])

    def _latency_s(self, host: Standing, request: Request, swarm: Swarm) -> float:
        assert host.span is not None
        needed = request.n_positions * swarm.world.model.kv_bytes * len(host.span)
        if host.kv_free_bytes < needed:
            return float("inf")
        n_blocks = len(host.span) if self._per_shard else 1
        taken = 1 - host.kv_free_bytes / max(1, host.spec.kv_bytes)
        return host.spec.block_s * n_blocks + LOAD_S * taken


def lightest(spans: Collection[Span], spec: PeerSpec, swarm: Swarm) -> Span:
    """From the block hosted least, as many blocks as fit. (KV room is the same for each block.)"""
    n_blocks = swarm.world.model.n_blocks
    hosted = [sum(span.start <= block < span.stop for span in spans) for block in range(n_blocks)]
    start = hosted.index(min(hosted))
    return Span(start, min(n_blocks, start + spec.capacity_blocks))


def _covers(spans: Collection[Span], n_blocks: int) -> bool:
    held = {block for span in spans for block in range(span.start, span.stop)}
    return len(held) >= n_blocks
