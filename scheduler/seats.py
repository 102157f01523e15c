"""Places in a chain: of a route's hop, and beside a gap.

In: routes, those who stay. Out: seats, as the rules of a session know them.
"""

from collections.abc import Sequence

from protocol.chain_actions import Seat
from protocol.identity import PeerId
from protocol.messages import Span
from scheduler.routing import RouteHop


def seat_of(hop: RouteHop) -> Seat:
    """Where a route says that blocks are run."""
    return Seat(hop.peer_id, hop.span, tuple(str(address) for address in hop.addresses))


def neighbour(
    survivors: Sequence[Seat], missing: Span, side: int, ends: PeerId | None
) -> PeerId | None:
    """The surviving hop before (-1) or after (+1) a run; beyond the ends, or around the ring."""
    ordered = sorted(survivors, key=lambda seat: seat.span)
    if side < 0:
        beside = [seat for seat in ordered if seat.span.stop <= missing.start]
    else:
        beside = [seat for seat in reversed(ordered) if seat.span.start >= missing.stop]
    if not beside and ends is not None:
        return ends
    around = beside or (ordered if side < 0 else ordered[::-1])
    return PeerId(around[-1].peer) if around else None
