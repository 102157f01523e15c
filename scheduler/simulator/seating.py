"""Seats for sessions: the rule is asked, peers that are gone or full are found out, room is kept.

In: a session with blocks that nobody runs. Out: seats whose peers are there and have room, with
the room reserved; and back.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import replace

from protocol.identity import PeerId
from protocol.messages import Span
from scheduler.simulator.fleet import Fleet
from scheduler.simulator.policies import Chain, Missing, Policy, Seat
from scheduler.simulator.state import Peer, Session, Settings
from scheduler.simulator.traces import Request

MAX_TRIES = 6  # peers that are gone or full, before a session waits a moment


class Seating:
    """See the module."""

    def __init__(
        self, fleet: Fleet, policy: Policy, rng: random.Random, settings: Settings
    ) -> None:
        self._fleet, self._policy, self._rng, self._settings = fleet, policy, rng, settings

    def find(self, session: Session) -> tuple[list[Seat] | None, float]:
        """Seats for all that is missing, and the seconds spent on peers that would not do."""
        spent_s = 0.0
        for _ in range(MAX_TRIES):
            seats: list[Seat] = []
            avoid = session.avoid | {seat.peer_id for seat in session.seats}
            for missing in session.missing(self._fleet.world.model.n_blocks):
                chain = self._ask(session, missing, avoid)
                if chain is None:
                    return None, spent_s
                seats += chain
                avoid |= {seat.peer_id for seat in chain}
            bad = [seat for seat in seats if not self._can_sit(session, seat)]
            if not bad:
                return seats, spent_s
            session.avoid |= {seat.peer_id for seat in bad}
            spent_s += self._settings.dial_s
        return None, spent_s

    def sit(self, session: Session, new: Sequence[Seat]) -> None:
        """Reserve room, and put the session there."""
        for seat in new:
            peer = self._fleet.peer(seat.peer_id)
            peer.kv_used += self._kv_bytes(session, seat)
            peer.sessions[session.id] = session
        session.seats = sorted([*session.seats, *new], key=lambda seat: seat.span)
        session.fresh |= {seat.peer_id for seat in new}
        session.avoid.clear()

    def release(self, session: Session, peer: Peer) -> None:
        """The session has nothing there any more."""
        for seat in [seat for seat in session.seats if seat.peer_id == peer.spec.peer_id]:
            peer.kv_used -= self._kv_bytes(session, seat)
            session.seats.remove(seat)
            session.fresh.discard(seat.peer_id)
        peer.sessions.pop(session.id, None)
        assert peer.kv_used >= 0
        self._fleet.left_by(peer)

    def release_all(self, session: Session) -> None:
        for seat in list(session.seats):
            self.release(session, self._fleet.peer(seat.peer_id))

    def _ask(self, session: Session, missing: Span, avoid: Collection[PeerId]) -> Chain | None:
        request = session.request
        if not session.seats:
            chain = self._policy.route(self._fleet, request, avoid, self._rng)
        else:
            run = _between(session.seats, missing)
            chain = self._policy.mend(self._fleet, _rest(session), run, avoid, self._rng)
        if chain is not None:
            borders = [missing.start, *(seat.span.stop for seat in chain)]
            assert borders[:-1] == [seat.span.start for seat in chain]
            assert borders[-1] == missing.stop
        return chain

    def _can_sit(self, session: Session, seat: Seat) -> bool:
        peer = self._fleet.peer(seat.peer_id)
        if not peer.is_serving or peer.span is None or not peer.span.holds(seat.span):
            return False
        free = peer.spec.kv_bytes - peer.kv_used
        room = free if session.has_begun else self._fleet.room_for_new(peer)
        return self._kv_bytes(session, seat) <= room

    def _kv_bytes(self, session: Session, seat: Seat) -> int:
        return session.request.n_positions * len(seat.span) * self._fleet.world.model.kv_bytes


def _rest(session: Session) -> Request:
    """What is left to do: new hops run the rows again that there are, and then the others."""
    n_rows = round(max(session.length, session.request.n_prompt))
    n_left = max(1, session.request.n_positions - n_rows)
    return replace(session.request, n_prompt=n_rows, n_answer=n_left)


def _between(seats: Sequence[Seat], missing: Span) -> Missing:
    """The run with its neighbours; round the ring, since the last hop sends to the first one."""
    before = [seat for seat in seats if seat.span.stop <= missing.start] or list(seats)
    after = [seat for seat in seats if seat.span.start >= missing.stop] or list(seats)
    return Missing(missing, before[-1].peer_id, after[0].peer_id)
