"""What a session is expected to cost along a route, and the routes that a client can pay for.

In: routes, what a session asks for, what may be spent. Out: nanocredits, from announced offers and
the lengths of prompt and answer; the routes within the limit. An answer that ends early costs less;
rows run again after a loss, and drafts that were refused, cost more: what is signed is bounded by
`settlement.py`, whatever was expected here.
"""

import math
from collections.abc import Sequence

from scheduler.prices import Price, asked
from scheduler.routing import Route, RouteHop
from scheduler.wanted import Wanted


def price_at(hop: RouteHop, wanted: Wanted) -> Price:
    """What the hop's announced offer asks in this session."""
    peer = hop.announcement
    assert peer.span is not None, "it is in a route"
    return asked(peer.offer, peer.span, wanted.n_blocks, wanted.n_positions)


def hop_ncr(hop: RouteHop, wanted: Wanted) -> float:
    """Of the whole session at this hop."""
    return price_at(hop, wanted).of(len(hop.span), wanted.n_prompt, wanted.n_answer)


def route_ncr(route: Route, wanted: Wanted) -> int:
    """Of the whole session over all hops, rounded up; each hop counts by itself."""
    return sum(math.ceil(hop_ncr(hop, wanted)) for hop in route.hops)


def affordable(routes: Sequence[Route], wanted: Wanted, left_ncr: int) -> tuple[Route, ...]:
    """Those that are expected to cost no more than that."""
    return tuple(route for route in routes if route_ncr(route, wanted) <= left_ncr)
