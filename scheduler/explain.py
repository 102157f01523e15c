"""Why a route is chosen: the best ones with their costs in parts, their spares, and the others.

In: what a route search gets. Out: the same costs, spelled out, and for each host of the model that
is in no good route what keeps it out: a constraint, or by how much a route through it is dearer.
Pure: `manyhands route explain` shows it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from protocol.announcements import Announcement
from protocol.errors import SwarmIncomplete
from protocol.identity import PeerId
from protocol.messages import Span
from protocol.regions import doubts
from scheduler.affording import price_at, route_ncr
from scheduler.carriage import carriage_ms
from scheduler.latency import Latencies, Pair
from scheduler.prices import Price
from scheduler.refusal import in_words, incomplete
from scheduler.route_cost import Cost, cost_of
from scheduler.routing import NEAR_BEST, Route, find_routes, spares
from scheduler.wanted import Constraint, GroupsOf, Wanted

MAX_COMPARED = 32  # hosts for which a route of their own is looked for
MAX_SPARES = 3


@dataclass(frozen=True, slots=True)
class ExplainedHop:
    """What one hop adds to a token."""

    announcement: Announcement
    span: Span
    cost: Cost[float]
    link_ms: float  # to the next hop, from the last one back to the first
    carriage_ms: float  # a token's row on that link, and the prompt's, spread over the answer
    spares: tuple[PeerId, ...]  # who could take its blocks over, best first
    price: Price  # by its announced offer

    @property
    def ms(self) -> float:
        return (
            self.cost.block_ms * len(self.span)
            + self.cost.visit_ms
            + self.link_ms
            + self.carriage_ms
        )


@dataclass(frozen=True, slots=True)
class ExplainedRoute:
    hops: tuple[ExplainedHop, ...]
    cost_ms: float
    is_near: bool  # near enough to the best one that clients are spread over both
    cost_ncr: int  # of a session of these lengths


@dataclass(frozen=True, slots=True)
class Other:
    """A host of the model that is in none of the routes."""

    announcement: Announcement
    constraint: Constraint | None
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    routes: tuple[ExplainedRoute, ...]
    others: tuple[Other, ...]
    refusal: SwarmIncomplete | None  # why there is no route


def explain(
    announcements: Sequence[Announcement],
    wanted: Wanted,
    *,
    rtt_ms: Mapping[Pair, float] | None = None,
    slowdown: Mapping[PeerId, float] | None = None,
    extra_ms: Mapping[PeerId, float] | None = None,
    model: str = "",
    groups_of: GroupsOf | None = None,
) -> Explanation:
    """See the module; the arguments are those of `find_routes` and `Wanted.judged`."""
    wanted = wanted.judged(announcements, groups_of)
    doubted = doubts(announcements) if wanted.doubted else {}

    def search(wanted: Wanted, k: int) -> tuple[Route, ...]:
        return find_routes(
            announcements, wanted, rtt_ms=rtt_ms, slowdown=slowdown, extra_ms=extra_ms, k=k
        )

    routes, latencies = search(wanted, 4), Latencies(announcements, rtt_ms)
    explained = tuple(
        ExplainedRoute(
            _hops(route, announcements, wanted, latencies, slowdown or {}, extra_ms or {}),
            route.cost_ms,
            is_near=route.cost_ms <= routes[0].cost_ms * (1 + NEAR_BEST),
            cost_ncr=route_ncr(route, wanted),
        )
        for route in routes
    )
    used = {peer_id for route in routes for peer_id in route.peer_ids}
    hosts = [
        peer
        for peer in announcements
        if peer.manifest == wanted.manifest and peer.span is not None and peer.peer_id not in used
    ]
    others: list[Other] = []
    for peer in hosts:
        constraint, why = wanted.rules_out(peer), ""
        if constraint is not None:
            is_doubted = constraint is Constraint.DOUBTED
            why = str(doubted[peer.peer_id]) if is_doubted else in_words(constraint, peer, wanted)
        elif not routes:
            why = "others are missing"
        elif len(others) < MAX_COMPARED:
            why = _dearer(peer, routes[0], search(_through(wanted, peer), 1), wanted)
        others.append(Other(peer, constraint, why))
    refusal = None if routes else incomplete(announcements, wanted, model=model, waits=False)
    return Explanation(explained, tuple(others), refusal)


def _hops(
    route: Route,
    announcements: Sequence[Announcement],
    wanted: Wanted,
    latencies: Latencies,
    slowdown: Mapping[PeerId, float],
    extra_ms: Mapping[PeerId, float],
) -> tuple[ExplainedHop, ...]:
    ring = [*range(len(route.hops)), 0]
    known_ms = latencies.matrix(route.peer_ids) * wanted.goal.link_share
    links_ms = [float(known_ms[one, other]) for one, other in pairwise(ring)]
    peers = [hop.announcement for hop in route.hops]
    carried_ms = carriage_ms(peers, peers, wanted).diagonal(1) * wanted.goal.link_share
    able = spares(route, announcements, wanted)
    return tuple(
        ExplainedHop(
            hop.announcement,
            hop.span,
            cost_of(
                hop.announcement,
                wanted,
                slowdown=slowdown.get(hop.peer_id, 1.0),
                extra_ms=extra_ms.get(hop.peer_id, 0.0),
            ),
            link_ms,
            carriage,
            tuple(peer.peer_id for peer in those[:MAX_SPARES]),
            price_at(hop, wanted),
        )
        for hop, link_ms, carriage, those in zip(
            route.hops, links_ms, [*carried_ms.tolist(), 0.0], able, strict=True
        )
    )


def _through(wanted: Wanted, peer: Announcement) -> Wanted:
    required = (*wanted.limits.require, peer.peer_id)
    return replace(wanted, limits=replace(wanted.limits, require=required))


def _dearer(peer: Announcement, best: Route, through: Sequence[Route], wanted: Wanted) -> str:
    if peer.measured.position_bytes * wanted.n_positions > peer.kv_free_bytes:
        return "its free KV room does not hold the session"
    if not through:
        return "no route can leave it all that it holds"
    dearer_ms = through[0].cost_ms - best.cost_ms
    more_ncr = route_ncr(through[0], wanted) - route_ncr(best, wanted)
    priced = f", {abs(more_ncr):,} ncr {'more' if more_ncr > 0 else 'less'}" if more_ncr else ""
    return f"with all that it holds, a token takes {dearer_ms:.1f} ms more{priced}"
