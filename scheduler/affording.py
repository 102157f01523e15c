"""What a session is expected to cost along a route, and the routes that a client can pay for.

In: routes, what a session asks for, what may be spent. Out: nanocredits, from announced offers and
the lengths of prompt and answer; the routes within the limit. An answer that ends early costs less;
rows run again after a loss, and drafts that were refused, cost more: what is signed is bounded by
`settlement.py`, whatever was expected here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from protocol.errors import BudgetExceeded
from scheduler.directory import Directory
from scheduler.judged import judged
from scheduler.peer_record import PeerRecords
from scheduler.prices import Price
from scheduler.request import GenerationRequest
from scheduler.routing import Route, RouteHop, find_routes, near_best
from scheduler.wanted import Goal, Wanted


def price_at(hop: RouteHop, wanted: Wanted) -> Price:
    """What the hop's announced offer asks in this session."""
    peer = hop.announcement
    assert peer.span is not None, "it is in a route"
    return wanted.price_at(peer)


def hop_ncr(hop: RouteHop, wanted: Wanted) -> float:
    """Of the whole session at this hop."""
    return price_at(hop, wanted).of(len(hop.span), wanted.n_prompt, wanted.n_answer)


def route_ncr(route: Route, wanted: Wanted) -> int:
    """Of the whole session over all hops, rounded up; each hop counts by itself."""
    return sum(math.ceil(hop_ncr(hop, wanted)) for hop in route.hops)


def expected_ncr(
    request: GenerationRequest, directory: Directory, records: PeerRecords
) -> int | None:
    """Of an answer over the dearest chain that it might be drawn now; None: there is none."""
    wanted = directory.judged(
        Wanted(
            manifest=request.manifest,
            n_blocks=request.n_blocks,
            n_positions=request.capacity,
            n_prompt=len(request.prompt_ids),
            lease_s=request.timeout_s,
            hidden_size=request.hidden_size,
            profile=request.profile,
            adapter=directory.pin_adapter(request.manifest, request.adapter),
            limits=request.limits,
            goal=request.goal,
        )
    )
    live = directory.live()
    routes = find_routes(live, wanted, **judged(live, directory, records))
    return max((route_ncr(route, wanted) for route in near_best(routes)), default=None)


def within(
    search: Callable[[Wanted], Sequence[Route]], wanted: Wanted, left_ncr: int | None
) -> Sequence[Route]:
    """The routes that are expected to cost no more than that, by what the client prefers; where
    these are all dearer, by price alone. left_ncr: None for a client that sets no limit.

    Raises:
        BudgetExceeded: there are routes, and even the cheapest is too dear.
    """
    routes = search(wanted)
    if left_ncr is None or not routes:
        return routes
    if kept := _affordable(routes, wanted, left_ncr):
        return kept
    cheap = search(replace(wanted, goal=Goal.CHEAP))
    if kept := _affordable(cheap, wanted, left_ncr):
        return kept
    raise too_dear(min(route_ncr(route, wanted) for route in (*routes, *cheap)), left_ncr)


def too_dear(cost_ncr: int, left_ncr: int) -> BudgetExceeded:
    return BudgetExceeded(
        f"it could cost {cost_ncr:,} ncr over the cheapest chain there is, "
        f"and {max(0, left_ncr):,} may be spent on it",
        hint="allow more (--max-cost), or ask for less: --max-tokens, a shorter prompt",
    )


def _affordable(routes: Sequence[Route], wanted: Wanted, left_ncr: int) -> tuple[Route, ...]:
    return tuple(route for route in routes if route_ncr(route, wanted) <= left_ncr)
