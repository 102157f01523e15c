"""The sessions of a simulation: they ask for seats, run, lose hops, are mended, end.

In: the trace's requests and a rule. Out: a `Record` of each.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from scheduler.simulator.events import Events
from scheduler.simulator.fleet import Fleet
from scheduler.simulator.loads import (
    decode_load,
    handover_row_s,
    opening_s,
    prefill_load,
    replay_load,
)
from scheduler.simulator.policies import Policy, Seat
from scheduler.simulator.rates import Rates
from scheduler.simulator.running import Running
from scheduler.simulator.seating import Seating
from scheduler.simulator.state import Peer, Phase, Session, Settings
from scheduler.simulator.traces import Request

MAX_RETRY_S = 8.0


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a request."""

    request: Request
    outcome: str  # done, lost (it had begun), refused (it never did), open (at the end)
    first_token_s: float | None  # since it was asked
    total_s: float | None
    n_recoveries: int
    paused_s: float  # for recoveries, in all


class Answers:
    """See the module."""

    def __init__(
        self,
        fleet: Fleet,
        policy: Policy,
        events: Events,
        rng: random.Random,
        settings: Settings,
        rates: Rates,
    ) -> None:
        self.records: list[Record] = []
        self.n_tokens = 0  # delivered to anybody, whatever became of the answer
        self._fleet, self._policy, self._events = fleet, policy, events
        self._rng, self._settings = rng, settings
        self._seating = Seating(fleet, policy, rng, settings)
        self._running = Running(events, rates, settings.rates_s, self._next_phase)
        self._all: dict[int, Session] = {}
        fleet.on_loss, fleet.on_drain = self._lose, self._hand_over_all

    def plan(self, requests: Sequence[Request]) -> None:
        for i, request in enumerate(requests):
            session = Session(i, request)
            session.prompt_left, session.tokens_left = request.n_prompt, request.n_answer - 1
            self._events.at(request.at_s, lambda session=session: self._begin(session))  # type: ignore[misc]

    def close(self) -> None:
        """Count what is still open when the trace ends."""
        for session in self._all.values():
            self._running.settle(session)
            self._note(session, "open")
        self._all.clear()

    def open_sessions(self) -> Collection[Session]:
        return self._all.values()

    def _begin(self, session: Session) -> None:
        self._all[session.id] = session
        session.waiting_since_s = self._events.now_s
        self._seek(session, session.ticket, self._settings.retry_s)

    def _seek(self, session: Session, ticket: int, retry_s: float) -> None:
        """Find seats for all that is missing; again later if there are none."""
        if session.ticket != ticket or session.phase is not Phase.WAITING:
            return
        found, spent_s = self._seating.find(session)
        if found is not None:
            self._sit(session, found, spent_s)
        elif self._events.now_s - session.waiting_since_s >= self._settings.patience_s:
            self._end(session, "refused" if session.first_token_s is None else "lost")
        else:
            session.avoid.clear()
            wait_s = spent_s + retry_s * self._rng.uniform(0.5, 1.0)
            again_s = min(MAX_RETRY_S, retry_s * 2)
            self._events.after(wait_s, lambda: self._seek(session, ticket, again_s))

    def _sit(self, session: Session, new: list[Seat], spent_s: float) -> None:
        """Reserve, and begin when all hops have answered."""
        self._seating.sit(session, new)
        world = self._fleet.world
        session.phase, session.replay_left = Phase.OPENING, 0.0
        if session.length > 0:  # something has been run, that the new hops lack
            session.replay_left = session.length
            fresh = [seat for seat in session.seats if seat.peer_id in session.fresh]
            session.load = replay_load(world, session, fresh)
        ticket = session.ticket
        wait_s = spent_s + opening_s(world, session, new, self._settings)
        self._events.after(wait_s, lambda: self._opened(session, ticket))

    def _opened(self, session: Session, ticket: int) -> None:
        if session.ticket == ticket:
            self._next_phase(session)

    def _next_phase(self, session: Session) -> None:
        """What it ran is through, or its chain is open: replay, then prompt, then answer."""
        world = self._fleet.world
        if session.replay_left > 0:
            session.phase = Phase.REPLAY
        elif session.prompt_left > 0:
            session.fresh.clear()
            session.phase, session.load = Phase.PREFILL, prefill_load(world, session)
        else:
            session.fresh.clear()
            self._goes_on(session)
            if session.tokens_left <= 0:
                self._end(session, "done")
                return
            session.phase = Phase.DECODE
            session.load = decode_load(world, session, self._settings)
        self._running.start(session)

    def _goes_on(self, session: Session) -> None:
        """A token reaches its reader: the first one, or the first after a loss."""
        now_s = self._events.now_s
        if session.first_token_s is None:
            session.first_token_s = now_s - session.request.at_s
        if session.lost_at_s is not None:
            session.paused_s += now_s - session.lost_at_s
            session.lost_at_s = None

    def _lose(self, session: Session, peer: Peer, notice_s: float) -> None:
        """A peer went, or stops serving, under a session."""
        self._running.stop(session)
        self._seating.release(session, peer)
        session.avoid.add(peer.spec.peer_id)
        if session.phase is not Phase.WAITING:
            session.lost_at_s = session.lost_at_s or self._events.now_s
            session.waiting_since_s = self._events.now_s + notice_s
            session.n_recoveries += 1
        session.phase = Phase.WAITING
        if not self._policy.survives:
            if session.first_token_s is not None:
                self._end(session, "lost")
                return
            self._seating.release_all(session)
            session.prompt_left = session.request.n_prompt
        ticket, retry_s = session.ticket, self._settings.retry_s
        self._events.after(notice_s, lambda: self._seek(session, ticket, retry_s))

    def _hand_over_all(self, peer: Peer) -> None:
        """A peer drains: its sessions leave it one after the other."""
        sessions, visit = list(peer.sessions.values()), peer.visit
        gap_s = self._settings.drain_s / 2 / max(1, len(sessions))
        for i, session in enumerate(sessions):
            self._plan_hand_over(session, peer, visit, i * gap_s)

    def _plan_hand_over(self, session: Session, peer: Peer, visit: int, after_s: float) -> None:
        self._events.after(after_s, lambda: self._hand_over(session, peer, visit))

    def _hand_over(self, session: Session, peer: Peer, visit: int) -> None:
        """Move one session from a peer that goes to others, while both are there."""
        if peer.visit != visit or session.id not in peer.sessions:
            return
        if session.phase not in (Phase.DECODE, Phase.PREFILL):
            self._plan_hand_over(session, peer, visit, self._settings.retry_s)
            return
        self._running.settle(session)
        seats = session.seats
        old = [seat for seat in seats if seat.peer_id == peer.spec.peer_id]
        session.avoid.add(peer.spec.peer_id)
        session.seats = [seat for seat in seats if seat not in old]
        found, spent_s = self._seating.find(session)
        session.seats = seats
        if found is None:
            session.avoid.clear()
            self._plan_hand_over(session, peer, visit, 4 * self._settings.retry_s)
            return
        session.lost_at_s = self._events.now_s
        self._running.stop(session)
        self._seating.release(session, peer)
        self._sit(session, found, spent_s)
        if session.replay_left > 0 and session.load is not None:
            # KV and journal go over as they are where that is faster than running it all again.
            row_s = handover_row_s(self._fleet.world, peer.spec, old)
            if row_s < float(np.max(np.maximum(session.load.alone_s, session.load.carry_s))):
                session.load = session.load.carried(row_s)

    def _end(self, session: Session, outcome: str) -> None:
        self._running.stop(session)
        session.phase = Phase.OVER
        self._seating.release_all(session)
        self._note(session, outcome)
        del self._all[session.id]

    def _note(self, session: Session, outcome: str) -> None:
        if session.first_token_s is not None:
            self.n_tokens += session.request.n_answer - ceil(session.tokens_left - 1e-9)
        total_s = self._events.now_s - session.request.at_s if outcome == "done" else None
        self.records.append(
            Record(
                session.request,
                outcome,
                session.first_token_s,
                total_s,
                session.n_recoveries,
                session.paused_s,
            )
        )
