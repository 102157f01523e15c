"""Which peers carry a session: routes ranked by the milliseconds a token is expected to take.

In: who serves now (live announcements), the model, what to avoid. Out: ranked routes, replacements
for lost hops, spares, and the blocks nobody serves. Pure: state in, decision out.

A token's cost goes round the ring: each hop's computing, longer where sessions already share it,
plus the latency from each hop to the next and from the last back to the first, where the next token
is launched. What a peer costs by itself is in `route_cost.py`, who may serve at all in `wanted.py`,
the search in `route_search.py`.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from protocol.address import Address
from protocol.announcements import Announcement
from protocol.identity import PeerId
from protocol.messages import Span
from scheduler.candidates import Candidates, candidates
from scheduler.carriage import carriage_ms
from scheduler.latency import Latencies, Pair
from scheduler.route_cost import cost_of, prefill_us
from scheduler.route_search import Links, cheapest_covers
from scheduler.wanted import Wanted

__all__ = [
    "Route",
    "RouteHop",
    "Wanted",
    "draw_route",
    "find_replacement",
    "find_routes",
    "missing_blocks",
    "near_best",
    "prefill_ms",
    "spares",
]

NEAR_BEST = 0.10
MOST_BEST = 1.0  # of a small part's cost
MENDING_ROUTES = 8  # that who lost a hop may draw among


@dataclass(frozen=True, slots=True)
class RouteHop:
    """The blocks that one peer shall run; a part of the span it announces."""

    announcement: Announcement
    span: Span

    @property
    def peer_id(self) -> PeerId:
        return self.announcement.peer_id

    @property
    def addresses(self) -> tuple[Address, ...]:
        """In the order in which to dial them."""
        return self.announcement.to_dial

    @property
    def offer(self) -> bytes:
        return self.announcement.offer


@dataclass(frozen=True, slots=True)
class Route:
    """Hops that run a run of blocks in order, each block once, each peer once."""

    hops: tuple[RouteHop, ...]
    cost_ms: float  # expected for one decoded token

    def __post_init__(self) -> None:
        for earlier, later in zip(self.hops, self.hops[1:], strict=False):
            assert later.span.continues(earlier.span)
        assert len(set(self.peer_ids)) == len(self.hops) > 0

    @property
    def span(self) -> Span:
        return Span(self.hops[0].span.start, self.hops[-1].span.stop)

    @property
    def peer_ids(self) -> tuple[PeerId, ...]:
        return tuple(hop.peer_id for hop in self.hops)


def find_routes(
    announcements: Sequence[Announcement],
    wanted: Wanted,
    *,
    rtt_ms: Mapping[Pair, float] | None = None,
    slowdown: Mapping[PeerId, float] | None = None,
    extra_ms: Mapping[PeerId, float] | None = None,
    k: int = 4,
    seed: int = 0,
) -> tuple[Route, ...]:
    """The best routes through the whole model, best first; none when blocks are missing.

    Args:
        rtt_ms: round trips the caller measured; they replace the published ones.
        slowdown: by how much a peer's times are longer than it announces, as the caller saw.
        extra_ms: what a peer costs beside time, in milliseconds per token: risk.
        seed: decides between equals. The same seed gives the same answer on every machine.
    """
    return find_replacement(
        announcements,
        Span(0, wanted.n_blocks),
        wanted,
        rtt_ms=rtt_ms,
        slowdown=slowdown,
        extra_ms=extra_ms,
        k=k,
        seed=seed,
    )


def find_replacement(
    announcements: Sequence[Announcement],
    lost: Span,
    wanted: Wanted,
    *,
    before: PeerId | None = None,
    after: PeerId | None = None,
    rtt_ms: Mapping[Pair, float] | None = None,
    slowdown: Mapping[PeerId, float] | None = None,
    extra_ms: Mapping[PeerId, float] | None = None,
    k: int = 4,
    seed: int = 0,
) -> tuple[Route, ...]:
    """The best ways to run the blocks `lost` between two neighbours that stay.

    Args:
        before, after: the ring's neighbours of the lost run: the first hop comes after the last.
            Both None: nobody stays, and the run closes a ring of its own.
        wanted: `avoid` names the dead and, since a peer has one tab per session, all survivors.
    """
    latencies = Latencies(announcements, rtt_ms)
    giver = next((peer for peer in announcements if peer.peer_id == before), None)
    if lost.start == 0:
        giver = None  # the last hop passes tokens on, no rows
    routes: list[Route] = []
    for group in candidates(
        announcements, wanted, slowdown=slowdown or {}, extra_ms=extra_ms or {}, seed=seed
    ):
        # What a record says of KV room may be old: who seems full comes last.
        routes += _through(
            group.roomy(), lost, wanted, latencies, before, after, giver, k
        ) or _through(group, lost, wanted, latencies, before, after, giver, k)
    routes.sort(key=lambda route: (route.cost_ms, len(route.hops)))  # stable: lots decide the rest
    return tuple(routes[:k])


def _through(
    group: Candidates,
    lost: Span,
    wanted: Wanted,
    latencies: Latencies,
    before: PeerId | None,
    after: PeerId | None,
    giver: Announcement | None,
    k: int,
) -> list[Route]:
    """The best routes among peers that may serve together."""

    def links(chosen: Sequence[int]) -> Links:
        peers, share = [group.peers[i] for i in chosen], wanted.goal.link_share
        ids = [peer.peer_id for peer in peers]
        among_ms = latencies.matrix(ids)
        carrying_ms = (among_ms + carriage_ms(peers, peers, wanted)) * share
        if before is None and after is None:
            return Links(carrying_ms, closing_ms=among_ms * share)
        given_ms = carriage_ms([giver], peers, wanted)[0] if giver else 0.0
        return Links(
            carrying_ms,
            (latencies.to_many(before, ids) + given_ms) * share,
            latencies.to_many(after, ids) * share,
        )

    required = wanted.limits.require
    exclusive = [i for i, peer in enumerate(group.peers) if peer.peer_id in required]
    covers = cheapest_covers(group.hosts, lost, links, k=k, exclusive=exclusive if required else ())
    return [
        Route(tuple(RouteHop(group.peers[i], span) for i, span in cover.hops), cover.cost_ms)
        for cover in covers
    ]


def draw_route(
    routes: Sequence[Route], rng: random.Random, *, n_blocks: int | None = None
) -> Route:
    """One of the near-best, so that a swarm's clients do not herd onto one chain.

    The cheaper, the likelier; a route that takes `NEAR_BEST` longer than the best is out.

    Args:
        n_blocks: of the model, where the routes run a part: all who lost the same hop look for
            another at once, and what is alike is a token's whole way, of which this is a part.
    """
    near = near_best(routes, n_blocks=n_blocks)
    weights = [1 / max(route.cost_ms, 1e-3) for route in near]
    return rng.choices(near, weights)[0]


def near_best(routes: Sequence[Route], *, n_blocks: int | None = None) -> list[Route]:
    """Those that take hardly longer than the best: to a client they are alike."""
    share = 1.0 if n_blocks is None or not routes else len(routes[0].span) / n_blocks
    limit_ms = min((route.cost_ms for route in routes), default=0.0) * (
        1 + min(MOST_BEST, NEAR_BEST / share)
    )
    return [route for route in routes if route.cost_ms <= limit_ms]


def prefill_ms(route: Route) -> float:
    """What one prompt position takes in the slowest hop, as they announce it."""
    return max(prefill_us(hop.announcement) * len(hop.span) / 1000 for hop in route.hops)


def spares(
    route: Route, announcements: Sequence[Announcement], wanted: Wanted
) -> tuple[tuple[Announcement, ...], ...]:
    """For each hop, the peers outside the route that could take all its blocks, fastest first."""
    found = []
    for hop in route.hops:
        able = [
            peer
            for group in wanted.groups(announcements)
            for peer in group
            if peer.peer_id not in route.peer_ids
            and peer.span is not None
            and peer.span.holds(hop.span)
            and (wanted.allow_mix or peer.profile == hop.announcement.profile)
        ]
        able.sort(key=lambda peer: (cost_of(peer, wanted).block_ms, peer.peer_id))
        found.append(tuple(able))
    return tuple(found)


def missing_blocks(
    announcements: Sequence[Announcement], wanted: Wanted
) -> tuple[tuple[int, int], ...]:
    """The runs of blocks, half open, that keep every chain from being complete.

    Of several profiles, none of which suffices alone, the one that misses least speaks.
    """
    everything = ((0, wanted.n_blocks),)
    gaps = [_gaps(group, wanted.n_blocks) for group in wanted.groups(announcements)]
    return min(gaps, key=lambda runs: sum(stop - start for start, stop in runs), default=everything)


def _gaps(group: Iterable[Announcement], n_blocks: int) -> tuple[tuple[int, int], ...]:
    spans = sorted(announcement.span for announcement in group if announcement.span is not None)
    runs, reached = [], 0
    for span in [*spans, Span(n_blocks, n_blocks + 1)]:
        if span.start > reached:
            runs.append((reached, span.start))
        reached = max(reached, span.stop)
    return tuple(runs)
