"""The last look before a choice: how busy those are now among whom it lies.

In: the best routes as a table tells them, which may be seconds old and is the same for all clients.
Out: one of them. The first hop of each is asked for its load; sessions of a chain load all of its
hops alike. Of several choices the less loaded, on fresh word, is what keeps the fullest from
filling up (Mitzenmacher 2001, The power of two choices in randomized load balancing). Clients that
come at once see no load of each other yet: they take turns, by the tickets of the one peer that all
of them asked.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from protocol.announcements import Announcement
from protocol.errors import ManyhandsError, PeerUnreachable
from protocol.identity import PeerId
from protocol.load import METHOD, Load
from scheduler.chain import Connections
from scheduler.route_cost import cost_of
from scheduler.routing import Route, draw_route, near_best
from scheduler.wanted import Wanted

PROBE_S = 1.0  # for anybody to answer
GRACE_S = 0.1  # for the others after that, or as long again as the first one took
WORTH = 0.5  # a route dearer than the best by more than this part needs no look


Loads = Mapping[PeerId, Load | None]  # None: it cannot be reached


async def ask_loads(
    connections: Connections, peers: Sequence[Announcement], *, timeout_s: float = PROBE_S
) -> Loads:
    """What each says; who does not answer in time, or does not know the question, is left out.

    A silent peer holds nobody up: the others are given little more time than the first to answer.
    """

    async def ask(peer: Announcement) -> tuple[PeerId, Load | None]:
        addresses = [str(address) for address in peer.to_dial]
        try:
            connection = await connections.to(peer.peer_id, addresses, timeout_s=2 * timeout_s)
            told = await connection.call(METHOD, b"", timeout_s=2 * timeout_s)
        except PeerUnreachable:
            return peer.peer_id, None
        return peer.peer_id, Load.decode(told, sender=peer.peer_id)

    asking = [asyncio.create_task(ask(peer)) for peer in peers]
    began_s = time.monotonic()
    try:
        _, late = await asyncio.wait(asking, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if late:
            await asyncio.wait(late, timeout=max(GRACE_S, time.monotonic() - began_s))
    finally:
        for task in asking:
            task.cancel()
        answers = await asyncio.gather(*asking, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, Exception) and not isinstance(answer, ManyhandsError):
            raise answer  # a mistake of ours
    return dict(answer for answer in answers if isinstance(answer, tuple))


async def choose_fresh(
    routes: Sequence[Route],
    wanted: Wanted,
    connections: Connections,
    rng: random.Random,
    *,
    slowdown: Mapping[PeerId, float],
) -> Route:
    """One of `routes`, best first, by what their first hops say now."""
    worth, firsts = worth_asking(routes)
    if len(firsts) < 2:
        return draw_route(worth, rng)
    loads = await ask_loads(connections, firsts)
    return choose(worth, loads, rng, lambda peer: token_ms(peer, wanted, slowdown))


def worth_asking(routes: Sequence[Route]) -> tuple[list[Route], list[Announcement]]:
    """Those of `routes`, best first, that could be the best now, and the first hops of these."""
    worth = [route for route in routes if route.cost_ms <= routes[0].cost_ms * (1 + WORTH)]
    firsts = {route.hops[0].peer_id: route.hops[0].announcement for route in worth}
    return worth, list(firsts.values())


def choose(
    routes: Sequence[Route],
    loads: Loads,
    rng: random.Random,
    token_ms: Callable[[Announcement], tuple[float, float]],
) -> Route:
    """The route that is best now; among near-best ones, whose turn it is.

    Args:
        token_ms: what a token costs at a peer, per block and per visit.
    """
    asked = {route.hops[0].peer_id for route in routes}
    closed = {peer for peer, load in loads.items() if load is None or not load.is_open}
    open_routes = [route for route in routes if route.hops[0].peer_id not in closed]
    changes_ms = {
        route: _change_ms(route, load, token_ms)
        for route in routes
        if (load := loads.get(route.hops[0].peer_id)) is not None
    }
    # Who is silent must not look idle: it is taken to be as busy as the busiest that answered.
    unknown_ms = max(changes_ms.values(), default=0.0)
    fresh = near_best(
        [
            replace(route, cost_ms=max(0.0, route.cost_ms + changes_ms.get(route, unknown_ms)))
            for route in open_routes or routes
        ]
    )
    caller = min(asked)  # the same for all who choose among these
    if (load := loads.get(caller)) is None:
        return draw_route(fresh, rng)
    in_turn = sorted(fresh, key=lambda route: route.peer_ids)
    return in_turn[load.ticket % len(in_turn)]


def _change_ms(
    route: Route, load: Load, token_ms: Callable[[Announcement], tuple[float, float]]
) -> float:
    """What is dearer, or cheaper, at its first hop now; others of its hops bear the same."""
    first = route.hops[0].announcement
    block_ms, visit_ms = token_ms(first)
    now_block_ms, now_visit_ms = token_ms(load.brings_up_to_date(first))
    n_blocks, n_hops = len(route.span), len(route.hops)
    return (now_block_ms - block_ms) * n_blocks + (now_visit_ms - visit_ms) * n_hops


def token_ms(
    peer: Announcement, wanted: Wanted, slowdown: Mapping[PeerId, float]
) -> tuple[float, float]:
    """What a token costs at a peer: per block, and per visit."""
    cost = cost_of(peer, wanted, slowdown=slowdown.get(peer.peer_id, 1.0))
    return cost.block_ms, cost.visit_ms
