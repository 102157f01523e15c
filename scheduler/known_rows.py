"""Routes over nodes that have run rows of a session already, while taking them pays.

In: the best routes there are, who holds copies of a lost hop's rows, which chain has run the
beginning of the prompt. Out: a route that has less to run again, unless it costs more per token
than it saves. Who holds what is found out by `copies.py` and `prefixes.py`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from protocol.announcements import Announcement
from protocol.chain_actions import Seat
from protocol.messages import Span
from scheduler.directory import Directory
from scheduler.judged import judged
from scheduler.peer_record import PeerRecords
from scheduler.prefixes import Familiar
from scheduler.request import GenerationRequest
from scheduler.route_cost import prefill_us
from scheduler.routing import Route, Wanted, find_routes, prefill_ms

DETOUR = 0.25  # what a chain that knows the prompt may cost more per token, whatever it saves

Through = Callable[[Sequence[Announcement]], Sequence[Route]]


class KnownRows:
    """Of one session. copies: who holds how many rows of it, by blocks."""

    def __init__(
        self,
        request: GenerationRequest,
        directory: Directory,
        records: PeerRecords,
        familiar: Familiar | None,
    ) -> None:
        self.copies: Callable[[], Mapping[Span, tuple[Seat, int]]] = dict
        self._request, self._directory, self._records = request, directory, records
        self._familiar = familiar

    def route(self, routes: Sequence[Route], wanted: Wanted, through: Through) -> Route | None:
        """One to take rather than the best of `routes`, if there is any.

        through: the best routes of the same blocks over these nodes alone.
        """
        return self._copied(routes, wanted.avoid, through) or self._began(routes, wanted)

    def _copied(
        self, routes: Sequence[Route], avoid: Collection[str], through: Through
    ) -> Route | None:
        """Those who hold what a lost hop has run, unless they are much slower than others."""
        missing = routes[0].span
        held = {
            (seat.peer, span): n_rows
            for span, (seat, n_rows) in self.copies().items()
            if missing.holds(span) and seat.peer not in avoid
        }
        live = self._live({peer for peer, _ in held})
        for route in through(live) if live else ():
            rows = [(hop, held.get((hop.peer_id, hop.span), 0)) for hop in route.hops]
            saved_us = sum(n * prefill_us(hop.announcement) * len(hop.span) for hop, n in rows)
            if saved_us:
                return self._if_it_pays(route, routes, saved_us / 1000)
        return None

    def _began(self, routes: Sequence[Route], wanted: Wanted) -> Route | None:
        """The chain that has run the beginning of this prompt, while waiting for it pays."""
        familiar = self._familiar
        if familiar is None or routes[0].span != Span(0, self._request.n_blocks):
            return None
        chain = [(seat.peer, seat.span) for seat in familiar.seats]
        live = self._live({peer for peer, _ in chain})
        for route in find_routes(live, wanted, **judged(live, self._directory, self._records)):
            if [(hop.peer_id, hop.span) for hop in route.hops] == chain:
                return self._if_it_pays(route, routes, prefill_ms(route) * familiar.length)
        return None

    def _live(self, peers: Collection[str]) -> list[Announcement]:
        return [peer for peer in self._directory.live() if peer.peer_id in peers]

    def _if_it_pays(self, route: Route, routes: Sequence[Route], saved_ms: float) -> Route | None:
        """A route that needs not run some rows, beside the best ones."""
        dearer_ms = (route.cost_ms - routes[0].cost_ms) * self._request.max_tokens
        is_near = route.cost_ms <= routes[0].cost_ms * (1 + DETOUR)
        return route if is_near or dearer_ms <= saved_ms else None
